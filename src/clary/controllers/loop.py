"""The work queue under every controller: each key once, one at a time, again after a while, with backoff on errors.

A key is only a name; what is to be done is found by looking. An event that is lost costs a delay, never a wrong state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable

Key = Hashable
log = logging.getLogger(__name__)

BACKOFF_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Loop:
    """Runs `reconcile(key)`; its result is the seconds after which to look again, or None to wait for a change."""

    def __init__(self, name: str, reconcile: Callable[[Key], Awaitable[float | None]], concurrency: int = 8) -> None:
        self._name = name
        self._reconcile = reconcile
        self._slots = asyncio.Semaphore(concurrency)
        self._queued: dict[Key, None] = {}
        self._running: set[Key] = set()
        self._again: set[Key] = set()  # asked for while they ran
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key) -> None:
        """Asks for a look at `key` soon; asking twice is asking once."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        else:
            self._queued[key] = None
            self._wake.set()

    def add_after(self, key: Key, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        old = self._timers.pop(key, None)
        if old is not None:
            old.cancel()
        self._timers[key] = loop.call_later(delay_s, self.add, key)

    async def run(self) -> None:
        """For ever; cancel to stop."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queued:
                    key = next(iter(self._queued))
                    del self._queued[key]
                    await self._slots.acquire()
                    self._running.add(key)
                    tasks.create_task(self._one(key))

    async def _one(self, key: Key) -> None:
        try:
            after_s = await self._reconcile(key)
            self._failures.pop(key, None)
        except asyncio.CancelledError:
            raise
        except Exception:  # the loop's border: whatever it was, look again later
            count = self._failures[key] = self._failures.get(key, 0) + 1
            after_s = BACKOFF_S[min(count - 1, len(BACKOFF_S) - 1)]
            log.exception("loop=%s key=%s failures=%d again_in_s=%s", self._name, key, count, after_s)
        finally:
            self._running.discard(key)
            self._slots.release()
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif after_s is not None:
            self.add_after(key, after_s)
