"""The proxy's own answers, as bytes: runtime errors in REST-JSON's shape, and request ids."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any

_PREFIX = os.urandom(8).hex()
_PREFIX = f"{_PREFIX[:8]}-{_PREFIX[8:12]}-4{_PREFIX[13:16]}-a{os.urandom(2).hex()[:3]}"
_numbers = count(int.from_bytes(os.urandom(5), "big"))

REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def request_id() -> str:
    """A fresh id in the form of a UUID: a random prefix of this process and a running number."""
    return f"{_PREFIX}-{next(_numbers):012x}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A runtime error of the service model (sagemaker-runtime): its code, HTTP status and text."""

    code: str
    status: int
    message: str | None
    members: dict[str, Any] = field(default_factory=dict)
    retry_after_s: int = 0
    close: bool = False


def validation(message: str, status: int = 400, close: bool = False) -> Refusal:
    return Refusal("ValidationError", status, message, close=close)


def unavailable(message: str, retry_after_s: int = 1) -> Refusal:
    return Refusal("ServiceUnavailable", 503, message, retry_after_s=retry_after_s)


def throttled() -> Refusal:
    """Serverless over MaxConcurrency: AWS answers 400 with a null message, which SDKs read as a throttle."""
    return Refusal("ThrottlingException", 400, None)


def encode(refusal: Refusal, keep_open: bool) -> bytes:
    """The whole HTTP response."""
    body = json.dumps({"Message": refusal.message, **refusal.members}).encode()
    head = (
        b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nx-amzn-ErrorType: %s\r\n"
        b"x-amzn-RequestId: %s\r\n"
        % (
            refusal.status,
            REASONS.get(refusal.status, b"Error"),
            len(body),
            refusal.code.encode(),
            request_id().encode(),
        )
    )
    if refusal.retry_after_s:
        head += b"Retry-After: %d\r\n" % refusal.retry_after_s
    if not keep_open:
        head += b"Connection: close\r\n"
    return head + b"\r\n" + body
