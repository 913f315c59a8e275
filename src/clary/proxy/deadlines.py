"""The one coarse timer: requests past their time, those who waited too long, workers idle for long enough."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.forward import Exchange

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher

TICK_S = 0.25  # deadlines are kept to this grain
HUNG_GRACE_S = 5.0
TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container %s. Review the latency "
    "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
)


class Deadlines:
    """Ticks while requests are inside, and else at the next idle worker's hour."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        return self._timer is not None

    def arm(self) -> None:
        """Sets the timer anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay_s = self._next_tick_s()
        if delay_s is not None:
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _next_tick_s(self) -> float | None:
        pools = self._dispatcher.pools.values()
        if any(pool.inside for pool in pools):
            return TICK_S
        times = [at for pool in pools if (at := pool.next_idle_at_s()) is not None]
        return max(0.01, min(times) - self._loop.time()) if times else None

    def _tick(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        dispatcher = self._dispatcher
        routed = dispatcher.table.fleets()
        for pool in list(dispatcher.pools.values()):
            if pool.in_flight:
                self._expire_in_flight(pool, now_s)
            if pool.model_lines:
                dispatcher.multi_models.expire(pool, now_s)
            if pool.route.container:  # steps of chains: each has waited before, or not
                for exchange in [one for one in pool.waiting if now_s >= one.queued_until_s]:
                    pool.waiting.remove(exchange)
                    self._expire_waiting(pool, exchange)
            while pool.waiting and now_s >= pool.waiting[0].queued_until_s:
                self._expire_waiting(pool, pool.waiting.popleft())
            if pool.waiting:
                dispatcher.wake(pool)
            for worker in pool.idle_workers(now_s):
                worker.routable = False
                dispatcher.fleets.stop(worker.id, "Idle", 30.0)
            if not pool.inside and pool.fleet not in routed:
                del dispatcher.pools[pool.fleet]
        self.arm()

    def _expire_in_flight(self, pool: Pool, now_s: float) -> None:
        for exchange in list(pool.in_flight):
            if now_s < exchange.deadline_s:
                if exchange.leased or exchange.stream or exchange.chain is not None:
                    continue  # each has a time of its own
                return
            worker = exchange.worker
            if exchange.leased:
                exchange.client.abort()  # who holds it has forgotten it: the end of the connection returns it
                continue
            if exchange.upstream is not None:
                exchange.upstream.abandon()
            self._dispatcher.failed(exchange, 0, TIMED_OUT % pool.container)
            if worker is not None:
                self.end_hung(worker)

    def end_hung(self, worker: Worker) -> None:
        """Past its deadline: the process computes for nobody and blocks those behind (rule R4)."""
        if worker.routable:
            worker.routable = False
            self._dispatcher.fleets.stop(worker.id, "Hung", HUNG_GRACE_S)

    def _expire_waiting(self, pool: Pool, exchange: Exchange) -> None:
        pool.inside -= 1
        pool.meter.add("queue_timeouts")
        if pool.route.serverless and pool.starting:
            refusal = Refusal("ModelNotReadyException", 429, f"The model of endpoint {pool.endpoint} is still loading.")
        else:
            refusal = answers.unavailable(
                f"No worker of {'container ' + pool.route.container + ' of ' if pool.route.container else ''}variant "
                f"{pool.route.name} became free within {pool.route.queue_timeout_s:g} s"
                + (f"; the last start failed: {pool.last_failure}" if pool.last_failure else "")
                + "."
            )
        self._dispatcher.refuse_waiting(exchange, refusal)
