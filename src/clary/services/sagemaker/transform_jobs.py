"""CreateTransformJob, DescribeTransformJob, ListTransformJobs, StopTransformJob.

Each records what is wanted and returns; `controllers.transforms` makes it so. Status is derived, never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain import transform_path
from clary.domain.containers import ExecutionMode
from clary.domain.endpoint import Variant
from clary.domain.errors import Invalid, NotFound, NotReady, Unsupported
from clary.domain.fleet_name import TRANSFORM_JOB, TRANSFORM_VARIANT
from clary.domain.names import S3Uri, parse_s3_uri
from clary.domain.prices import PriceBook
from clary.domain.transform_job import TransformDesired, TransformJobStatus, TransformObserved, status
from clary.domain.transform_plan import (
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_S,
    PAYLOAD_MAX_MB,
    BatchStrategy,
    Format,
    Handling,
    SplitType,
    format_of,
)
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.sagemaker import models
from clary.services.sagemaker.deployments import containers_of
from clary.services.sagemaker.listing import query_of
from clary.store.codec import decode, encode
from clary.store.resources import Record, Resources, find, new_deployment_number

KIND = TRANSFORM_JOB
INSTANCES_MAX = 100
ENVIRONMENT_VALUE_CHARS = 10_240
STARTUP_TIMEOUT_S = 480  # 8 min, as for endpoints (container contract)
ECHOED = (
    "ModelName",
    "MaxConcurrentTransforms",
    "ModelClientConfig",
    "MaxPayloadInMB",
    "BatchStrategy",
    "Environment",
    "TransformInput",
    "TransformOutput",
    "TransformResources",
    "DataProcessing",
    "DataCaptureConfig",
    "ExperimentConfig",
)


def status_of(record: Record) -> TransformJobStatus:
    return status(decode(TransformDesired, record.desired), decode(TransformObserved, record.observed))


class TransformJobs:
    """The batch transform operations."""

    def __init__(self, resources: Resources, prices: PriceBook, now: Callable[[], datetime]) -> None:
        self._resources = resources
        self._prices = prices
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "CreateTransformJob": self.create_transform_job,
            "DescribeTransformJob": self.describe_transform_job,
            "ListTransformJobs": self.list_transform_jobs,
            "StopTransformJob": self.stop_transform_job,
        }

    async def create_transform_job(self, context: Context, request: Members) -> Members:
        name = request["TransformJobName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:CreateTransformJob", arn)
        _check_refused(request)
        source, output = _places(request)
        _authorize_data(context, source, output)
        captured = _capture_place(request)
        if captured is not None:
            _authorize_write(context, captured)
        handling = _handling(request)
        self._check_resources(request["TransformResources"])
        asked_at = self._now().isoformat()

        def desired(connection: Connection, uid: int) -> Mapping[str, Any]:
            model = find(connection, models.KIND, context.place, request["ModelName"])
            if model is None:
                raise NotFound(models.KIND, context.place.arn(models.KIND, request["ModelName"]))
            if models.mode_of(model.desired) is ExecutionMode.DIRECT:
                raise Invalid("ModelName", f"Model {model.name} runs its containers in Mode Direct: a job names none.")
            if len(models.containers(model.desired)) > 1 and handling.max_payload_mb == 0:
                raise Unsupported("MaxPayloadInMB 0 with a pipeline", "give the largest request in MB")
            if models.holds_many(model):
                raise Invalid("ModelName", f"Model {model.name} is MultiModel: a transform job takes one model.")
            encoded: Mapping[str, Any] = encode(
                TransformDesired(
                    number=new_deployment_number(connection, uid),
                    variant=_variant(request, model),
                    handling=handling,
                    source_type=request["TransformInput"]["DataSource"]["S3DataSource"]["S3DataType"],
                    source_uri=str(source),
                    output_uri=str(output),
                    capture_uri=str(captured or ""),
                    request=_echo(request),
                    asked_at=asked_at,
                )
            )
            return encoded

        await self._resources.create(
            KIND,
            context.place,
            name,
            desired,
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=request.get("Tags", ()),
        )
        return {"TransformJobArn": arn}

    def _check_resources(self, asked: Members) -> None:
        kind, count = asked["InstanceType"], asked["InstanceCount"]
        if kind not in self._prices.instances:
            known = ", ".join(sorted(self._prices.instances))
            raise Invalid("InstanceType", f"{kind} is not in the price catalogue; it has {known}.")
        if count > INSTANCES_MAX:
            raise Invalid("InstanceCount", f"InstanceCount {count} is larger than {INSTANCES_MAX}.")

    async def describe_transform_job(self, context: Context, request: Members) -> Members:
        name = request["TransformJobName"]
        context.authorize("sagemaker:DescribeTransformJob", context.place.arn(KIND, name))
        record = await self._resources.get(KIND, context.place, name)
        observed = decode(TransformObserved, record.observed)
        return present(
            TransformJobName=record.name,
            TransformJobArn=record.place.arn(KIND, record.name),
            TransformJobStatus=status_of(record).value,
            FailureReason=observed.failure_reason or None,
            CreationTime=record.created_at,
            TransformStartTime=_time(observed.started_at),
            TransformEndTime=_time(observed.ended_at),
            **record.desired["request"],
        )

    async def list_transform_jobs(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:ListTransformJobs", "*")
        wanted = request.get("StatusEquals")
        query = query_of(request)
        by_status = request.get("SortBy") == "Status"
        records, following = await self._resources.list(
            KIND,
            context.place,
            query,
            1 << 30 if by_status else request.get("MaxResults", 10),
            None if by_status else page_position(request.get("NextToken")),
            keep=(lambda record: status_of(record) == wanted) if wanted else None,
        )
        if by_status:
            records, following = _by_status(records, query.descending, request)
        return present(TransformJobSummaries=[_summary(record) for record in records], NextToken=page_token(following))

    async def stop_transform_job(self, context: Context, request: Members) -> Members:
        name = request["TransformJobName"]
        context.authorize("sagemaker:StopTransformJob", context.place.arn(KIND, name))

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            state = status_of(record)
            if state is TransformJobStatus.STOPPING:
                return None
            if state is not TransformJobStatus.IN_PROGRESS:
                raise NotReady(KIND, record.name, state=state.value)
            changed: Mapping[str, Any] = encode(replace(decode(TransformDesired, record.desired), stopped=True))
            return changed

        await self._resources.change(KIND, context.place, name, decide)
        return {}


# -- a request, checked ---------------------------------------------------------------------------------


def _check_refused(request: Members) -> None:
    for outer, member in (
        ("TransformOutput", "KmsKeyId"),
        ("TransformResources", "VolumeKmsKeyId"),
        ("DataCaptureConfig", "KmsKeyId"),
    ):
        if request.get(outer, {}).get(member):
            raise Unsupported(member, f"data is not encrypted with KMS keys here; leave {member} out")
    if request.get("DataCaptureConfig", {}).get("GenerateInferenceId"):
        raise Unsupported("GenerateInferenceId", "join the input to the output by DataProcessing; leave it out")
    kind = request["TransformInput"]["DataSource"]["S3DataSource"]["S3DataType"]
    if kind not in ("S3Prefix", "ManifestFile"):
        raise Invalid("S3DataType", f"S3DataType {kind} is not allowed for transform jobs: S3Prefix or ManifestFile.")
    for key, value in request.get("Environment", {}).items():
        if len(value) > ENVIRONMENT_VALUE_CHARS:
            raise Invalid("Environment", f"The value of {key} is longer than {ENVIRONMENT_VALUE_CHARS} characters.")


def _places(request: Members) -> tuple[S3Uri, S3Uri]:
    """Where inputs come from and outputs go."""
    found = []
    for member, uri in (
        ("S3Uri", request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]),
        ("S3OutputPath", request["TransformOutput"]["S3OutputPath"]),
    ):
        place = parse_s3_uri(uri)
        if place is None:
            raise Invalid(member, f"{member} {uri} is not served: only s3:// URIs are.")
        found.append(place)
    return found[0], found[1]


def _capture_place(request: Members) -> S3Uri | None:
    """Where DataCaptureConfig's manifests go."""
    uri = request.get("DataCaptureConfig", {}).get("DestinationS3Uri")
    if uri is None:
        return None
    place = parse_s3_uri(uri)
    if place is None:
        raise Invalid("DestinationS3Uri", f"DestinationS3Uri {uri} is not served: only s3:// URIs are.")
    return place


def _authorize_data(context: Context, source: S3Uri, output: S3Uri) -> None:
    """The job acts with the rights of who creates it, as they are now."""
    context.authorize("s3:ListBucket", f"arn:aws:s3:::{source.bucket}")
    context.authorize("s3:GetObject", f"arn:aws:s3:::{source.bucket}/{source.key}*")
    _authorize_write(context, output)


def _authorize_write(context: Context, place: S3Uri) -> None:
    folder = place.key.rstrip("/")
    context.authorize("s3:PutObject", f"arn:aws:s3:::{place.bucket}/{folder + '/' if folder else ''}*")


def _handling(request: Members) -> Handling:
    """Raises: Invalid for members that do not go together."""
    taken, given = request["TransformInput"], request["TransformOutput"]
    processing, client = request.get("DataProcessing", {}), request.get("ModelClientConfig", {})
    payload_mb, concurrent = request.get("MaxPayloadInMB"), request.get("MaxConcurrentTransforms", 0)
    if (payload_mb or 0) > PAYLOAD_MAX_MB:
        raise Invalid("MaxPayloadInMB", f"MaxPayloadInMB {payload_mb} is larger than {PAYLOAD_MAX_MB}.")
    if (payload_mb or 0) * concurrent > PAYLOAD_MAX_MB:
        raise Invalid(
            "MaxPayloadInMB",
            f"MaxConcurrentTransforms {concurrent} times MaxPayloadInMB {payload_mb} is larger than {PAYLOAD_MAX_MB}.",
        )
    strategy = request.get("BatchStrategy")
    handling = Handling(
        content_type=taken.get("ContentType", ""),
        accept=given.get("Accept", ""),
        compressed=taken.get("CompressionType", "None") == "Gzip",
        split=SplitType(taken.get("SplitType", "None")),
        strategy=BatchStrategy(strategy) if strategy else None,
        assemble_lines=given.get("AssembleWith", "None") == "Line",
        max_payload_mb=payload_mb,
        max_concurrent=concurrent,
        timeout_s=client.get("InvocationsTimeoutInSeconds", DEFAULT_TIMEOUT_S),
        max_retries=client.get("InvocationsMaxRetries", DEFAULT_RETRIES),
        input_filter=processing.get("InputFilter", "$"),
        output_filter=processing.get("OutputFilter", "$"),
        join=processing.get("JoinSource", "None") == "Input",
    )
    return _check_processing(handling) if handling.processes else handling


def _check_processing(handling: Handling) -> Handling:
    """DataProcessing's own rules; Accept follows ContentType where it was not given."""
    form = format_of(handling.content_type)
    if form is Format.OPAQUE:
        raise Invalid(
            "DataProcessing",
            f'DataProcessing needs a ContentType of text/csv, application/json or application/jsonlines, not "'
            f'{handling.content_type}".',
        )
    if handling.accept and format_of(handling.accept) is not form:
        raise Invalid(
            "Accept", f"With DataProcessing, Accept {handling.accept} must match ContentType {handling.content_type}."
        )
    if handling.split not in (SplitType.NONE, SplitType.LINE):
        raise Invalid("SplitType", f"SplitType {handling.split} cannot be combined with DataProcessing.")
    if handling.assemble_lines != (handling.split is SplitType.LINE):
        raise Invalid("AssembleWith", "With DataProcessing, AssembleWith must match SplitType.")
    if handling.max_payload_mb == 0:
        raise Invalid("MaxPayloadInMB", "MaxPayloadInMB 0 cannot be combined with DataProcessing.")
    for member, path in (("InputFilter", handling.input_filter), ("OutputFilter", handling.output_filter)):
        steps = transform_path.parse(path)
        if form is Format.CSV and not transform_path.only_positions(steps):
            raise Invalid(member, f"{member} {path}: CSV rows are arrays; name columns by position, as $[0,2].")
    return replace(handling, accept=handling.accept or handling.content_type)


def _variant(request: Members, model: Record) -> Variant:
    """The job's instances as a variant: the model's containers with the job's environment over each."""
    resources = request["TransformResources"]
    told = {"SAGEMAKER_BATCH": "true"}
    if request.get("MaxPayloadInMB") is not None:
        told["SAGEMAKER_MAX_PAYLOAD_IN_MB"] = str(request["MaxPayloadInMB"])
    if request.get("BatchStrategy"):
        single = request["BatchStrategy"] == BatchStrategy.SINGLE_RECORD
        told["SAGEMAKER_BATCH_STRATEGY"] = "SINGLE_RECORD" if single else "MULTI_RECORD"
    if request.get("MaxConcurrentTransforms"):
        told["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] = str(request["MaxConcurrentTransforms"])
    told = {**request.get("Environment", {}), **told}
    containers = tuple(replace(one, environment={**one.environment, **told}) for one in containers_of(model))
    return Variant(
        name=TRANSFORM_VARIANT,
        model_name=model.name,
        container=containers[0],
        further=containers[1:],
        role_arn=model.desired.get("ExecutionRoleArn", ""),
        instance_type=resources["InstanceType"],
        instance_count=resources["InstanceCount"],
        startup_timeout_s=STARTUP_TIMEOUT_S,
        network_isolation=model.desired.get("EnableNetworkIsolation", False),
    )


def _echo(request: Members) -> Members:
    """What Describe gives back: the request's members, with the defaults that AWS fills in."""
    told = {member: request[member] for member in ECHOED if member in request}
    told["TransformInput"] = {"CompressionType": "None", "SplitType": "None", **request["TransformInput"]}
    told["TransformOutput"] = {"AssembleWith": "None", **request["TransformOutput"]}
    told["DataProcessing"] = {
        "InputFilter": "$",
        "OutputFilter": "$",
        "JoinSource": "None",
        **request.get("DataProcessing", {}),
    }
    return told


# -- answers --------------------------------------------------------------------------------------------


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _summary(record: Record) -> Members:
    observed = decode(TransformObserved, record.observed)
    return present(
        TransformJobName=record.name,
        TransformJobArn=record.place.arn(KIND, record.name),
        CreationTime=record.created_at,
        TransformEndTime=_time(observed.ended_at),
        LastModifiedTime=record.modified_at,
        TransformJobStatus=status_of(record).value,
        FailureReason=observed.failure_reason or None,
    )


def _by_status(records: list[Record], descending: bool, request: Members) -> tuple[list[Record], list[Any] | None]:
    """A page of all records in the order of their derived status, then of their making."""
    ordered = sorted(records, key=lambda record: (status_of(record).value, record.uid), reverse=descending)
    position = page_position(request.get("NextToken"))
    first = int(position[0]) if position else 0
    last = first + request.get("MaxResults", 10)
    return ordered[first:last], [last, 0] if last < len(ordered) else None
