"""Event source mappings: a queue whose messages a function gets in batches. Pure.

Source: Lambda developer guide, "Using Lambda with Amazon SQS".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clary.domain.names import Place, partition

MAPPING = "event-source-mapping"
DEFAULT_BATCH = 10
MAX_BATCH = 10  # without a batching window
PARTIAL = "ReportBatchItemFailures"


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """What is wanted of one."""

    queue_arn: str
    function_arn: str
    batch: int = DEFAULT_BATCH
    enabled: bool = True
    partial: bool = False  # the answer names the messages that failed


def mapping_arn(place: Place, uuid: str) -> str:
    return f"arn:{partition(place.region)}:lambda:{place.region}:{place.account}:event-source-mapping:{uuid}"


def record(
    message_id: str,
    receipt: str,
    body: str,
    md5: str,
    system: Mapping[str, str],
    given: Mapping[str, Any],
    queue_arn: str,
) -> dict[str, Any]:
    """One message as a function gets it. `given` are the message's attributes as SQS has them."""
    return {
        "messageId": message_id,
        "receiptHandle": receipt,
        "body": body,
        "attributes": dict(system),
        "messageAttributes": {name: _attribute(value) for name, value in given.items()},
        "md5OfBody": md5,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if value.get("BinaryValue") is not None:
        told["binaryValue"] = base64.b64encode(bytes(value["BinaryValue"])).decode()
    else:
        told["stringValue"] = value.get("StringValue", "")
    return told


def done(sent: Iterable[str], answer: bytes, partial: bool) -> set[str]:
    """The ids of a batch that are done, after a function has succeeded: all, but for those that its answer names.

    An answer that cannot be read, or names an id that was not sent, leaves the whole batch (the guide's own rule).
    """
    ids = set(sent)
    if not partial:
        return ids
    try:
        told = json.loads(answer)
    except ValueError:
        return set()
    if told is None:
        return ids
    failures = told.get("batchItemFailures") if isinstance(told, dict) else None
    if failures is None:
        return ids if told == {} else set()
    if not isinstance(failures, list):
        return set()
    named = {one.get("itemIdentifier") if isinstance(one, dict) else None for one in failures}
    return ids - named if named <= ids else set()
