"""Bodies on their way from the socket to the disk: in blocks, with back-pressure, a few bodies at a time.

    socket pieces -> block of 512 KiB -> one thread hop -> the disk

While one block is hashed and written, the next one is gathered; at most one write is under way, so a body holds about
1.5 MB however large it is and however slow the disk.

Bodies take turns. Few threads hash, so forty bodies at once are no faster than four; they only hold ten times the
memory, and all of it is new to the process: its page faults, on the event loop, are what a small call would wait for. A
turn ends when its body has brought its share or has let us wait for its sender for too long, and somebody else waits;
who waits holds no block. A body of one block waits for nobody: small objects do not queue behind large ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from clary.services.s3.lanes import Lanes

BLOCK_BYTES = 512 * 1024
SHARE_BYTES = 4 * BLOCK_BYTES
PATIENCE_S = 0.05

Block = Sequence[bytes]


class Turn:
    """One body's turns among those of the others: `places` of them at a time, first come, first served."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._held = False
        self._bytes_left = 0
        self._patience_s = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the body should write what it holds and stand in line again."""
        used_up = self._bytes_left <= 0 or self._patience_s <= 0
        return not self._held or (used_up and self._places.locked())

    async def begin(self) -> None:
        """Waits in line, but not during a turn. The senders ahead are bounded by their patience, the disk by itself."""
        if not self._held:
            await self._places.acquire()
            self._held = True
            self._bytes_left = SHARE_BYTES
            self._patience_s = PATIENCE_S

    def end(self) -> None:
        """Hands the place on; nothing when the turn is over."""
        if self._held:
            self._held = False
            self._places.release()

    async def piece(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next piece, None at the end. A sender who is slower than our patience loses the turn while we wait."""
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        lapse = loop.call_later(max(0.0, self._patience_s), self.end)
        try:
            piece = await anext(pieces, None)
        finally:
            lapse.cancel()
        self._patience_s -= loop.time() - asked_s
        self._bytes_left -= len(piece or b"")
        return piece


async def write_but_last(
    lanes: Lanes, pieces: AsyncIterator[bytes], length_bytes: int | None, write: Callable[[Block], None]
) -> Block:
    """Calls `write` on a lane for one block after the other; the last one, not yet written, is returned.

    Raises: what the pieces or `write` raise; no write is under way then.
    """
    is_small = length_bytes is not None and length_bytes <= BLOCK_BYTES
    turn = Turn(asyncio.Semaphore(1) if is_small else lanes.places)
    writing: asyncio.Task[None] | None = None
    held: Block = ()
    try:
        while True:
            await turn.begin()
            block, is_last = await _gather(pieces, turn)
            if writing is not None:
                await writing
                writing = None
            if is_last and not block:
                return held
            if held:
                writing = asyncio.create_task(lanes.inward(partial(write, held)))
            held = block
            if is_last:
                break
            if turn.is_over:
                if writing is not None:
                    await writing
                    writing = None
                await lanes.inward(partial(write, held))
                held = ()
                turn.end()
        if writing is not None:
            await writing
        return held
    finally:
        turn.end()
        if writing is not None and not writing.done():
            await asyncio.wait([writing])


async def _gather(pieces: AsyncIterator[bytes], turn: Turn) -> tuple[Block, bool]:
    """A block of at least BLOCK_BYTES, or the rest and True. Not joined: that would copy it into new memory."""
    found: list[bytes] = []
    size = 0
    while size < BLOCK_BYTES:
        piece = await turn.piece(pieces)
        if piece is None:
            return found, True
        found.append(piece)
        size += len(piece)
    return found, False
