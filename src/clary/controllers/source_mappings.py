"""Polls the queues of event source mappings: messages to functions in batches, deleted when they are done.

A batch that fails is left alone: its messages come again when their visibility ends, and go where the queue's redrive
policy says. So a message is handled at least once, whatever dies.
"""

from __future__ import annotations

import asyncio
import json
import logging

from clary.controllers.function_runs import FunctionRuns
from clary.domain import queues as rules
from clary.domain.errors import ClaryError
from clary.domain.functions import FunctionDesired, FunctionObserved
from clary.domain.source_mapping import MAPPING, SourceMapping, done, record
from clary.store.codec import decode
from clary.store.queues import DeadLetters, Queues, Received
from clary.store.resources import Record, Resources
from clary.store.targets import find_target

log = logging.getLogger(__name__)

WAIT_S = 20.0
AGAIN_S = 1.0
LOOK_S = 3600.0


class SourceMappings:
    """One task a mapping that is enabled."""

    def __init__(self, resources: Resources, queues: Queues, runs: FunctionRuns) -> None:
        self._resources = resources
        self._queues = queues
        self._runs = runs

    async def run(self) -> None:
        """For ever; cancel to stop."""
        pollers: dict[int, tuple[SourceMapping, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                version = self._resources.version
                wanted = {one.uid: decode(SourceMapping, one.desired) for one in await self._resources.all(MAPPING)}
                for uid, (mapping, task) in list(pollers.items()):
                    if wanted.get(uid) != mapping:
                        task.cancel()
                        del pollers[uid]
                for uid, mapping in wanted.items():
                    if mapping.enabled and uid not in pollers:
                        pollers[uid] = (mapping, tasks.create_task(self._poll(mapping)))
                await self._resources.changed_since(version, timeout_s=LOOK_S)

    async def _poll(self, mapping: SourceMapping) -> None:
        while True:
            try:
                going = await self._batch(mapping)
            except ClaryError as error:
                log.warning("queue=%s event=not_polled reason=%s", mapping.queue_arn, error)
                going = False
            if not going:
                await asyncio.sleep(AGAIN_S)

    async def _batch(self, mapping: SourceMapping) -> bool:
        """One batch, if one comes; False when queue or function are not there, or it failed."""
        queue = await find_target(self._resources, mapping.queue_arn)
        function = await find_target(self._resources, mapping.function_arn)
        if queue is None or function is None or not _callable(function):
            return False
        kept = queue.desired["attributes"]
        timeout_s = decode(FunctionDesired, function.desired).timeout_s
        # Nobody else may get a message while its function still runs.
        visibility_s = max(rules.number(kept, "VisibilityTimeout"), timeout_s + 1)
        found = await self._queues.receive(
            queue.uid, mapping.batch, visibility_s, WAIT_S, await self._dead_letters(queue)
        )
        if not found:
            return True
        event = json.dumps({"Records": [_record(one, mapping.queue_arn) for one in found]}).encode()
        outcome = await self._runs.invoke(function, event)
        if outcome.error:
            log.info("queue=%s event=batch_failed messages=%d", mapping.queue_arn, len(found))
            return False
        finished = done((one.id for one in found), outcome.payload, mapping.partial)
        for one in found:
            if one.id in finished:
                await self._queues.delete(queue.uid, one.receipt)
        return True

    async def _dead_letters(self, queue: Record) -> DeadLetters | None:
        redrive = rules.redrive(queue.desired["attributes"])
        target = await find_target(self._resources, redrive.arn) if redrive is not None else None
        if redrive is None or target is None:
            return None
        return DeadLetters(target.uid, redrive.most, rules.queue_arn(queue.place, queue.name))


def _callable(function: Record) -> bool:
    desired, observed = decode(FunctionDesired, function.desired), decode(FunctionObserved, function.observed)
    return bool(observed.code_key) and not desired.deleted


def _record(one: Received, queue_arn: str) -> dict[str, object]:
    system = {
        "ApproximateReceiveCount": str(one.receives),
        "SentTimestamp": str(one.sent_us // 1000),
        "SenderId": one.sender or "anonymous",
        "ApproximateFirstReceiveTimestamp": str(one.first_received_us // 1000),
    }
    given = rules.read_attributes(one.attributes)
    return record(one.id, one.receipt, one.body, rules.md5_of_body(one.body), system, given, queue_arn)
