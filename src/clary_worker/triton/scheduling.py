"""The queue before one model: which of the waiting calls are executed together, when, and on which instance.

The rule is the one of Triton's documentation. When an instance is free, the calls that have come are gathered in their
order; the largest batch of a preferred size goes at once; else, when the batch cannot grow or the oldest call has
waited `max_queue_delay_microseconds`, the largest batch there is. A delay of 0 waits for nothing: the batch is what
came while the last one was computed. Without `dynamic_batching` each call is executed alone.

With one instance, executions run on the loop's thread (a hand-over costs more than a small prediction); with several,
each instance has a thread.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple

from .calls import Call, Result
from .config import ModelConfig
from .errors import InferError

MAX_WAITING = 8192  # calls of one model; the proxy admits far fewer at a time
_TURN_S = 0.001  # of single executions before the loop reads again

Execute = Callable[[Any, List[Call]], List[Result]]  # (instance, calls); never raises


class Rule(NamedTuple):
    """`max_size`: rows of a batch, 1 for calls that go alone."""

    max_size: int
    preferred: Tuple[int, ...] = ()
    delay_us: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> Rule:
        if config.batching is None or config.max_batch_size <= 1:
            return cls(1)
        return cls(config.max_batch_size, config.batching.preferred_sizes, config.batching.max_delay_us)


def plan(rows: Sequence[int], grows: bool, waited_us: int, rule: Rule) -> Tuple[int, int]:
    """(how many of the oldest calls go now, or 0 and the microseconds to wait).

    `rows` of the waiting calls in their order, `grows`: one more call could still join them, `waited_us` of the oldest.
    """
    if not rows or rule.max_size <= 1:
        return (1 if rows else 0), 0
    total, taken, preferred = 0, 0, 0
    for size in rows:
        if taken and total + size > rule.max_size:
            grows = False
            break
        total += size
        taken += 1
        if total in rule.preferred:
            preferred = taken
    if preferred:
        return preferred, 0
    if not grows or total >= rule.max_size or waited_us >= rule.delay_us:
        return taken, 0
    return 0, rule.delay_us - waited_us


class Queue:
    """The waiting calls of one model and its free instances. Used from the loop's thread."""

    def __init__(self, config: ModelConfig, instances: Sequence[Any], execute: Execute, loop: Any) -> None:
        batching = config.batching
        self._rule = Rule.of(config)
        self._limit = (batching.max_queue_size if batching is not None else 0) or MAX_WAITING
        self._timeout_s = batching.timeout_us / 1e6 if batching is not None else 0.0
        self._free = list(instances)
        self._execute = execute
        self._loop = loop
        self._waiting: Deque[Call] = deque()
        self._scheduled = False
        self._timer: Any = None
        self._threads: Optional[ThreadPoolExecutor] = None
        if len(instances) > 1:
            self._threads = ThreadPoolExecutor(len(instances), "instance")

    def submit(self, call: Call) -> None:
        """Executes the call in this turn of the loop or, with others waiting, in a later one."""
        if len(self._waiting) >= self._limit:
            call.done(InferError("Exceeds maximum queue size"))
            return
        call.arrived_s = perf_counter()
        self._waiting.append(call)
        self._schedule()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        end_s = perf_counter() + _TURN_S
        while self._waiting and self._free:
            now_s = perf_counter()
            self._drop(now_s)
            rows, grows = self._together()
            number, wait_us = plan(rows, grows, self._waited_us(now_s), self._rule)
            if wait_us:
                self._timer = self._loop.call_later(wait_us / 1e6, self._schedule)
                return
            batch = [self._waiting.popleft() for _ in range(number)]
            if not batch:
                continue
            self._start(self._free.pop(), batch)
            if self._threads is None and (len(batch) > 1 or perf_counter() > end_s):
                break  # the loop has others to read, pings among them
        if self._waiting and self._free:
            self._schedule()

    def _waited_us(self, now_s: float) -> int:
        return int((now_s - self._waiting[0].arrived_s) * 1e6) if self._waiting else 0

    def _drop(self, now_s: float) -> None:
        """Forgets calls that nobody waits for, and refuses those that have waited too long."""
        while self._waiting:
            first = self._waiting[0]
            if first.abandoned():
                self._waiting.popleft()
            elif self._timeout_s and now_s - first.arrived_s > self._timeout_s:
                self._waiting.popleft().done(InferError("Request timeout expired"))
            else:
                return

    def _together(self) -> Tuple[List[int], bool]:
        """The rows of the oldest calls that may be one batch, and whether a later call could join them."""
        rows: List[int] = []
        total, signature = 0, None
        for call in self._waiting:
            if rows and call.signature != signature:
                return rows, False
            signature = call.signature
            rows.append(call.rows)
            total += call.rows
            if total > self._rule.max_size:
                break
        return rows, True

    def _start(self, instance: Any, batch: List[Call]) -> None:
        if self._threads is None:
            self._finish(instance, batch, self._execute(instance, batch))
            return
        job = self._threads.submit(self._execute, instance, batch)

        def ended(done: Future[List[Result]]) -> None:
            self._loop.call_soon_threadsafe(self._finish, instance, batch, done.result())

        job.add_done_callback(ended)

    def _finish(self, instance: Any, batch: List[Call], results: List[Result]) -> None:
        self._free.append(instance)
        for call, result in zip(batch, results):
            call.done(result)
        if self._waiting and self._threads is not None:
            self._schedule()
