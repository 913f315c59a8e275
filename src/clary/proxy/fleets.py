"""The supervisor as the proxy sees it: which workers live, and the two things that may be asked of it.

One unix socket, JSON lines. When it breaks (the supervisor is gone only when everything is) the proxy tries again.
Workers' events are handed to the variants' queues; `ensure` and `stop` are fire and forget, because their outcome
arrives as an event and both may be repeated.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Fleets:
    """A live view of the supervisor's workers."""

    def __init__(self, path: Path, on_event: Callable[[Event], None], on_snapshot: Callable[[list[Event]], None]):
        self._path = path
        self._on_event = on_event
        self._on_snapshot = on_snapshot
        self._writer: asyncio.StreamWriter | None = None
        self._next_id = 0

    async def follow(self) -> None:
        """Reads events for ever; reconnects after 50 ms."""
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 24)
                subscription = self._send({"op": "subscribe"})
                async for line in reader:
                    message = json.loads(line)
                    if message.get("event") == "worker":
                        self._on_event(message)
                    elif message.get("id") == subscription:
                        self._on_snapshot(message["workers"])
            except OSError:
                pass  # not there yet, or gone: the pause and the loop are the answer
            self._writer = None
            await asyncio.sleep(0.05)

    def _send(self, request: dict[str, Any]) -> int:
        self._next_id += 1
        if self._writer is not None:
            self._writer.write(json.dumps({"id": self._next_id, **request}).encode() + b"\n")
        return self._next_id

    def ensure(self, fleet: str, n: int) -> None:
        self._send({"op": "ensure", "fleet": fleet, "n": n})

    def stop(self, worker: str, reason: str, grace_s: float) -> None:
        self._send({"op": "stop", "worker": worker, "reason": reason, "grace_s": grace_s})
