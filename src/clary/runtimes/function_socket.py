"""The one socket of an invocation: hands the event in, takes the outcome, and joins connections to clary's own port.

So a function without a network of its own reaches clary and nothing else. Bounded in connections and in bytes; who is
on the other side is not trusted.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_CONNECTIONS = 64
CONNECT_LIMIT_S = 5.0
CHUNK_BYTES = 1 << 16
MAX_LINE_BYTES = 1024


class FunctionSocket:
    """An asynchronous context; `outcome` is (how it failed or "", payload) once the function has told it."""

    def __init__(
        self, path: Path, front_door: tuple[str, int], facts: Mapping[str, Any], event: bytes, most_bytes: int
    ) -> None:
        self.path = path
        self.outcome: tuple[str, bytes] | None = None
        self.too_large = False
        self._front_door = front_door
        self._facts = facts
        self._event = event
        self._most_bytes = most_bytes
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._served: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FunctionSocket:
        self._server = await asyncio.start_unix_server(self._accept, str(self.path), limit=CHUNK_BYTES)
        os.chmod(self.path, 0o666)  # its name is random, and only the function's jail has it
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._served):
            task.cancel()
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        try:
            async with self._room:
                await self._serve(reader, writer)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the function's side or the port has broken off: closing is all there is to do
        except asyncio.CancelledError:
            pass  # the invocation is over
        finally:
            self._served.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        purpose = await reader.readline()
        if purpose == b"event\n":
            writer.write(json.dumps(self._facts).encode() + b"\n" + self._event)
            await writer.drain()
        elif purpose == b"result\n":
            await self._take(reader, writer)
        elif purpose == b"relay\n":
            await self._relay(reader, writer)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        told = json.loads(line[:MAX_LINE_BYTES])
        found = bytearray()
        while data := await reader.read(CHUNK_BYTES):
            found += data
            if len(found) > self._most_bytes:
                self.too_large = True
                return
        if self.outcome is None and isinstance(told, dict):
            self.outcome = (str(told.get("error", "")), bytes(found))
        writer.write(b".")
        await writer.drain()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            back, forth = await asyncio.open_connection(*self._front_door, limit=CHUNK_BYTES)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, forth))
                tasks.create_task(_pump(back, writer))
        except* OSError:
            pass  # one side has left
        finally:
            forth.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
