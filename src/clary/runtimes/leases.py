"""A worker's slot, taken from the proxy and given back (`clary.proxy.leases` tells the protocol)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_LIMIT_S = 5.0


class Refused(Exception):
    """No slot. `code` and the text are the proxy's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Place:
    """A worker that expects one request on its unix socket. `container` is what messages call it."""

    address: str
    container: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The workers to ask, each with the answer of the one before it: one, or one of each container of a pipeline."""

    places: tuple[Place, ...]
    variant: str


@dataclass(frozen=True, slots=True)
class Used:
    """What became of the slot. `model_us`: of each worker that was asked. `end`: "lost" when the last of them broke
    off, "hung" when its time ran out, else ""."""

    status: int
    model_us: tuple[int, ...]
    request_bytes: int
    response_bytes: int
    end: str = ""


class SlotHolder:
    """One connection: one slot at a time. Raises OSError from any call when the proxy is away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def acquire(self, region: str, endpoint: str, limit_s: float, wait_s: float) -> Grant:
        """Waits for a worker with room; a sleeping variant is woken. Raises: Refused, TimeoutError, OSError."""
        async with asyncio.timeout(wait_s):
            message = {"op": "acquire", "region": region, "endpoint": endpoint, "limit_s": limit_s}
            told = await self._ask(message)
        if "refused" in told:
            raise Refused(told["refused"], told["message"])
        places = tuple(Place(one["address"], one["container"]) for one in told["workers"])
        return Grant(places, told["variant"])

    async def release(self, used: Used) -> None:
        message = {
            "op": "release",
            "status": used.status,
            "model_us": used.model_us,
            "request_bytes": used.request_bytes,
            "response_bytes": used.response_bytes,
            "end": used.end,
        }
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await self._ask(message)

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
        assert self._reader is not None
        self._writer.write(json.dumps(message).encode() + b"\n")
        line = await self._reader.readline()
        if not line:
            self.close()
            raise ConnectionResetError("the proxy has ended the connection")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """Gives back what is held."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
