"""A unix socket that answers one JSON line with one JSON line: how the processes of the tree are asked for facts."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def listen(path: Path, answer: Answer) -> asyncio.Server:
    """Serves `path` (mode 0600). What `answer` raises of ValueError, KeyError and TypeError is told to the asker."""
    path.unlink(missing_ok=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    told = {"ok": True, **(await answer(json.loads(line)))}
                except (ValueError, KeyError, TypeError) as error:
                    told = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(told).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            return  # the asker has left
        finally:
            writer.close()

    old = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(serve, str(path), limit=1 << 20)
    finally:
        os.umask(old)
