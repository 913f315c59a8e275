"""SQS's rules for queues and messages: attributes, digests, what a redrive policy says. Pure.

Figures: SQS developer guide, "Amazon SQS message quotas" and "SetQueueAttributes".
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import Place, partition

NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
MAX_MESSAGE_BYTES = 1_048_576
MAX_BATCH = 10
# Attribute -> (default, smallest, largest).
NUMBERS = {
    "DelaySeconds": (0, 0, 900),
    "MaximumMessageSize": (MAX_MESSAGE_BYTES, 1024, MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": (345_600, 60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 0, 20),
    "VisibilityTimeout": (30, 0, 43_200),
}
# Kept and shown, without effect here; the reason is told in the documentation.
RECORDED = ("Policy", "RedriveAllowPolicy")
REFUSED = {
    "FifoQueue": "queues are standard queues here: leave FifoQueue and the .fifo ending out",
    "ContentBasedDeduplication": "that belongs to FIFO queues",
    "DeduplicationScope": "that belongs to FIFO queues",
    "FifoThroughputLimit": "that belongs to FIFO queues",
    "KmsMasterKeyId": "messages are not encrypted with KMS keys here",
    "KmsDataKeyReusePeriodSeconds": "messages are not encrypted with KMS keys here",
}
# What XML 1.0 can say (SQS API reference, SendMessage).
_UNSENDABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Redrive:
    """Where a message goes that was received `most` times and not deleted."""

    arn: str
    most: int


def queue_arn(place: Place, name: str) -> str:
    return f"arn:{partition(place.region)}:sqs:{place.region}:{place.account}:{name}"


def name_of_arn(arn: str) -> tuple[Place, str] | None:
    """(place, name) of a queue's ARN; None when it is none."""
    parts = arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "sqs" or not parts[5]:
        return None
    return Place(parts[4], parts[3]), parts[5]


def check_name(name: str) -> None:
    """Raises: Invalid, Unsupported."""
    if name.endswith(".fifo"):
        raise Unsupported("a FIFO queue", REFUSED["FifoQueue"])
    if NAME.fullmatch(name) is None:
        raise Invalid(
            "QueueName",
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
            rule="InvalidParameterValue",
        )


def attributes(asked: Mapping[str, str]) -> dict[str, str]:
    """The attributes as they are kept. Raises: Invalid, Unsupported."""
    kept: dict[str, str] = {}
    for name, text in asked.items():
        if name in NUMBERS:
            _, smallest, largest = NUMBERS[name]
            if not text.isdigit() or not smallest <= int(text) <= largest:
                raise Invalid(name, f"Invalid value for the parameter {name}.", rule="InvalidAttributeValue")
            kept[name] = str(int(text))
        elif name == "RedrivePolicy":
            if text:
                redrive({"RedrivePolicy": text})
            kept[name] = text
        elif name in RECORDED:
            kept[name] = text
        elif name == "SqsManagedSseEnabled":
            if text.lower() == "true":
                raise Unsupported("SqsManagedSseEnabled", "messages lie in clary's own database; leave it out")
        elif name in REFUSED:
            if text and text.lower() != "false":
                raise Unsupported(name, REFUSED[name])
        else:
            raise Invalid(name, f"Unknown Attribute {name}.", rule="InvalidAttributeName")
    return kept


def number(kept: Mapping[str, str], name: str) -> int:
    return int(kept.get(name, NUMBERS[name][0]))


def redrive(kept: Mapping[str, str]) -> Redrive | None:
    """The queue's RedrivePolicy. Raises: Invalid."""
    text = kept.get("RedrivePolicy", "")
    if not text:
        return None
    try:
        found = json.loads(text)
        policy = Redrive(str(found["deadLetterTargetArn"]), int(found["maxReceiveCount"]))
    except (ValueError, KeyError, TypeError):
        policy = Redrive("", 0)
    if name_of_arn(policy.arn) is None or not 1 <= policy.most <= 1000:
        raise Invalid(
            "RedrivePolicy",
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: it takes deadLetterTargetArn, the ARN of a "
            "queue, and maxReceiveCount, 1 to 1000.",
            rule="InvalidAttributeValue",
        )
    return policy


def check_message(body: str, given: Mapping[str, Any], largest_bytes: int) -> None:
    """Raises: Invalid."""
    if not body:
        raise Invalid("MessageBody", "The request must contain the parameter MessageBody.", rule="MissingParameter")
    if _UNSENDABLE.search(body):
        raise Invalid("MessageBody", "Invalid characters found.", rule="InvalidMessageContents")
    size = len(body.encode()) + sum(_size(name, value) for name, value in given.items())
    if size > largest_bytes:
        raise Invalid(
            "MessageBody",
            f"One or more parameters are invalid. Reason: Message must be shorter than {largest_bytes} bytes.",
            rule="InvalidParameterValue",
        )
    if len(given) > 10:
        raise Invalid(
            "MessageAttributes", f"Number of message attributes [{len(given)}] exceeds the allowed maximum [10]."
        )
    for name, value in given.items():
        kind = value["DataType"].partition(".")[0]
        if kind not in ("String", "Number", "Binary"):
            raise Invalid(name, f"The message attribute '{name}' has an invalid message attribute type.")
        if (value.get("BinaryValue") is not None) != (kind == "Binary"):
            raise Invalid(name, f"The message attribute '{name}' must contain a value of its type {value['DataType']}.")


def _size(name: str, value: Mapping[str, Any]) -> int:
    return len(name.encode()) + len(value["DataType"].encode()) + len(_raw(value))


def _raw(value: Mapping[str, Any]) -> bytes:
    binary = value.get("BinaryValue")
    return bytes(binary) if binary is not None else str(value.get("StringValue", "")).encode()


def md5_of_body(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def md5_of_attributes(given: Mapping[str, Any]) -> str | None:
    """SQS developer guide, "Calculating the MD5 message digest for message attributes"; None without any."""
    if not given:
        return None
    digest = hashlib.md5(usedforsecurity=False)
    for name, value in sorted(given.items()):
        for part in (name.encode(), value["DataType"].encode()):
            digest.update(struct.pack(">I", len(part)) + part)
        raw = _raw(value)
        digest.update(b"\x02" if value.get("BinaryValue") is not None else b"\x01")
        digest.update(struct.pack(">I", len(raw)) + raw)
    return digest.hexdigest()


def stored_attributes(given: Mapping[str, Any]) -> str:
    """As JSON; binary values in base64."""
    kept = {}
    for name, value in given.items():
        binary = value.get("BinaryValue")
        kept[name] = {"DataType": value["DataType"]} | (
            {"StringValue": value.get("StringValue", "")}
            if binary is None
            else {"Base64": base64.b64encode(bytes(binary)).decode()}
        )
    return json.dumps(kept)


def read_attributes(text: str) -> dict[str, Any]:
    found = {}
    for name, value in json.loads(text or "{}").items():
        if "Base64" in value:
            found[name] = {"DataType": value["DataType"], "BinaryValue": base64.b64decode(value["Base64"])}
        else:
            found[name] = dict(value)
    return found


def chosen(given: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, Any]:
    """The attributes that MessageAttributeNames asks for: names, prefixes ending in ".*", or All."""
    names = list(wanted)
    if "All" in names or ".*" in names:
        return dict(given)
    prefixes = tuple(name[:-2] for name in names if name.endswith(".*"))
    return {name: value for name, value in given.items() if name in names or (prefixes and name.startswith(prefixes))}
