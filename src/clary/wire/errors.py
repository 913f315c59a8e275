"""The one exception that leaves as an AWS error, whatever the protocol.

It carries facts (code, status, message, further members); `protocols.encode_error` gives them the protocol's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class WireError(Exception):
    """An error for the client.

    code: the AWS error code, e.g. "ValidationException".
    status: HTTP status; where the service model gives the error a status of its own, the model's is sent.
    members: further modelled members of the error, by botocore's names (e.g. OriginalStatusCode).
    headers: extra response headers.
    protocol: the protocol to print it in, set where the error arose before an operation was known.
    """

    def __init__(
        self,
        code: str,
        status: int = 400,
        message: str = "",
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        protocol: str | None = None,
    ) -> None:
        super().__init__(code, status, message)
        self.code = code
        self.status = status
        self.message = message
        self.members: Mapping[str, Any] = dict(members or {})
        self.headers: Mapping[str, str] = dict(headers or {})
        self.protocol = protocol

    def __str__(self) -> str:
        return f"{self.code} ({self.status}): {self.message}"


def malformed(message: str) -> WireError:
    """A body or value that cannot be read as its type."""
    return WireError("SerializationException", 400, message)
