"""Stateful sessions: which worker holds which, as the models' own answer headers tell it.

    X-Amzn-SageMaker-New-Session-Id: ID; Expires=yyyy-mm-ddThh:mm:ssZ      X-Amzn-SageMaker-Closed-Session-Id: ID

Bounded: the oldest goes when there are too many. Times are wall clock, because models name them so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

NEW_SESSION = "NEW_SESSION"
MAX_SESSIONS = 100_000
DEFAULT_S = 1200.0  # of one whose model names no end


class Session(NamedTuple):
    """An open one."""

    worker: str
    expires_s: float


class Sessions:
    """The sessions of all endpoints, by region, endpoint and id."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], Session] = {}

    def find(self, region: str, endpoint: str, session: str) -> Session | None:
        return self._open.get((region, endpoint, session))

    def forget(self, region: str, endpoint: str, session: str) -> None:
        self._open.pop((region, endpoint, session), None)

    def told(self, region: str, endpoint: str, worker: str, header: bytes, value: bytes, now_s: float) -> None:
        """A worker's answer opens or closes one."""
        name, _, rest = value.decode("latin-1").partition(";")
        key = (region, endpoint, name.strip())
        if header.endswith(b"closed-session-id"):
            self._open.pop(key, None)
            return
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        self._open[key] = Session(worker, expiry_s(rest, now_s))


def expiry_s(text: str, now_s: float) -> float:
    """When a session ends, by the rest of its header; what cannot be read counts as not said."""
    name, _, value = text.strip().partition("=")
    if name.strip().lower() == "expires":
        try:
            return datetime.strptime(value.strip(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            pass  # as if it were not there
    return now_s + DEFAULT_S
