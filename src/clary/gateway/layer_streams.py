"""Layers on their way in and out: blocks between the socket and the disk, on lanes of their own.

An upload that its client leaves stays where it was, to be gone on with.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from clary.domain.errors import Invalid
from clary.gateway.body import Receive, pieces
from clary.services.s3.blocks import BLOCK_BYTES, Block, write_but_last
from clary.services.s3.lanes import Lanes
from clary.store.layers import LayerFiles, Upload


class Layers:
    """One registry's streams. `close` ends its threads."""

    def __init__(self, files: LayerFiles) -> None:
        self._files = files
        self._lanes = Lanes()

    def close(self) -> None:
        self._lanes.close()

    async def begin(self, repository: int) -> Upload:
        """Raises: LimitExceeded, StoreFailed."""
        return await self._lanes.meta(lambda: self._files.begin(repository))

    @asynccontextmanager
    async def upload(self, repository: int, upload_id: str) -> AsyncIterator[Upload]:
        """An upload for one request. Raises: NotFound, Invalid while another request has it."""
        upload = await self._lanes.meta(lambda: self._files.take(repository, upload_id))
        try:
            yield upload
        finally:
            await self._lanes.meta(lambda: self._files.give_back(upload))

    async def discard(self, upload: Upload) -> None:
        await self._lanes.meta(lambda: self._files.discard(upload))

    async def take_in(self, upload: Upload, receive: Receive) -> None:
        """Appends a request's body. Raises: ClientGone (what came stays), StoreFailed."""

        def write(block: Block) -> None:
            for piece in block:
                upload.write(piece)

        last = await write_but_last(self._lanes, pieces(receive), None, write)
        await self._lanes.inward(partial(write, last))

    async def whole(self, receive: Receive, limit_bytes: int) -> bytes:
        """A small body. Raises: Invalid (SIZE_INVALID) over the limit, ClientGone."""
        found: list[bytes] = []
        size = 0
        async for piece in pieces(receive):
            size += len(piece)
            if size > limit_bytes:
                raise Invalid("manifest", f"it exceeds {limit_bytes} bytes", rule="SIZE_INVALID")
            found.append(piece)
        return b"".join(found)

    async def outflow(self, digest: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes [start, end) of a blob. Raises: NotFound."""
        descriptor, _ = await self._lanes.outward(lambda: self._files.open(digest))
        return self._read(descriptor, start, end)

    async def _read(self, descriptor: int, start: int, end: int) -> AsyncGenerator[bytes]:
        try:
            while start < end:
                count = min(BLOCK_BYTES, end - start)
                piece = await self._lanes.outward(partial(os.pread, descriptor, count, start))
                if not piece:
                    raise OSError(f"a layer ended {end - start} bytes early")
                start += len(piece)
                yield piece
        finally:
            os.close(descriptor)
