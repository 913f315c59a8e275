"""The threads that S3's blocking work runs on: five lanes, so that no kind of work waits behind another.

Blocks of bodies on their way in cost the processor (hashing, copying into the page cache), their ends the disk (fsync,
the index), bodies on their way out reads, metadata calls short transactions, and a copy may read gigabytes. Each lane
is bounded; whoever finds it full waits in the event loop, at no cost to the others.

The lanes of blocks and of copies have half the cores each. Uploads would take every core that they get: the other half
is for whoever describes, invokes and loads meanwhile, and for the event loop that brings the bytes. Uploads wait for
their turn, and their clients' connections with them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LANE_THREADS = 8
BODY_NICE = 19  # of the threads that hash (on Linux a thread has its own): the event loop never waits for its core
PLACES_PER_THREAD = 4  # bodies that may bring blocks to one of them: enough that it never waits for one
BLOCK_THREADS = max(1, len(os.sched_getaffinity(0)) // 2)


class Lanes:
    """One process's lanes. `close` after the last call has ended.

    `places`: how many bodies are taken in at a time (see `blocks`).
    """

    def __init__(self) -> None:
        self._inward = ThreadPoolExecutor(BLOCK_THREADS, "s3-body-in", os.nice, (BODY_NICE,))
        self._copies = ThreadPoolExecutor(BLOCK_THREADS, "s3-copy", os.nice, (BODY_NICE,))
        self._commits = ThreadPoolExecutor(LANE_THREADS, "s3-commit")
        self._outward = ThreadPoolExecutor(LANE_THREADS, "s3-body-out")
        self._meta = ThreadPoolExecutor(LANE_THREADS, "s3-meta")
        self.places = asyncio.Semaphore(PLACES_PER_THREAD * BLOCK_THREADS)

    async def inward(self, work: Callable[[], T]) -> T:
        """The result of writing a piece of a body."""
        return await _on(self._inward, work)

    async def copy(self, work: Callable[[], T]) -> T:
        """The result of copying an object or a part, whose bytes may have to be read for their checksum."""
        return await _on(self._copies, work)

    async def commit(self, work: Callable[[], T]) -> T:
        """The result of writing a body's last block and making all of it durable."""
        return await _on(self._commits, work)

    async def outward(self, work: Callable[[], T]) -> T:
        """The result of reading a piece of a body."""
        return await _on(self._outward, work)

    async def meta(self, work: Callable[[], T]) -> T:
        """The result of a call that moves no body."""
        return await _on(self._meta, work)

    def close(self) -> None:
        """Ends the threads when their work is done."""
        for lane in (self._inward, self._copies, self._commits, self._outward, self._meta):
            lane.shutdown()


async def _on(lane: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """A cancelled caller still waits for its thread: what the thread holds may be touched by one at a time."""
    running = asyncio.get_running_loop().run_in_executor(lane, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
