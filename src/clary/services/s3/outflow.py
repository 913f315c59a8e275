"""A body on its way from the store to the socket: one chunk ahead, one thread hop a chunk.

The first chunk is read in the hop that opens the object, and a small object is whole then. Otherwise the reader stays
open, with its pins on the files, until the last chunk has been read or the stream is closed, whichever comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from clary.services.s3.lanes import Lanes
from clary.store.object_info import ObjectInfo
from clary.store.object_reader import ObjectReader

CHUNK_BYTES = 512 * 1024


class Outflow:
    """An asynchronous iterator of an object's bytes; `aclose` lets go of its files, twice is fine."""

    def __init__(self, lanes: Lanes, reader: ObjectReader) -> None:
        """On the lane's thread. Raises: Corrupt."""
        self._lanes = lanes
        self._reader = reader
        self._chunks: Iterator[bytes] = reader.chunks(CHUNK_BYTES)
        self._left_bytes = reader.size_bytes
        self._ahead: asyncio.Task[bytes] | None = None
        self._first: bytes | None = None
        self.info: ObjectInfo = reader.info
        self.size_bytes = reader.size_bytes
        try:
            self._first = self._read_on()
        except BaseException:
            reader.close()
            raise

    def whole(self) -> bytes | None:
        """All bytes, when the first chunk holds them."""
        return self._first if not self._left_bytes else None

    def __aiter__(self) -> Outflow:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            piece, self._first = self._first, None
        elif self._ahead is not None:
            piece = await self._ahead
            self._ahead = None
        else:
            raise StopAsyncIteration
        if self._left_bytes:
            self._ahead = asyncio.create_task(self._lanes.outward(self._read_on))
        return piece

    async def aclose(self) -> None:
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
        if self._left_bytes:
            await self._lanes.outward(self.close)

    def close(self) -> None:
        """On the lane's thread, while nothing is read."""
        self._left_bytes = 0
        self._reader.close()

    def _read_on(self) -> bytes:
        """The next chunk; with the last one the files are let go."""
        piece = next(self._chunks, b"")
        self._left_bytes -= len(piece)
        if not self._left_bytes:
            self._reader.close()
        return piece


async def flow(lanes: Lanes, open_reader: Callable[[], ObjectReader]) -> Outflow:
    """Opens and reads the first chunk, in one hop. Raises: what opening raises, Corrupt."""
    opened: list[Outflow] = []

    def start() -> Outflow:
        opened.append(Outflow(lanes, open_reader()))
        return opened[0]

    try:
        return await lanes.outward(start)
    except asyncio.CancelledError:
        for one in opened:
            await one.aclose()
        raise
