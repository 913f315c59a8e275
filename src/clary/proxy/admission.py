"""Who may be served now: the workers of one variant, their outstanding requests, and those who wait.

A request takes the ready worker with the fewest outstanding requests; when all are full or none lives it waits in a
bounded queue with a deadline, and a sleeping variant is woken (`activator`). Serverless variants refuse at once when
MaxConcurrency requests are inside: that count has this one owner, so it is exact.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from clary.domain.routing import RoutingStrategy, VariantRoute
from clary.domain.scaling import GAPS_REMEMBERED, keep_alive_s
from clary.proxy.meter import Slot

if TYPE_CHECKING:
    from clary.proxy.forward import Exchange, Upstream
    from clary.proxy.multimodel import Files, Model


class Worker:
    """One ready worker: its address, what it is doing, and its idle connections."""

    __slots__ = (
        "address",
        "closed",
        "fleet",
        "id",
        "idle",
        "idle_since_s",
        "keeps_open",
        "misses",
        "model_bytes",
        "models",
        "outstanding",
        "proven_alive_s",
        "routable",
        "slot",
        "suspect",
    )

    def __init__(
        self, worker_id: str, fleet: str, slot: int, address: str, now_s: float, keeps_open: bool = True
    ) -> None:
        self.id = worker_id
        self.fleet = fleet
        self.slot = slot
        self.address = address
        self.keeps_open = keeps_open  # whether a connection may carry a second request
        self.outstanding = 0
        self.idle: list[Upstream] = []
        self.idle_since_s = now_s
        self.proven_alive_s = now_s
        self.misses = 0
        self.routable = True
        self.suspect = False  # it dropped a request unread: probably dying, and the news of it is under way
        self.closed = False
        self.models = 0  # multi-model: how many it holds, and their bytes
        self.model_bytes = 0


class Pool:
    """All of one fleet: ready workers, starting ones, waiting requests."""

    def __init__(self, route: VariantRoute, region: str, endpoint: str, slot: Slot, steps: Slot | None = None) -> None:
        """`slot` counts its requests; of a pipeline's container that is the variant's, and `steps` counts its own."""
        self.steps = steps
        self.route = route
        self.region = region
        self.endpoint = endpoint
        self.meter = slot
        self.workers: dict[str, Worker] = {}
        self.starting: set[str] = set()
        self.waiting: deque[Exchange] = deque()
        self.inside = 0  # requests admitted and not yet answered, with those that are on their way to it
        self.in_flight: dict[Exchange, None] = {}  # sent, oldest first
        self.failures = 0  # starts that failed since the last that did not
        self.last_failure = ""
        self.asked_for = 0
        self.asked_at_s = 0.0
        self.gaps_s: deque[float] = deque(maxlen=GAPS_REMEMBERED)
        self.last_arrival_s = 0.0
        # Multi-model: by target, least recently used first, what is held or being loaded; what somebody waits for;
        # where files lie.
        self.models: dict[str, Model] = {}
        self.model_lines: dict[Model, None] = {}
        self.model_files: dict[str, Files] = {}
        self.parked = False  # workers go as soon as they are idle, until the next request comes

    @property
    def fleet(self) -> str:
        return self.route.fleet

    @property
    def container(self) -> str:
        """What messages call it."""
        return self.route.container or "primary"

    def arrived(self, now_s: float) -> None:
        """Remembers the gap since the last request, when it was one that a worker could have slept through."""
        self.parked = False
        if self.last_arrival_s and now_s - self.last_arrival_s > 1.0:
            self.gaps_s.append(now_s - self.last_arrival_s)
        self.last_arrival_s = now_s

    def pick(self) -> Worker | None:
        """The worker to send to now, or None when every one is full."""
        limit = self.route.worker_concurrency
        if len(self.workers) == 1:
            for worker in self.workers.values():
                return worker if worker.routable and not worker.suspect and worker.outstanding < limit else None
        free = [w for w in self.workers.values() if w.routable and not w.suspect and w.outstanding < limit]
        if not free:
            return None
        if self.route.strategy is RoutingStrategy.RANDOM:
            return random.choice(free)
        if self.route.keep_alive is not None:
            # Lowest slot first, so that what is not needed stays idle long enough to be stopped.
            return min(free, key=lambda w: (w.outstanding, w.slot))
        return min(free, key=lambda w: w.outstanding)

    def lacking(self) -> int:
        """How many workers should live so that those who wait are served; 0 when enough live or start."""
        if not self.waiting:
            return 0
        coming = len(self.starting)
        per_worker = self.route.worker_concurrency
        needed = -(-len(self.waiting) // per_worker)
        if needed <= coming:
            return 0
        return min(len(self.workers) + needed, self.route.max_workers)

    def idle_workers(self, now_s: float) -> list[Worker]:
        """Workers that have been idle for longer than the keep-alive says, never below min_workers; of a container none
        while somebody is on the way to it."""
        policy = self.route.keep_alive
        coming = self.route.container and self.inside > len(self.in_flight)
        if policy is None or self.waiting or coming:
            return []
        limit_s = 0.0 if self.parked else keep_alive_s(policy, self.gaps_s)
        idle = [w for w in self.workers.values() if w.routable and not w.outstanding]
        overdue = sorted((w for w in idle if now_s - w.idle_since_s >= limit_s), key=lambda w: -w.slot)
        spare = len(self.workers) - self.route.min_workers
        return overdue[: max(0, spare)]

    def next_idle_at_s(self) -> float | None:
        """When the next worker may have been idle for long enough."""
        policy = self.route.keep_alive
        if policy is None or len(self.workers) <= self.route.min_workers:
            return None
        limit_s = 0.0 if self.parked else keep_alive_s(policy, self.gaps_s)
        times = [w.idle_since_s + limit_s for w in self.workers.values() if w.routable and not w.outstanding]
        return min(times, default=None)
