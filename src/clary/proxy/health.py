"""Is a ready worker alive? GET /ping every two seconds to those who have not proven it by an answer.

A miss counts only while no request is inside its deadline: a worker that computes cannot answer a ping and need not.
Three counted misses and the supervisor is asked to end it (reliability rule R4).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from clary.proxy.admission import Worker

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher

PING_EVERY_S = 2.0
PING_LIMIT_S = 2.0
MISSES = 3
_PING = b"GET /ping HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n"


class Health:
    """Pings what needs it; one round at a time, all workers of a round side by side."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def watch(self) -> None:
        """Rounds for ever. With no workers a round costs one wake-up."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_EVERY_S)
            now_s = loop.time()
            suspects = [
                worker
                for pool in self._dispatcher.pools.values()
                for worker in pool.workers.values()
                if worker.routable and not worker.outstanding and now_s - worker.proven_alive_s > PING_EVERY_S
            ]
            if suspects:
                await asyncio.gather(*(self._ping(worker) for worker in suspects))

    async def _ping(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        if await ping(worker.address):
            worker.proven_alive_s = loop.time()
            worker.misses = 0
        elif not worker.outstanding and worker.routable:
            worker.misses += 1
            if worker.misses >= MISSES:
                worker.routable = False
                self._dispatcher.fleets.stop(worker.id, "PingFailed", 5.0)


async def ping(address: str) -> bool:
    """Whether the server at the unix socket answers GET /ping with 200 in time."""
    writer = None
    try:
        async with asyncio.timeout(PING_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(address)
            writer.write(_PING)
            return (await reader.readline()).split(b" ")[1:2] == [b"200"]
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
