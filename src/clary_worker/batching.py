"""Greedy micro-batching: whatever became readable in one turn of the loop is predicted in one call.

There is no window and no timer. The first request of a turn schedules one flush with `call_soon`; the loop reads all
other ready sockets before it runs, so a lone request waits for nothing, and under load a batch grows to what arrived
while the last one was computed. That is the batch size at which arrivals and service balance, found without a setting.

A flush answers one batch, or single requests for about a millisecond, and then lets the loop read again: pings and
new arrivals are never behind more than one prediction.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any, Callable, Deque, List, Protocol

from .contract import Handler, Request, Response

_BATCH_BYTES = 1 << 20  # of bodies in a batch: large requests gain nothing by joining, and would wait for each other
_TURN_S = 0.001  # of single requests before the loop reads again; cheap models answer some forty in it


class Slot(Protocol):
    """A request that waits, and where its response goes. `cancelled` when its caller has left."""

    request: Request
    cancelled: bool

    def answer(self, response: Response) -> None: ...


class Submits(Protocol):
    """Takes slots and answers each in its time: our batcher, or a handler that queues by itself."""

    def submit(self, slot: Slot) -> None: ...


class Batcher:
    """Collects slots and answers them on the loop's own thread."""

    def __init__(self, handler: Handler, call_soon: Callable[..., Any], max_batch_size: int, enabled: bool) -> None:
        self._handler = handler
        self._call_soon = call_soon
        self._max = max(1, max_batch_size)
        self._enabled = enabled and max_batch_size > 1
        self._pending: Deque[Slot] = deque()
        self._scheduled = False

    def submit(self, slot: Slot) -> None:
        """Answers the slot in this turn of the loop or, with others waiting, in one of the next."""
        self._pending.append(slot)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        pending = self._pending
        if len(pending) > 1 and self._enabled and self._handler.batchable:
            self._flush_batch()
        else:
            end_s = perf_counter() + _TURN_S
            while pending:
                slot = pending.popleft()
                if not slot.cancelled:
                    slot.answer(self._handler.invoke(slot.request))
                if perf_counter() > end_s:
                    break
        if pending:
            self._call_soon(self._flush)
        else:
            self._scheduled = False

    def _flush_batch(self) -> None:
        pending = self._pending
        batch: List[Slot] = []
        size_bytes = 0
        while pending and len(batch) < self._max and size_bytes < _BATCH_BYTES:
            slot = pending.popleft()
            if not slot.cancelled:
                batch.append(slot)
                size_bytes += len(slot.request.body)
        if len(batch) == 1:
            batch[0].answer(self._handler.invoke(batch[0].request))
        elif batch:
            responses = self._handler.invoke_many([slot.request for slot in batch])
            for place, slot in enumerate(batch):
                slot.answer(responses[place])
