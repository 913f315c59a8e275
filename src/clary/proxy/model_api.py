"""A worker's models, asked for by the API of multi-model containers; each call on a connection of its own.

What our own server tells beyond that API (bytes that a model takes, bytes that lack) is taken where it is there.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple
from urllib.parse import quote

LOAD_LIMIT_S = 360.0  # how long a load may go on when its callers have been told to come again (developer guide)
UNLOAD_LIMIT_S = 30.0
MAX_ANSWER_BYTES = 16 << 20  # a listing of 100,000 models


class Told(NamedTuple):
    """A worker's answer."""

    status: int
    body: bytes

    def facts(self) -> dict[str, Any]:
        """Its JSON object; {} where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def number(self, name: str) -> int:
        """A number that it names; 0 where it names none (a user's own server need not)."""
        value = self.facts().get(name)
        return int(value) if isinstance(value, (int, float)) else 0


async def load(address: str, name: str, url: str) -> Told:
    """200 loaded, 409 loaded already, 507 no room; else the reason why not. Raises: as `ask`."""
    body = json.dumps({"model_name": name, "url": url}).encode()
    return await ask(address, "POST", "/models", body, LOAD_LIMIT_S)


async def unload(address: str, name: str) -> Told:
    """Raises: as `ask`."""
    return await ask(address, "DELETE", f"/models/{quote(name, safe='')}", b"", UNLOAD_LIMIT_S)


async def holds(address: str, name: str) -> bool:
    """Whether the worker says that it has the model. Raises: as `ask`."""
    return (await ask(address, "GET", f"/models/{quote(name, safe='')}", b"", UNLOAD_LIMIT_S)).status == 200


async def listed(address: str) -> list[str]:
    """Names of all models that the worker has, over all pages. Raises: as `ask`."""
    names: list[str] = []
    token = ""
    while True:
        path = f"/models?next_page_token={quote(token, safe='')}" if token else "/models"
        told = (await ask(address, "GET", path, b"", UNLOAD_LIMIT_S)).facts()
        page = told.get("models")
        found = [str(one.get("modelName", "")) for one in page if isinstance(one, dict)] if page else []
        names += found
        token = str(told.get("nextPageToken") or "")
        if not token or not found:
            return names


async def ask(address: str, method: str, path: str, body: bytes, limit_s: float) -> Told:
    """One request. Raises: OSError (TimeoutError is one), ValueError for what is no HTTP."""
    head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\nContent-Type: application/json\r\n"
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_unix_connection(address)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return await _answer(reader)
        except (IndexError, asyncio.IncompleteReadError) as error:
            raise ConnectionResetError("the worker broke off") from error
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Told:
    status = int((await reader.readline()).split(b" ")[1])
    length: int | None = None
    chunked = False
    while (line := await reader.readline()).strip():
        name, _, value = line.lower().partition(b":")
        if name.strip() == b"content-length":
            length = int(value)
        elif name.strip() == b"transfer-encoding":
            chunked = value.strip() == b"chunked"
    if chunked:
        return Told(status, await _chunks(reader))
    if length is None:
        return Told(status, await _rest(reader))
    if not 0 <= length <= MAX_ANSWER_BYTES:
        raise ValueError(f"an answer of {length} bytes")
    return Told(status, await reader.readexactly(length))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while size := int((await reader.readline()).partition(b";")[0], 16):
        if not 0 < size <= MAX_ANSWER_BYTES - len(found):
            raise ValueError("the answer is too long")
        found += await reader.readexactly(size)
        await reader.readline()
    return bytes(found)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while data := await reader.read(1 << 16):
        found += data
        if len(found) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return bytes(found)
