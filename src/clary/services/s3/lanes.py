"""The threads that S3's blocking work runs on: three lanes, so that no kind of work waits behind another.

Bodies on their way in spend their time in hashing and fsync, bodies on their way out in reads, metadata calls in short
transactions. Each lane is bounded; whoever finds it full waits in the event loop, at no cost to the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LANE_THREADS = 8


class Lanes:
    """One process's lanes. `close` after the last call has ended."""

    def __init__(self) -> None:
        self._inward = ThreadPoolExecutor(LANE_THREADS, "s3-body-in")
        self._outward = ThreadPoolExecutor(LANE_THREADS, "s3-body-out")
        self._meta = ThreadPoolExecutor(LANE_THREADS, "s3-meta")

    async def inward(self, work: Callable[[], T]) -> T:
        """The result of writing a piece of a body."""
        return await _on(self._inward, work)

    async def outward(self, work: Callable[[], T]) -> T:
        """The result of reading a piece of a body."""
        return await _on(self._outward, work)

    async def meta(self, work: Callable[[], T]) -> T:
        """The result of a call that moves no body."""
        return await _on(self._meta, work)

    def close(self) -> None:
        """Ends the threads when their work is done."""
        for lane in (self._inward, self._outward, self._meta):
            lane.shutdown()


async def _on(lane: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """A cancelled caller still waits for its thread: what the thread holds may be touched by one at a time."""
    running = asyncio.get_running_loop().run_in_executor(lane, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
