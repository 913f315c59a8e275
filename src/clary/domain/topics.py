"""SNS's rules: names, envelopes, filter policies, and which addresses a webhook may have. Pure.

A notification is not signed: Signature, SigningCertURL and SignatureVersion are left out rather than filled with what
no certificate of AWS's could verify.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import Place, partition

NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
MAX_MESSAGE_BYTES = 262_144
PROTOCOLS = ("sqs", "http", "https")
BACKOFF_S = (1, 2, 5, 20, 60, 300, 900, 3600)  # after that many failures a delivery is dropped

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Notification:
    """One published message."""

    message_id: str
    topic_arn: str
    message: str
    at: datetime
    subject: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def topic_arn(place: Place, name: str) -> str:
    return f"arn:{partition(place.region)}:sns:{place.region}:{place.account}:{name}"


def parse_topic_arn(arn: str) -> tuple[Place, str]:
    """(place, name). Raises: Invalid."""
    parts = arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "sns" or not parts[5]:
        raise Invalid("TopicArn", f"Invalid parameter: TopicArn Reason: {arn} is no topic's ARN")
    return Place(parts[4], parts[3]), parts[5]


def check_name(name: str) -> None:
    """Raises: Invalid, Unsupported."""
    if name.endswith(".fifo"):
        raise Unsupported("a FIFO topic", "topics are standard topics here")
    if NAME.fullmatch(name) is None:
        raise Invalid("Name", "Invalid parameter: Topic Name")


def envelope(one: Notification, unsubscribe_url: str) -> str:
    """The JSON that a subscriber without raw delivery gets."""
    body: dict[str, Any] = {
        "Type": "Notification",
        "MessageId": one.message_id,
        "TopicArn": one.topic_arn,
    }
    if one.subject:
        body["Subject"] = one.subject
    body["Message"] = one.message
    body["Timestamp"] = timestamp(one.at)
    body["UnsubscribeURL"] = unsubscribe_url
    if one.attributes:
        body["MessageAttributes"] = {
            name: {"Type": value["DataType"], "Value": _text(value)} for name, value in one.attributes.items()
        }
    return json.dumps(body)


def confirmation(topic: str, token: str, message_id: str, at: datetime, subscribe_url: str) -> str:
    """The JSON by which an HTTP endpoint is asked whether it wants what it was subscribed to."""
    return json.dumps(
        {
            "Type": "SubscriptionConfirmation",
            "MessageId": message_id,
            "Token": token,
            "TopicArn": topic,
            "Message": f"You have chosen to subscribe to the topic {topic}.\nTo confirm the subscription, visit the "
            "SubscribeURL included in this message.",
            "SubscribeURL": subscribe_url,
            "Timestamp": timestamp(at),
        }
    )


def timestamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _text(value: Mapping[str, Any]) -> str:
    binary = value.get("BinaryValue")
    if binary is None:
        return str(value.get("StringValue", ""))
    return bytes(binary).hex()


def check_filter(text: str) -> None:
    """Raises: Invalid for a filter policy that is none, Unsupported for conditions that are not served."""
    try:
        policy = json.loads(text)
    except ValueError:
        policy = None
    if not isinstance(policy, dict):
        raise Invalid("FilterPolicy", "Invalid parameter: FilterPolicy: it is a JSON object of lists")
    for name, conditions in policy.items():
        if not isinstance(conditions, list) or not conditions:
            raise Invalid("FilterPolicy", f'Invalid parameter: FilterPolicy: "{name}" must be a non-empty list')
        for condition in conditions:
            if isinstance(condition, dict):
                keys = set(condition)
                if len(keys) != 1 or not keys <= {"prefix", "suffix", "anything-but", "numeric", "exists"}:
                    raise Unsupported(
                        f"a filter condition {sorted(keys)}", "prefix, suffix, anything-but, numeric and exists are"
                    )


def passes(text: str, attributes: Mapping[str, Any]) -> bool:
    """Whether a message's attributes satisfy a filter policy: of every name at least one condition."""
    if not text:
        return True
    policy: Mapping[str, list[Any]] = json.loads(text)
    return all(_any(conditions, attributes.get(name)) for name, conditions in policy.items())


def _any(conditions: Iterable[Any], attribute: Mapping[str, Any] | None) -> bool:
    return any(_holds(condition, value) for condition in conditions for value in _values(attribute))


def _values(attribute: Mapping[str, Any] | None) -> list[Any]:
    """What an attribute says: each item of a String.Array, a number as such; one None where there is none."""
    if attribute is None:
        return [None]
    text = attribute.get("StringValue", "")
    if attribute["DataType"] == "String.Array":
        try:
            found = json.loads(text)
        except ValueError:
            return [text]
        return found if isinstance(found, list) and found else [text]
    if attribute["DataType"].partition(".")[0] == "Number":
        try:
            return [float(text)]
        except ValueError:
            return [text]
    return [text]


def _holds(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        return value is not None and (value == condition)
    ((kind, wanted),) = condition.items()
    match kind:
        case "exists":
            return (value is not None) == bool(wanted)
        case "prefix":
            return isinstance(value, str) and value.startswith(wanted)
        case "suffix":
            return isinstance(value, str) and value.endswith(wanted)
        case "anything-but":
            return value is not None and not _excluded(wanted, value)
        case _:
            return isinstance(value, (int, float)) and _within(wanted, value)


def _excluded(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, dict):
        return any(_holds({kind: text}, value) for kind, text in wanted.items())
    return value in wanted if isinstance(wanted, list) else value == wanted


def _within(terms: list[Any], value: float) -> bool:
    """["=", 1], [">", 0, "<=", 5]."""
    pairs = zip(terms[::2], terms[1::2], strict=False)
    checks = {"=": value.__eq__, "<": value.__lt__, "<=": value.__le__, ">": value.__gt__, ">=": value.__ge__}
    return all(sign in checks and checks[sign](float(bound)) is True for sign, bound in pairs)


def may_reach(address: str, allowed: Iterable[Network]) -> bool:
    """Whether a webhook may be sent to an IP address: a public one, or one of a network that a setting allows."""
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    if any(found.version == network.version and found in network for network in allowed):
        return True
    return found.is_global and not found.is_multicast


def networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting, separated by commas. Raises: ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
