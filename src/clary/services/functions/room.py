"""What the rooms of Lambda share: finding a function, and showing it as AWS does."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from clary.domain.errors import NotFound
from clary.domain.functions import (
    FUNCTION,
    LATEST,
    FunctionDesired,
    FunctionObserved,
    function_arn,
    parse_name,
    state,
)
from clary.services.base import Context, Handler, Members, present
from clary.store.codec import decode
from clary.store.resources import Record, Resources


class Room:
    """The base of one group of operations."""

    operations: Mapping[str, Handler]

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    async def function(self, context: Context, action: str, request: Members) -> Record:
        """The function that a request names. Raises: AccessDenied, NotFound, Invalid, Unsupported."""
        place, name = parse_name(request["FunctionName"], context.place, request.get("Qualifier", ""))
        arn = function_arn(place, name)
        context.authorize(f"lambda:{action}", arn)
        record = await self.resources.find(FUNCTION, place, name)
        if record is None or record.name != name or desired_of(record).deleted:
            raise NotFound(FUNCTION, arn)
        return record


def desired_of(record: Record) -> FunctionDesired:
    return decode(FunctionDesired, record.desired)


def observed_of(record: Record) -> FunctionObserved:
    return decode(FunctionObserved, record.observed)


def described(record: Record) -> Members:
    """FunctionConfiguration."""
    desired, observed = desired_of(record), observed_of(record)
    now_is, update = state(desired, observed)
    reason = observed.reason if "Failed" in (now_is, update) or now_is == "Pending" else ""
    told: dict[str, Any] = {
        "FunctionName": record.name,
        "FunctionArn": function_arn(record.place, record.name),
        "Runtime": desired.runtime,
        "Role": desired.role_arn,
        "Handler": desired.handler,
        "CodeSize": desired.code_bytes,
        "Description": desired.description,
        "Timeout": desired.timeout_s,
        "MemorySize": desired.memory_mib,
        "LastModified": desired.modified_at,
        "CodeSha256": base64.b64encode(bytes.fromhex(desired.code_sha256)).decode(),
        "Version": LATEST,
        "Environment": {"Variables": desired.environment} if desired.environment else None,
        "DeadLetterConfig": {"TargetArn": desired.dead_letter_arn} if desired.dead_letter_arn else None,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": desired.revision,
        "State": now_is,
        "StateReason": (reason or "The function is being created.") if now_is in ("Pending", "Failed") else None,
        "StateReasonCode": {"Pending": "Creating", "Failed": "InternalError"}.get(now_is),
        "LastUpdateStatus": update,
        "LastUpdateStatusReason": reason or None if update == "Failed" else None,
        "LastUpdateStatusReasonCode": "InternalError" if update == "Failed" else None,
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{record.name}"},
    }
    return present(**told)
