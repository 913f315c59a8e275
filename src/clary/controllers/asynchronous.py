"""Asynchronous inference: queued invocations to slots of workers, outcomes to the object store, and word of them.

Rows of the queue are the truth. Nothing is written when one is begun: who dies leaves it in the queue, and whoever
comes after looks for its outcome before beginning again. The order of an ending is: publish, tell, forget. So an
invocation is executed at least once, its outcome is visible exactly once, and word of it comes at least once, under
the same message id (rules J2 to J5 of the reliability page).

The proxy owns the slots (`runtimes.leases`): asking for one wakes a sleeping variant, and workers that nothing is
queued for fall asleep by its keep-alive.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from clary.controllers.async_metrics import AsyncMetrics
from clary.controllers.async_work import Asked, AsyncWork, InputMissing
from clary.controllers.loop import Key, Loop
from clary.controllers.publication import Publisher, read
from clary.domain.asynchronous import MAX_ATTEMPTS, Invocation, Told, notification
from clary.domain.errors import ClaryError
from clary.domain.names import Place
from clary.failpoints import failpoint
from clary.paths import Layout
from clary.runtimes.leases import Grant, Refused, SlotHolder, Used
from clary.store.invocations import Invocations, Waiting
from clary.store.objects_port import Objects
from clary.store.resources import Resources

T = TypeVar("T")
log = logging.getLogger(__name__)

PAGE = 256  # rows of one endpoint that are kept in memory
SLOT_WAIT_S = 10.0  # then it is asked for anew: who waits for a slot takes up room that others could use
TRANSFER_S = 60.0  # on top of InvocationTimeoutSeconds, before the proxy takes a slot for forgotten
AGAIN_S = 1.0
UNUSED = Used(0, (), 0, 0, "unused")

Notify = Callable[[str, str, str], Awaitable[None]]  # topic ARN, message, message id


@dataclass(slots=True)
class _Line:
    """One endpoint's queue as far as it has been read, and who works on it."""

    uid: int
    queue: deque[Waiting] = field(default_factory=deque)
    read_to: int = 0
    dry: bool = False  # nothing was left when it was last read
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    runners: set[asyncio.Task[None]] = field(default_factory=set)
    busy: int = 0  # of them, with an invocation in hand
    variant: str = ""  # that served last, for metrics of what never got to a worker
    place: Place = field(default_factory=Place)
    name: str = ""


class AsyncController:
    """See the module."""

    def __init__(
        self,
        layout: Layout,
        resources: Resources,
        invocations: Invocations,
        objects: Objects,
        publisher: Publisher,
        metrics: AsyncMetrics,
        notify: Notify,
        now: Callable[[], datetime],
        concurrency: int,
    ) -> None:
        self._layout = layout
        self._resources = resources
        self._invocations = invocations
        self._publisher = publisher
        self._metrics = metrics
        self._notify = notify
        self._now = now
        self._work = AsyncWork(objects, layout.data)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="async")
        self._room = asyncio.Semaphore(concurrency)
        self._lines: dict[int, _Line] = {}
        self.loop = Loop("asynchronous", self.reconcile)

    def queued(self, endpoint_uid: int) -> None:
        """A row was added."""
        line = self._lines.get(endpoint_uid)
        if line is not None:
            line.dry = False
        self.loop.add(endpoint_uid)

    async def watch(self) -> None:
        """Begins with what an earlier life left; then looks at every queue twice a minute."""
        while True:
            for uid in await self._invocations.backlogs():
                self.queued(uid)
            await asyncio.sleep(30.0)

    async def reconcile(self, key: Key) -> float | None:
        """Sees to it that as many runners work on an endpoint's queue as it has slots and rows."""
        assert isinstance(key, int)
        line = self._lines.setdefault(key, _Line(key))
        await self._read_on(line)
        if not line.queue:
            if not line.runners:
                self._lines.pop(key, None)
            return None
        found = await self._resources.by_uid(key)
        if found is None or (endpoint := read(*found)).desired.deleted:
            await self._give_up(line)
            return 0.0
        line.place, line.name = found[0].place, found[0].name
        serving = endpoint.observed.serving
        if serving is None:
            return AGAIN_S
        slots = self._publisher.async_slots(endpoint, serving)
        # Twice as many runners as slots: while one publishes, another has its slot.
        while len(line.runners) < 2 * slots and len(line.runners) - line.busy < len(line.queue):
            runner = asyncio.get_running_loop().create_task(self._run(line))
            line.runners.add(runner)
            runner.add_done_callback(partial(self._ran, line))
        return None

    async def _read_on(self, line: _Line) -> None:
        async with line.reading:  # two readers at once would take the same rows
            if line.dry or len(line.queue) >= PAGE:
                return
            line.dry = True  # before the read, so that a row which comes meanwhile unsets it
            rows = await self._invocations.following(line.uid, line.read_to, PAGE)
            line.queue.extend(rows)
            if rows:
                line.read_to, line.dry = rows[-1].number, False

    def _ran(self, line: _Line, runner: asyncio.Task[None]) -> None:
        line.runners.discard(runner)
        if runner.cancelled():
            return
        if (error := runner.exception()) is not None:
            log.error("endpoint=%s event=async_runner_failed", line.name, exc_info=error)
            self.loop.add_after(line.uid, AGAIN_S)
        elif line.queue or not line.dry:
            self.loop.add_after(line.uid, 0.0 if line.queue else AGAIN_S)
        else:
            self.loop.add(line.uid)

    # -- one runner ------------------------------------------------------------------------------

    async def _run(self, line: _Line) -> None:
        """Takes slots and rows until there are no rows, or no slots to be had."""
        holder = SlotHolder(self._layout.lease_socket)
        try:
            while line.queue:
                async with self._room:
                    served = await self._next(line, holder)
                if not served:
                    await asyncio.sleep(AGAIN_S)
                    return
                await self._read_on(line)
        finally:
            holder.close()

    async def _next(self, line: _Line, holder: SlotHolder) -> bool:
        """One invocation, if there still is one; False when no slot could be had."""
        if not line.queue:
            return True
        longest_s = line.queue[0].invocation.timeout_s + TRANSFER_S
        try:
            grant = await holder.acquire(line.place.region, line.name, longest_s, SLOT_WAIT_S)
        except (Refused, OSError, TimeoutError) as error:
            holder.close()
            log.info("endpoint=%s event=no_slot reason=%s", line.name, error)
            await self._expire(line)
            return False
        line.variant = grant.variant
        waiting = _take(line, longest_s - TRANSFER_S)
        if waiting is None:
            await _release(holder, UNUSED)
            return True
        ended = False
        line.busy += 1
        try:
            await self._one(line, waiting, grant, holder)
            ended = True
        except ClaryError as error:  # disk or database
            log.warning("invocation=%s event=not_ended reason=%s", waiting.invocation.id, error)
        finally:
            line.busy -= 1
            if not ended:  # the row is still there, and is looked at again
                holder.close()
                line.queue.append(replace(waiting, begun=True))
        return ended

    async def _one(self, line: _Line, waiting: Waiting, grant: Grant, holder: SlotHolder) -> None:
        invocation = waiting.invocation
        told = await self._already(waiting)
        if told is None and invocation.expires_us <= self._now_us():
            self._metrics.count(line.place, line.name, grant.variant, "ExpiredRequests")
            told = await self._thread(self._work.fail, invocation, _expired(invocation))
        if told is not None:
            await _release(holder, UNUSED)
            return await self._end(line, invocation, told)
        began_us = self._now_us()
        try:
            asked = await self._thread(self._work.ask, invocation, grant.places)
        except InputMissing as error:
            await _release(holder, UNUSED)
            self._metrics.count(line.place, line.name, grant.variant, "RequestDownloadFailures")
            return await self._end(line, invocation, await self._thread(self._work.fail, invocation, str(error)))
        await _release(holder, asked.used)
        failpoint("asynchronous.after_answer")
        if asked.lost and invocation.attempts + 1 < MAX_ATTEMPTS:
            tried = replace(invocation, attempts=invocation.attempts + 1)
            await self._invocations.tried(tried.id, tried.attempts)
            line.queue.append(Waiting(waiting.number, tried, begun=True))
            return None
        if asked.lost:
            asked.reason += f" It has ended {MAX_ATTEMPTS} processes; it is not tried again."
        published_us = self._now_us()
        told = await self._thread(self._work.publish, invocation, asked)
        self._measure(line, invocation, grant, asked, began_us, published_us)
        return await self._end(line, invocation, told)

    async def _already(self, waiting: Waiting) -> Told | None:
        """The outcome, where an earlier try may have published one."""
        if waiting.begun or waiting.number <= self._invocations.last_at_start or waiting.invocation.attempts:
            return await self._thread(self._work.published, waiting.invocation)
        return None

    async def _end(self, line: _Line, invocation: Invocation, told: Told) -> None:
        """The outcome is published: tell, then forget."""
        failpoint("asynchronous.after_publish")
        if told.reason:
            log.info(
                "endpoint=%s inference_id=%s event=failed reason=%r", line.name, invocation.inference_id, told.reason
            )
            self._metrics.count(line.place, line.name, line.variant, "InvocationFailures")
        message = notification(invocation, told, self._now())
        if message is not None:
            try:
                await self._notify(message[0], message[1], str(uuid.UUID(hex=invocation.id)))
            except ClaryError as error:
                log.warning("inference_id=%s event=not_notified reason=%s", invocation.inference_id, error)
                self._metrics.count(line.place, line.name, line.variant, "NotificationFailures")
        failpoint("asynchronous.after_notify")
        await self._invocations.finish(invocation.id)
        failpoint("asynchronous.after_finish")

    # -- without a slot --------------------------------------------------------------------------

    async def _expire(self, line: _Line) -> None:
        """No worker is to be had: what is over its time ends nevertheless."""
        now_us = self._now_us()
        due = [waiting for waiting in line.queue if waiting.invocation.expires_us <= now_us]
        for waiting in due:
            line.queue.remove(waiting)
            self._metrics.count(line.place, line.name, line.variant, "ExpiredRequests")
            await self._fail(line, waiting, _expired(waiting.invocation))

    async def _give_up(self, line: _Line) -> None:
        """The endpoint has gone: what was accepted ends as failed, not as nothing."""
        while line.queue:
            waiting = line.queue.popleft()
            line.name = waiting.invocation.endpoint
            await self._fail(line, waiting, "The endpoint was deleted before the request was processed.")
        line.dry = False

    async def _fail(self, line: _Line, waiting: Waiting, reason: str) -> None:
        try:
            told = await self._already(waiting)
            if told is None:
                told = await self._thread(self._work.fail, waiting.invocation, reason)
            await self._end(line, waiting.invocation, told)
        except BaseException:
            line.queue.append(replace(waiting, begun=True))
            raise

    # -- small steps -----------------------------------------------------------------------------

    def _measure(
        self, line: _Line, invocation: Invocation, grant: Grant, asked: Asked, began_us: int, published_us: int
    ) -> None:
        now_us = self._now_us()
        values = {
            "TimeInBacklog": (began_us - invocation.received_us) / 1000,
            "TotalProcessingTime": (now_us - invocation.received_us) / 1000,
            "RequestDownloadLatency": float(asked.download_us),
            "ResponseUploadLatency": float(now_us - published_us),
        }
        for name, value in values.items():
            self._metrics.observe(line.place, line.name, grant.variant, name, max(0.0, value))
        self._metrics.count(line.place, line.name, grant.variant, "InvocationsProcesssed")

    def _now_us(self) -> int:
        return round(self._now().timestamp() * 1_000_000)

    async def _thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _release(holder: SlotHolder, used: Used) -> None:
    """Gives the slot back; when the proxy is away, the end of the connection does."""
    try:
        await holder.release(used)
    except (OSError, TimeoutError):
        holder.close()


def _take(line: _Line, limit_s: float) -> Waiting | None:
    """The oldest row that fits a slot taken for `limit_s`."""
    for waiting in line.queue:
        if waiting.invocation.timeout_s <= limit_s:
            line.queue.remove(waiting)
            return waiting
    return None


def _expired(invocation: Invocation) -> str:
    waited_s = (invocation.expires_us - invocation.received_us) // 1_000_000
    return f"The request expired: it was not processed within {waited_s} s (RequestTTLSeconds)."
