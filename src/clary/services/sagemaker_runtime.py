"""The `sagemaker-runtime` service, as far as control has a part in it: InvokeEndpointAsync.

The other operations are the data plane's and never come here. An invocation is accepted when its row is on the disk;
`controllers.asynchronous` does the rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime

from clary.domain.asynchronous import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_TTL_S,
    MAX_INLINE_BYTES,
    AsyncConfig,
    Invocation,
    failure_uri,
    output_uri,
)
from clary.domain.endpoint import EndpointStatus
from clary.domain.errors import ClaryError, Invalid, LimitExceeded, StoreFailed
from clary.domain.names import parse_s3_uri
from clary.services.base import Context, Handler, Members, common_error, present
from clary.services.sagemaker.deployments import observed_of
from clary.services.sagemaker.endpoints import KIND, status_of
from clary.store.invocations import Invocations
from clary.store.resources import Record, Resources
from clary.wire.errors import WireError
from clary.wire.http import Request


class SageMakerRuntime:
    """See the module. `has_disk` says why the disk takes nothing more; "" while it does."""

    name = "sagemaker-runtime"

    def __init__(
        self,
        resources: Resources,
        invocations: Invocations,
        now: Callable[[], datetime],
        has_disk: Callable[[], str],
    ) -> None:
        self._resources = resources
        self._invocations = invocations
        self._now = now
        self._has_disk = has_disk
        self.operations: Mapping[str, Handler] = {"InvokeEndpointAsync": self.invoke_endpoint_async}

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case LimitExceeded() | StoreFailed():
                return WireError("ServiceUnavailable", 503, f"{error}.", headers={"Retry-After": "1"})
            case _:
                return common_error(error, invalid="ValidationError")

    def at_the_door(self, head: Request) -> None:
        """Refuses what cannot be queued before its body is read. Raises: WireError."""
        if head.target.partition(b"?")[0].endswith(b"/async-invocations"):
            try:
                self._check_room()
            except ClaryError as error:
                raise self.wire_error(error) from error

    def _check_room(self) -> None:
        """Raises: LimitExceeded, StoreFailed."""
        self._invocations.check_room()
        if full := self._has_disk():
            raise StoreFailed("queueing the request", detail=full)

    async def invoke_endpoint_async(self, context: Context, request: Members) -> Members:
        name = request["EndpointName"]
        context.authorize("sagemaker:InvokeEndpointAsync", context.place.arn(KIND, name))
        self._check_room()
        record = await self._resources.find(KIND, context.place, name)
        if record is None or record.name != name:
            raise Invalid("EndpointName", f"Endpoint {name} of account {context.place.account} not found.")
        config = _config(record)
        body = bytes(request.get("Body") or b"")
        if len(body) > MAX_INLINE_BYTES:
            raise _too_large(len(body))
        location = request.get("InputLocation", "")
        if location and body:
            raise Invalid("Body", "InputLocation and Body exclude each other; give one of them.")
        if not location and not body:
            raise Invalid("InputLocation", "The request needs an InputLocation, or a Body of up to 128,000 bytes.")
        if location:
            _check_location(context, location)
        invocation = self._invocation(record, config, request, location, body)
        await self._invocations.accept(invocation)
        return present(
            InferenceId=invocation.inference_id,
            OutputLocation=invocation.output_uri,
            FailureLocation=invocation.failure_uri or None,
        )

    def _invocation(
        self, record: Record, config: AsyncConfig, request: Members, location: str, body: bytes
    ) -> Invocation:
        inference_id = request.get("InferenceId") or str(uuid.uuid4())
        received_us = round(self._now().timestamp() * 1_000_000)
        return Invocation(
            id=uuid.uuid4().hex,
            region=record.place.region,
            endpoint=record.name,
            endpoint_uid=record.uid,
            config=config,
            inference_id=inference_id,
            input_uri=location,
            content_type=request.get("ContentType", ""),
            accept=request.get("Accept", ""),
            custom_attributes=request.get("CustomAttributes", ""),
            output_uri=output_uri(
                config.output_path, request.get("S3OutputPathExtension", ""), request.get("Filename", ""), inference_id
            ),
            failure_uri=failure_uri(config.failure_path, inference_id),
            received_us=received_us,
            expires_us=received_us + request.get("RequestTTLSeconds", DEFAULT_TTL_S) * 1_000_000,
            timeout_s=request.get("InvocationTimeoutSeconds", DEFAULT_TIMEOUT_S),
            body=body,
        )


def _config(record: Record) -> AsyncConfig:
    """The configuration in force. Raises: Invalid where there is none, or nothing is served."""
    serving = observed_of(record).serving
    state = status_of(record)
    if serving is None or state in (EndpointStatus.DELETING, EndpointStatus.FAILED):
        raise Invalid("EndpointName", f"Endpoint {record.name} is {state.value}; it takes no invocations.")
    if serving.asynchronous is None:
        raise Invalid(
            "EndpointName", f"Endpoint {record.name} has no AsyncInferenceConfig; use InvokeEndpoint instead."
        )
    return serving.asynchronous


def _check_location(context: Context, location: str) -> None:
    uri = parse_s3_uri(location)
    if uri is None or not uri.key:
        raise Invalid("InputLocation", f"{location} is not s3://BUCKET/KEY; other places are not read.")
    context.authorize("s3:GetObject", f"arn:aws:s3:::{uri.bucket}/{uri.key}")


def _too_large(size: int) -> Invalid:
    return Invalid(
        "Body",
        f"1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length less than "
        f"or equal to {MAX_INLINE_BYTES}; {size} bytes came. Upload it and give its InputLocation instead.",
    )
