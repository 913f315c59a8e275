"""Invoke: now and with the answer, or later and at least once."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Protocol

from clary.domain.errors import Invalid, NotReady
from clary.domain.functions import ATTEMPTS, FUNCTION, LATEST, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, function_arn
from clary.services.base import Context, Members, present
from clary.services.functions.room import Room, desired_of, observed_of
from clary.store.calls import Call, Calls, Terms
from clary.store.resources import Record, Resources


class Ran(Protocol):
    """How an invocation went: FunctionError or "", what it returned, the end of its log."""

    @property
    def error(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def log_tail(self) -> str: ...


class Runs(Protocol):
    """Where functions run. `check_room` raises LimitExceeded, `invoke` StoreFailed."""

    def check_room(self) -> None: ...
    def invoke(self, record: Record, event: bytes, request_id: str) -> Awaitable[Ran]: ...


class Invocations(Room):
    """See the module."""

    def __init__(self, resources: Resources, runs: Runs, calls: Calls, new_id: Callable[[], str]) -> None:
        super().__init__(resources)
        self._runs = runs
        self._calls = calls
        self._new_id = new_id
        self.operations = {"Invoke": self.invoke}

    async def invoke(self, context: Context, request: Members) -> Members:
        record = await self.function(context, "InvokeFunction", request)
        kind = request.get("InvocationType", "RequestResponse")
        if kind == "DryRun":
            return {"StatusCode": 204}
        event = await _payload(request, MAX_EVENT_BYTES if kind == "Event" else MAX_PAYLOAD_BYTES)
        if kind == "Event":
            await self._calls.add([self._later(record, event)])
            return {"StatusCode": 202}
        observed, desired = observed_of(record), desired_of(record)
        if not observed.code_key:
            state = "Failed" if observed.failed_key == desired.code_key else "Pending"
            raise NotReady(FUNCTION, record.name, state=state, next_step=observed.reason or "wait until it is Active")
        self._runs.check_room()
        ran = await self._runs.invoke(record, event, context.request_id)
        tail = base64.b64encode(ran.log_tail.encode()).decode() if request.get("LogType") == "Tail" else None
        return present(
            StatusCode=200,
            FunctionError=ran.error or None,
            LogResult=tail,
            Payload=ran.payload,
            ExecutedVersion=LATEST,
        )

    def _later(self, record: Record, event: bytes) -> Call:
        terms = Terms(retries=ATTEMPTS - 1, max_age_s=6 * 3600)
        return Call(self._new_id(), record.place, function_arn(record.place, record.name), event.decode(), terms)


async def _payload(request: Members, most_bytes: int) -> bytes:
    """The event, "{}" where there is none. Raises: Invalid."""
    stream = request.get("Payload")
    found = bytearray()
    if stream is None or isinstance(stream, (bytes, bytearray)):
        found += stream or b""
    else:
        async for piece in stream:
            found += piece
            if len(found) > most_bytes:
                break
    if len(found) > most_bytes:
        raise Invalid(
            "Payload",
            f"{len(found)} byte payload is too large for the invocation type (limit {most_bytes} bytes)",
            rule="RequestTooLargeException",
        )
    event = bytes(found) or b"{}"
    try:
        json.loads(event)
    except ValueError as error:
        text = f"Could not parse request body into json: {error}"
        raise Invalid("Payload", text, rule="InvalidRequestContentException") from error
    return event
