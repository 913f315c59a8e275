"""Who acts: the caller of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed the request. With signatures switched off everybody is the administrator."""

    arn: str
    access_key_id: str
    administrator: bool
    user_id: str = ""
