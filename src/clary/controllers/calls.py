"""Makes the calls of triggers: functions run, queues and topics told, operations called; again when that fails.

A message to a queue is put in the transaction that forgets the call, and a topic knows the call's id, so those come
once; a function may be run again when control dies between its end and the forgetting. A call that has been tried as
often as its terms say, or has become too old, goes to its dead-letter queue or is dropped, and either is logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from sqlalchemy import Connection

from clary.controllers.function_runs import FunctionRuns
from clary.domain import queues as queue_rules
from clary.domain.errors import ClaryError, NotFound
from clary.domain.event_target import CREATE_TRANSFORM_JOB
from clary.domain.functions import ATTEMPTS, FUNCTION, FunctionDesired, FunctionObserved, parse_name
from clary.domain.names import Place
from clary.failpoints import failpoint
from clary.store.calls import Call, Calls
from clary.store.codec import decode
from clary.store.database import Database
from clary.store.queues import Queues, Sent
from clary.store.resources import Resources, find
from clary.store.targets import find_target
from clary.store.topics import QUEUE, Topics

log = logging.getLogger(__name__)

AT_ONCE = 32
BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0)
IDLE_S = 3600.0

# Calls an operation of our own API; raises ClaryError when it was refused.
Universal = Callable[[Call], Awaitable[None]]


class Failed(Exception):
    """The call was made and failed, or could not be made. `most`: how often it is tried again, whatever its terms."""

    def __init__(self, reason: str, *, final: bool = False, most: int | None = None) -> None:
        super().__init__(reason)
        self.most = 0 if final else most


class CallController:
    """One loop; every call a task of its own, so that a slow function holds up nobody."""

    def __init__(
        self,
        database: Database,
        resources: Resources,
        calls: Calls,
        queues: Queues,
        topics: Topics,
        runs: FunctionRuns,
        universal: Universal,
        function_retry_s: float,
    ) -> None:
        self._database = database
        self._resources = resources
        self._calls = calls
        self._queues = queues
        self._topics = topics
        self._runs = runs
        self._universal = universal
        self._function_retry_s = function_retry_s
        self._running: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever; cancel to stop."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._calls.due.clear()
                room = AT_ONCE - len(self._running)
                found = await self._calls.due_now(room, self._running) if room > 0 else []
                for call in found:
                    task = self._running[call.number] = tasks.create_task(self._one(call))
                    task.add_done_callback(partial(self._ended, call.number))
                await self._pause(full=room <= len(found))

    def _ended(self, number: int, _done: asyncio.Task[None]) -> None:
        del self._running[number]
        self._calls.woken()

    async def _pause(self, full: bool) -> None:
        next_us = None if full else await self._calls.next_due_us(self._running)
        wait_s = IDLE_S if next_us is None else (next_us - self._calls.now_us()) / 1_000_000
        try:
            async with asyncio.timeout(max(0.01, wait_s)):
                await self._calls.due.wait()
        except TimeoutError:
            pass  # the next one is due

    async def _one(self, call: Call) -> None:
        try:
            failpoint("trigger.before_call")
            await self._perform(call)
        except (Failed, ClaryError, OSError) as error:
            most = error.most if isinstance(error, Failed) else None
            await self._failed(call, str(error), call.terms.retries if most is None else min(most, call.terms.retries))

    async def _failed(self, call: Call, reason: str, retries: int) -> None:
        age_s = (self._calls.now_us() - call.created_us) / 1_000_000
        if call.attempts < retries and age_s < call.terms.max_age_s:
            after_s = self._after_s(call)
            log.info("call=%s target=%s event=failed again_in_s=%s reason=%s", call.id, call.target, after_s, reason)
            try:
                await self._calls.later(call, after_s)
            except ClaryError as error:
                log.warning("call=%s event=not_put_off reason=%s", call.id, error)
                await asyncio.sleep(BACKOFF_S[0])
            return
        log.warning(
            "call=%s target=%s event=given_up attempts=%d reason=%s", call.id, call.target, call.attempts + 1, reason
        )
        letters = queue_rules.name_of_arn(await self._dead_letter_arn(call))

        def work(connection: Connection) -> int | None:
            uid = self._put(connection, call, *letters) if letters is not None else None
            self._calls.forget(connection, call)
            return uid

        try:
            uid = await self._database.write(work)
        except ClaryError as error:
            log.warning("call=%s event=not_given_up reason=%s", call.id, error)
            await asyncio.sleep(BACKOFF_S[0])
            return
        if uid is not None:
            self._queues.woken(uid)

    async def _dead_letter_arn(self, call: Call) -> str:
        """The queue that the call itself names, else the one of the function that it is for; "" for none."""
        if call.terms.dead_letter_arn or ":lambda:" not in call.target:
            return call.terms.dead_letter_arn
        record = await find_target(self._resources, call.target)
        return decode(FunctionDesired, record.desired).dead_letter_arn if record is not None else ""

    def _after_s(self, call: Call) -> float:
        if ":lambda:" in call.target:
            return self._function_retry_s * (call.attempts + 1)
        return BACKOFF_S[min(call.attempts, len(BACKOFF_S) - 1)]

    # -- one call --------------------------------------------------------------------------------

    async def _perform(self, call: Call) -> None:
        """Makes the call and forgets it. Raises: Failed, ClaryError."""
        if call.target == CREATE_TRANSFORM_JOB:
            await self._universal(call)
            await self._calls.done(call)
            return
        match call.target.split(":")[2]:
            case "sqs":
                await self._to_queue(call)
            case "sns":
                await self._topics.publish(call.target, call.body, call.id)
                await self._calls.done(call)
            case "lambda":
                await self._to_function(call)
            case service:
                raise Failed(f"{service} is no target", final=True)

    async def _to_queue(self, call: Call) -> None:
        place = queue_rules.name_of_arn(call.target)
        if place is None:
            raise Failed(f"{call.target} is no queue", final=True)

        def work(connection: Connection) -> int:
            uid = self._put(connection, call, *place)
            if uid is None:
                raise NotFound(QUEUE, call.target)
            self._calls.forget(connection, call)
            return uid

        self._queues.woken(await self._database.write(work))

    def _put(self, connection: Connection, call: Call, place: Place, name: str) -> int | None:
        """The call's body into a queue; its uid, None when there is no such queue."""
        queue = find(connection, QUEUE, place, name)
        if queue is None:
            return None
        retention_s = queue_rules.number(queue.desired["attributes"], "MessageRetentionPeriod")
        self._queues.put(connection, queue.uid, [Sent(call.id, call.body, "{}", call.place.account)], retention_s)
        return queue.uid

    async def _to_function(self, call: Call) -> None:
        place, name = parse_name(call.target, call.place)
        record = await self._resources.find(FUNCTION, place, name)
        if record is None or decode(FunctionDesired, record.desired).deleted:
            raise Failed(f"the function {name} does not exist", final=True)
        observed = decode(FunctionObserved, record.observed)
        if not observed.code_key:
            raise Failed(f"the function {name} is not active: {observed.reason or 'it is being prepared'}")
        outcome = await self._runs.invoke(record, call.body.encode(), call.id)
        if outcome.error:
            raise Failed(outcome.payload.decode(errors="replace")[:500], most=ATTEMPTS - 1)
        failpoint("trigger.after_function_ran")
        await self._calls.done(call)
