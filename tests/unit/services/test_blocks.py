"""Bodies on their way to the disk: whose turn it is, what a slow sender may hold, what a small body waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clary.services.s3.blocks import BLOCK_BYTES, PATIENCE_S, SHARE_BYTES, Block, write_but_last
from clary.services.s3.lanes import BLOCK_THREADS, PLACES_PER_THREAD, Lanes

PLACES = BLOCK_THREADS * PLACES_PER_THREAD
PIECE = bytes(range(256)) * 256
LIMIT_S = 20.0


class Sender:
    """A body of `pieces` pieces; it waits before the one numbered `waits_at` until `go` is set."""

    def __init__(self, pieces: int, waits_at: int = -1) -> None:
        self.pieces = pieces
        self.waits_at = waits_at
        self.go = asyncio.Event()
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(self.pieces):
            if number == self.waits_at:
                await self.go.wait()
            self.given += 1
            yield PIECE


async def taken_in(lanes: Lanes, sender: Sender, length_bytes: int | None = None) -> bytes:
    written: list[bytes] = []

    def write(block: Block) -> None:
        written.extend(block)

    written.extend(await write_but_last(lanes, aiter(sender), length_bytes, write))
    return b"".join(written)


@pytest.mark.parametrize("pieces", [0, 1, 7, 8, 9, 16, 100])
async def test_every_byte_in_its_order(pieces: int) -> None:
    lanes = Lanes()
    async with asyncio.timeout(LIMIT_S):
        assert await taken_in(lanes, Sender(pieces)) == PIECE * pieces
    lanes.close()


async def test_of_many_bodies_a_few_hold_blocks_at_a_time_and_each_gets_its_turns() -> None:
    lanes = Lanes()
    length = 3 * SHARE_BYTES
    senders = [Sender(length // len(PIECE)) for _ in range(10 * PLACES)]
    written = [0] * len(senders)
    holders: list[int] = []
    begun_at_first_end: list[int] = []

    async def one(number: int) -> None:
        def write(block: Block) -> None:
            written[number] += sum(map(len, block))
            holders.append(sum(s.given * len(PIECE) > done for s, done in zip(senders, written, strict=True)))

        last = await write_but_last(lanes, aiter(senders[number]), length, write)
        written[number] += sum(map(len, last))
        begun_at_first_end.append(sum(sender.given > 0 for sender in senders))

    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(one(number) for number in range(len(senders))))
    assert written == [length] * len(senders)
    assert max(holders) <= PLACES
    assert begun_at_first_end[0] == len(senders)
    lanes.close()


async def test_who_waits_has_brought_nothing() -> None:
    lanes = Lanes()
    stuck = [Sender(1, waits_at=0) for _ in range(PLACES)]
    waiting = [asyncio.create_task(taken_in(lanes, sender)) for sender in stuck]
    await asyncio.sleep(0)
    late = Sender(2 * SHARE_BYTES // len(PIECE))
    going = asyncio.create_task(taken_in(lanes, late))
    for _ in range(10):
        await asyncio.sleep(0)
    assert late.given == 0
    async with asyncio.timeout(LIMIT_S):
        await going  # the stuck ones lose their places when our patience ends
        for sender in stuck:
            sender.go.set()
        assert await asyncio.gather(*waiting) == [PIECE] * PLACES
    lanes.close()


async def test_a_slow_sender_keeps_nobody_waiting_for_long() -> None:
    lanes = Lanes()
    slow = [Sender(20, waits_at=3) for _ in range(3 * PLACES)]
    waiting = [asyncio.create_task(taken_in(lanes, sender)) for sender in slow]
    await asyncio.sleep(10 * PATIENCE_S)  # all of them have had a place, and lost it
    assert [sender.given for sender in slow] == [3] * len(slow)
    async with asyncio.timeout(LIMIT_S):
        assert await taken_in(lanes, Sender(30)) == PIECE * 30
        for sender in slow:
            sender.go.set()
        assert await asyncio.gather(*waiting) == [PIECE * 20] * len(slow)
    lanes.close()


async def test_a_body_of_one_block_waits_for_nobody() -> None:
    lanes = Lanes()
    for _ in range(PLACES):
        await lanes.places.acquire()  # and nobody ever gives one back
    small = BLOCK_BYTES // len(PIECE)
    async with asyncio.timeout(LIMIT_S):
        assert await taken_in(lanes, Sender(small), BLOCK_BYTES) == PIECE * small
    lanes.close()


async def test_a_sender_who_leaves_or_is_given_up_leaves_his_place() -> None:
    class Gone(Exception):
        pass

    async def leaves() -> AsyncIterator[bytes]:
        yield PIECE
        raise Gone

    lanes = Lanes()
    for _ in range(2 * PLACES):
        with pytest.raises(Gone):
            await write_but_last(lanes, leaves(), None, lambda block: None)
    given_up = [asyncio.create_task(taken_in(lanes, Sender(1, waits_at=0))) for _ in range(2 * PLACES)]
    await asyncio.sleep(0.01)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    assert not lanes.places.locked()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(taken_in(lanes, Sender(40)) for _ in range(PLACES)))
    lanes.close()


async def test_what_the_disk_refuses_is_raised_and_the_place_is_free_again() -> None:
    lanes = Lanes()

    def refuse(block: Block) -> None:
        raise OSError("the disk is full")

    for _ in range(2 * PLACES):
        with pytest.raises(OSError, match="full"):
            await write_but_last(lanes, aiter(Sender(30)), None, refuse)
    assert not lanes.places.locked()
    lanes.close()
