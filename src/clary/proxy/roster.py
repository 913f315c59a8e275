"""The workers that the supervisor tells of, in their pools; and what their coming and going means for who waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from clary.proxy.admission import Pool, Worker
from clary.proxy.fleets import Event
from clary.proxy.forward import model_error

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher

START_FAILURES = 2  # starts of a sleeping variant that may fail before those who wait are told


class Roster:
    """Takes the supervisor's events, in the event loop."""

    def __init__(self, dispatcher: Dispatcher, account: str) -> None:
        self._dispatcher = dispatcher
        self._account = account
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}  # by worker id
        self._unrouted: dict[str, list[Event]] = {}  # events of fleets that the route table does not know yet

    def worker(self, worker_id: str) -> Worker | None:
        """One that lives and may be sent to."""
        pool = self._pools.get(worker_id)
        found = pool.workers.get(worker_id) if pool is not None else None
        return found if found is not None and found.routable else None

    def routed(self, pool: Pool) -> None:
        """The route table knows the pool's fleet now: what was told of it before counts."""
        for event in self._unrouted.pop(pool.fleet, ()):
            self._apply(pool, event)

    def snapshot(self, events: list[Event]) -> None:
        """All that live, at the start of a subscription."""
        known = {event["worker"] for event in events}
        for worker_id in self._pools.keys() - known:
            self._forget(worker_id)
        for pool in self._dispatcher.pools.values():
            pool.starting &= known
        for event in events:
            self.event(event)

    def event(self, event: Event) -> None:
        pool = self._dispatcher.pools.get(event["fleet"])
        if pool is not None:
            self._apply(pool, event)
            return
        waiting = self._unrouted.setdefault(event["fleet"], [])
        waiting[:] = [e for e in waiting if e["worker"] != event["worker"]]
        if event["state"] != "exited":
            waiting.append(event)
        elif not waiting:
            del self._unrouted[event["fleet"]]

    def _apply(self, pool: Pool, event: Event) -> None:
        worker_id = event["worker"]
        was_starting = worker_id in pool.starting
        pool.starting.discard(worker_id)
        match event["state"]:
            case "starting":
                pool.starting.add(worker_id)
            case "ready":
                pool.failures = 0
                if worker_id not in pool.workers:
                    self._ready(pool, event)
            case "stopping":
                found = pool.workers.get(worker_id)
                if found is not None:
                    found.routable = False
            case "exited":
                pool.asked_at_s = 0.0  # what was asked for has come and gone: it may be asked for again at once
                self._forget(worker_id)
                if was_starting:
                    self._start_failed(pool, event)
                self._dispatcher.wake(pool)

    def _ready(self, pool: Pool, event: Event) -> None:
        keeps_open = bool(event.get("detail", {}).get("keeps_open", True))
        worker_id = event["worker"]
        pool.workers[worker_id] = Worker(
            worker_id, pool.fleet, event["slot"], event["address"], self._loop.time(), keeps_open
        )
        self._pools[worker_id] = pool
        pool.meter.add("cold_starts")
        pool.meter.add("setup_us", max(0, (event["ready_ns"] - event["started_ns"]) // 1000))
        self._dispatcher.serve_waiting(pool)
        self._dispatcher.arm()

    def _forget(self, worker_id: str) -> None:
        pool = self._pools.pop(worker_id, None)
        worker = pool.workers.pop(worker_id, None) if pool else None
        if pool is None or worker is None:
            return
        if pool.models:
            self._dispatcher.multi_models.forget(pool, worker)
        worker.closed = True
        worker.routable = False
        for upstream in list(worker.idle):
            upstream.close()

    def _start_failed(self, pool: Pool, event: Event) -> None:
        pool.failures += 1
        failure = event.get("failure", {})
        pool.last_failure = failure.get("reason") or event.get("exit", {}).get("reason", "unknown")
        if pool.failures < START_FAILURES or pool.workers:
            return
        why = f"the model could not be started: {pool.last_failure}"
        while pool.waiting:
            exchange = pool.waiting.popleft()
            pool.inside -= 1
            refusal = model_error(pool.region, self._account, pool.endpoint, 500, why, pool.container)
            self._dispatcher.refuse_waiting(exchange, refusal)
