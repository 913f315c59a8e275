"""Bucket notifications: which changes of a bucket are told to whom, and the documents that are told. Pure.

Source: S3 user guide, "Event message structure" and "Using EventBridge" (the detail of "Object Created").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any
from urllib.parse import quote_plus

from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import partition

# Member of NotificationConfiguration -> the member that names its target.
TARGETS = {
    "LambdaFunctionConfigurations": "LambdaFunctionArn",
    "QueueConfigurations": "QueueArn",
    "TopicConfigurations": "TopicArn",
}
EVENT_BRIDGE = "EventBridgeConfiguration"
CREATED = ("Put", "Copy", "CompleteMultipartUpload")
SERVED = (
    "s3:ObjectCreated:*",
    *(f"s3:ObjectCreated:{how}" for how in CREATED),
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
)
# Ways of creating and removing that do not exist here: they may be asked for and never happen.
NEVER = ("s3:ObjectCreated:Post", "s3:ObjectRemoved:DeleteMarkerCreated")
_REASONS = {
    "ObjectCreated:Put": "PutObject",
    "ObjectCreated:Copy": "CopyObject",
    "ObjectCreated:CompleteMultipartUpload": "CompleteMultipartUpload",
    "ObjectRemoved:Delete": "DeleteObject",
}


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One change of an object. `event` is like "ObjectCreated:Put"; `number` grows with every change of the store."""

    number: int
    event: str
    bucket: str
    region: str
    key: str
    size_bytes: int
    etag: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Rule:
    """One configuration: told about `events` of keys with that prefix and suffix. `arn` is "" for EventBridge."""

    id: str
    arn: str
    events: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""

    def takes(self, event: str, key: str) -> bool:
        named = f"s3:{event}" in self.events or f"s3:{event.partition(':')[0]}:*" in self.events
        return named and key.startswith(self.prefix) and key.endswith(self.suffix)


def rules_of(configuration: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a NotificationConfiguration. Raises: Invalid (rule InvalidArgument), Unsupported."""
    found = []
    for member, target in TARGETS.items():
        for one in configuration.get(member) or []:
            prefix, suffix = _filter(one)
            found.append(Rule(one.get("Id", ""), one[target], _events(one["Events"]), prefix, suffix))
    for one, other in combinations(found, 2):
        if _overlap(one, other):
            raise Invalid(
                "NotificationConfiguration",
                "Configurations overlap. Configurations on the same bucket cannot share a common event type.",
                rule="InvalidArgument",
            )
    if EVENT_BRIDGE in configuration:
        found.append(Rule("", "", ("s3:ObjectCreated:*", "s3:ObjectRemoved:*")))
    return tuple(found)


def _events(asked: list[str]) -> tuple[str, ...]:
    for event in asked:
        if event not in SERVED and event not in NEVER:
            raise Unsupported(f"the event {event}", f"served are {', '.join(SERVED)}")
    return tuple(asked)


def _filter(one: Mapping[str, Any]) -> tuple[str, str]:
    found = {"prefix": "", "suffix": ""}
    for rule in ((one.get("Filter") or {}).get("Key") or {}).get("FilterRules") or []:
        name = str(rule.get("Name", "")).lower()
        if name not in found:
            why = "filter rule name must be either prefix or suffix"
            raise Invalid("FilterRule", why, rule="InvalidArgument")
        found[name] = rule.get("Value", "")
    return found["prefix"], found["suffix"]


def _overlap(one: Rule, other: Rule) -> bool:
    if not any(_common(a, b) for a in one.events for b in other.events):
        return False
    prefixes = one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    suffixes = one.suffix.endswith(other.suffix) or other.suffix.endswith(one.suffix)
    return prefixes and suffixes


def _common(one: str, other: str) -> bool:
    return one == other or (one.rpartition(":")[0] == other.rpartition(":")[0] and "*" in (one[-1], other[-1]))


def sequencer(number: int) -> str:
    """Sixteen hexadecimal digits that grow with every change."""
    return f"{number:016X}"


def record(told: ObjectEvent, rule_id: str, account: str) -> dict[str, Any]:
    """The document {"Records": [...]} that functions, queues and topics get."""
    one: dict[str, Any] = {"key": quote_plus(told.key, safe="/")}
    if told.event.startswith("ObjectCreated"):
        one |= {"size": told.size_bytes, "eTag": told.etag}
    one["sequencer"] = sequencer(told.number)
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": told.region,
                "eventTime": told.at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{told.at.microsecond // 1000:03d}Z",
                "eventName": told.event,
                "userIdentity": {"principalId": account},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {"x-amz-request-id": sequencer(told.number), "x-amz-id-2": told.bucket},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": rule_id,
                    "bucket": {
                        "name": told.bucket,
                        "ownerIdentity": {"principalId": account},
                        "arn": f"arn:{partition(told.region)}:s3:::{told.bucket}",
                    },
                    "object": one,
                },
            }
        ]
    }


def detail(told: ObjectEvent, account: str) -> tuple[str, dict[str, Any]]:
    """(detail-type, detail) of the event that EventBridge gets."""
    created = told.event.startswith("ObjectCreated")
    one: dict[str, Any] = {"key": told.key}
    if created:
        one |= {"size": told.size_bytes, "etag": told.etag}
    one["sequencer"] = sequencer(told.number)
    body: dict[str, Any] = {
        "version": "0",
        "bucket": {"name": told.bucket},
        "object": one,
        "request-id": sequencer(told.number),
        "requester": account,
        "reason": _REASONS[told.event],
    }
    if not created:
        body["deletion-type"] = "Permanently Deleted"
    return "Object Created" if created else "Object Deleted", body
