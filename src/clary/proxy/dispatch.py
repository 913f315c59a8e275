"""The proxy's heart: from an authenticated invocation to an exchange on a worker, and everything that may befall it.

Owns the pools (one a fleet), the route table, and the one coarse timer that looks after deadlines and idle workers.
All state is touched from the event loop only.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from clary import tables
from clary.domain.routing import EndpointRoute, RouteTable, VariantRoute, choose, parse_table, target
from clary.paths import Layout
from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.capture import Call, CaptureSpool
from clary.proxy.fleets import Event, Fleets
from clary.proxy.forward import Exchange, Upstream, model_error, readable
from clary.proxy.health import Health
from clary.proxy.meter import Answered, Meter
from clary.proxy.multimodel import MultiModels
from clary.wire.eventstream import exception_frame

if TYPE_CHECKING:
    from clary.proxy.leases import Lease
    from clary.proxy.server import FrontConnection

TICK_S = 0.25  # deadlines are kept to this grain
SUSPECT_S = 0.25  # by then the supervisor has told of a worker that died
ASK_AGAIN_S = 1.0  # an `ensure` that brought no event is repeated
START_FAILURES = 2  # starts of a sleeping variant that may fail before those who wait are told
HUNG_GRACE_S = 5.0
STREAM_LIMIT_S = 480.0  # of a whole stream (container contract: 8 min)
MAX_SESSIONS = 100_000
DEFAULT_SESSION_S = 1200.0  # of one whose model names no end
NEW_SESSION = "NEW_SESSION"
FORWARDED = frozenset((b"content-type", b"accept"))
CONTAINER = "primary"


class Session(NamedTuple):
    """One that a model has opened. `expires_s`: wall clock."""

    worker: str
    expires_s: float


class Wish(NamedTuple):
    """What an invocation asks for besides a prediction."""

    target: str = ""  # of a multi-model endpoint; the request's head then comes without its first line
    stream: bool = False  # InvokeEndpointWithResponseStream
    session: str = ""


PLAIN = Wish()


class Dispatcher:
    """See the module."""

    def __init__(self, account: str, layout: Layout, meter: Meter, spool: CaptureSpool) -> None:
        self._account = account
        self._route_table = layout.route_table
        self._meter = meter
        self._spool = spool
        self.table = RouteTable()
        self.body_limits: dict[bytes, int] = {}  # by endpoint name, the largest over regions and variants
        self.pools: dict[str, Pool] = {}
        self._workers: dict[str, Pool] = {}  # worker id -> pool, for events
        self.unrouted: dict[str, list[Event]] = {}  # events of fleets that the table does not know yet
        self.fleets = Fleets(layout.supervisor_socket, self._worker_event, self._worker_snapshot)
        self.health = Health(self)
        self._sessions: dict[tuple[str, str, str], Session] = {}
        self.multi_models = MultiModels(self, account, layout.control_socket)
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.table_error = ""

    # -- routes ----------------------------------------------------------------------------------

    def reload(self) -> int:
        """Takes the newest whole table; a torn one is refused and the old one stays. The generation in force."""
        try:
            table = parse_table(tables.read(self._route_table))
            for endpoint in table.endpoints.values():
                for variant in endpoint.variants:
                    self._meter.slot(variant.fleet)  # what cannot be counted is not served
        except (tables.TornTable, KeyError, TypeError, ValueError, OSError) as error:
            self.table_error = f"route table refused: {error!r}"
            return self.table.generation
        self.table_error = ""
        self.table = table
        self.body_limits = {}
        for endpoint in table.endpoints.values():
            name = endpoint.name.encode()
            limits = [variant.max_request_bytes for variant in endpoint.variants]
            self.body_limits[name] = max(*limits, self.body_limits.get(name, 0))
        wanted = {v.fleet: (v, e) for e in table.endpoints.values() for v in e.variants}
        for fleet, (route, endpoint) in wanted.items():
            pool = self.pools.get(fleet)
            if pool is None:
                pool = Pool(route, endpoint.region, endpoint.name, self._meter.slot(fleet))
                self.pools[fleet] = pool
                for event in self.unrouted.pop(fleet, ()):
                    self._apply(pool, event)
            else:
                pool.route = route
        for fleet in self.pools.keys() - wanted.keys():
            pool = self.pools[fleet]
            # Its endpoint is gone, or moved: those who wait try again on what is there now.
            waiting = [*pool.waiting, *self.multi_models.waiting(pool)]
            pool.waiting.clear()
            for exchange in waiting:
                self._redirect(exchange)
            if not pool.inside:
                del self.pools[fleet]
        self.arm()
        return table.generation

    def _redirect(self, exchange: Exchange) -> None:
        exchange.pool.inside -= 1
        endpoint = self.table.endpoints.get((exchange.pool.region, exchange.pool.endpoint))
        variant = choose(endpoint.variants, random.random()) if endpoint else None
        target_model = exchange.model.target if exchange.model is not None else ""
        refusal: Refusal | None
        if endpoint is None or variant is None:
            refusal = self.not_found(exchange.pool.endpoint)
        elif variant.multi_model != bool(target_model):
            refusal = wrong_kind(endpoint.name, variant.multi_model)
        else:
            exchange.pool = self.pools[variant.fleet]
            refusal = self.multi_models.admit(exchange, target_model) if target_model else self._admit(exchange)
        if refusal is not None:
            exchange.done = True
            exchange.client.refuse(refusal)

    # -- workers ---------------------------------------------------------------------------------

    def _worker_snapshot(self, events: list[Event]) -> None:
        known = {event["worker"] for event in events}
        for worker_id in self._workers.keys() - known:
            self._forget(worker_id)
        for pool in self.pools.values():
            pool.starting &= known
        for event in events:
            self._worker_event(event)

    def _worker_event(self, event: Event) -> None:
        pool = self.pools.get(event["fleet"])
        if pool is None:
            waiting = self.unrouted.setdefault(event["fleet"], [])
            waiting[:] = [e for e in waiting if e["worker"] != event["worker"]]
            if event["state"] != "exited":
                waiting.append(event)
            elif not waiting:
                del self.unrouted[event["fleet"]]
            return
        self._apply(pool, event)

    def _apply(self, pool: Pool, event: Event) -> None:
        worker_id = event["worker"]
        match event["state"]:
            case "starting":
                pool.starting.add(worker_id)
            case "ready":
                pool.starting.discard(worker_id)
                pool.failures = 0
                if worker_id not in pool.workers:
                    keeps_open = bool(event.get("detail", {}).get("keeps_open", True))
                    worker = Worker(
                        worker_id, pool.fleet, event["slot"], event["address"], self._loop.time(), keeps_open
                    )
                    pool.workers[worker_id] = worker
                    self._workers[worker_id] = pool
                    pool.meter.add("cold_starts")
                    pool.meter.add("setup_us", max(0, (event["ready_ns"] - event["started_ns"]) // 1000))
                    self.serve_waiting(pool)
                    self.arm()
            case "stopping":
                pool.starting.discard(worker_id)
                found = pool.workers.get(worker_id)
                if found is not None:
                    found.routable = False
            case "exited":
                was_starting = worker_id in pool.starting
                pool.starting.discard(worker_id)
                self._forget(worker_id)
                if was_starting:
                    self._start_failed(pool, event)
                self.wake(pool)

    def _forget(self, worker_id: str) -> None:
        pool = self._workers.pop(worker_id, None)
        worker = pool.workers.pop(worker_id, None) if pool else None
        if pool is not None and worker is not None and pool.models:
            self.multi_models.forget(pool, worker)
        if worker is not None:
            worker.closed = True
            worker.routable = False
            for upstream in list(worker.idle):
                upstream.close()

    def _start_failed(self, pool: Pool, event: Event) -> None:
        pool.failures += 1
        failure = event.get("failure", {})
        pool.last_failure = failure.get("reason") or event.get("exit", {}).get("reason", "unknown")
        if pool.failures >= START_FAILURES and not pool.workers:
            while pool.waiting:
                exchange = pool.waiting.popleft()
                pool.inside -= 1
                self.refuse_waiting(
                    exchange,
                    model_error(
                        pool.region,
                        self._account,
                        pool.endpoint,
                        500,
                        f"the model could not be started: {pool.last_failure}",
                        CONTAINER,
                    ),
                )

    # -- admission -------------------------------------------------------------------------------

    def not_found(self, name: str) -> Refusal:
        return answers.validation(f"Endpoint {name} of account {self._account} not found.")

    def endpoint(self, region: str, name: str) -> EndpointRoute | None:
        return self.table.endpoints.get((region, name))

    def variant(self, endpoint: EndpointRoute, wanted: str | None) -> VariantRoute | Refusal:
        """The variant to take the request, by its name or by weight."""
        if wanted is not None:
            found = target(endpoint.variants, wanted)
            return found or answers.validation(
                f"Variant {wanted} is not present in endpoint {endpoint.name}; "
                f"it has {', '.join(v.name for v in endpoint.variants)}."
            )
        found = choose(endpoint.variants, random.random())
        return found or answers.validation(f"Every variant of endpoint {endpoint.name} has weight 0.")

    def submit(
        self,
        client: FrontConnection,
        route: VariantRoute,
        head: bytes,
        body: bytes,
        arrived_ns: int,
        wish: Wish = PLAIN,
    ) -> Exchange | Refusal:
        """Admits one request, or tells why not."""
        pool = self.pools[route.fleet]
        if route.max_concurrency and pool.inside >= route.max_concurrency:
            pool.meter.add("throttles")
            return answers.throttled()
        exchange = Exchange(client, pool, head + body, len(body), arrived_ns)
        if route.capture is not None:
            exchange.captured = random.random() < route.capture.sampling
        pool.arrived(self._loop.time())
        exchange.stream = wish.stream
        if wish.session and wish.session != NEW_SESSION:
            return self._admit_to_session(exchange, wish.session) or exchange
        if wish.target:
            exchange.parts = exchange.request
            return self.multi_models.admit(exchange, wish.target) or exchange
        return self._admit(exchange) or exchange

    # -- sessions --------------------------------------------------------------------------------

    def _admit_to_session(self, exchange: Exchange, session: str) -> Refusal | None:
        """To the worker that opened it, and no other."""
        pool = exchange.pool
        held = self._sessions.get((pool.region, pool.endpoint, session))
        worker = self._session_worker(held)
        if held is None or worker is None:
            why = "is not open" if held is None else "has ended with the process that held it"
            self._sessions.pop((pool.region, pool.endpoint, session), None)
            return answers.validation(f"Session {session} {why}; open another one with SessionId NEW_SESSION.")
        exchange.pool = self.pools[worker.fleet]
        exchange.pool.inside += 1
        exchange.retried = True  # no other worker knows the session
        self.send(exchange, worker)
        return None

    def _session_worker(self, held: Session | None) -> Worker | None:
        if held is None or held.expires_s <= time.time():
            return None
        pool = self._workers.get(held.worker)
        worker = pool.workers.get(held.worker) if pool is not None else None
        return worker if worker is not None and worker.routable else None

    def session(self, exchange: Exchange, header: bytes, value: bytes) -> None:
        """A model has opened or closed one: `ID; Expires=yyyy-mm-ddThh:mm:ssZ`, or `ID`."""
        text = value.decode("latin-1")
        name, _, rest = text.partition(";")
        key = (exchange.pool.region, exchange.pool.endpoint, name.strip())
        if header.endswith(b"closed-session-id"):
            self._sessions.pop(key, None)
        elif exchange.worker is not None:
            while len(self._sessions) >= MAX_SESSIONS:  # the oldest has to go
                del self._sessions[next(iter(self._sessions))]
            self._sessions[key] = Session(exchange.worker.id, _expiry_s(rest, time.time()))

    # -- streams ---------------------------------------------------------------------------------

    def stream_begins(self, exchange: Exchange) -> None:
        """Its head has come: from now on it has the time of a stream."""
        exchange.deadline_s = self._loop.time() + STREAM_LIMIT_S

    def _break_stream(self, exchange: Exchange, code: str, why: str) -> None:
        """Its end as an event: the client has the head already, and what came so far."""
        body = json.dumps({"Message": why, "ErrorCode": code}).encode()
        piece = exception_frame("ModelStreamError", body)
        now_ns = perf_counter_ns()
        model_us = (now_ns - exchange.sent_ns) // 1000
        exchange.pool.meter.add("model_errors")
        self._settle(exchange, b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece), 500, model_us, 0)
        self._release(exchange)

    def _admit(self, exchange: Exchange) -> Refusal | None:
        pool = exchange.pool
        worker = pool.pick() if not pool.waiting else None
        if worker is not None:
            pool.inside += 1
            self.send(exchange, worker)
            return None
        if len(pool.waiting) >= pool.route.queue_limit:
            pool.meter.add("no_capacity")
            return answers.unavailable(
                f"{pool.route.queue_limit} requests already wait for variant {pool.route.name} (setting queue_limit)."
            )
        pool.inside += 1
        now_s = self._loop.time()
        exchange.waited = True
        exchange.queued_until_s = now_s + pool.route.queue_timeout_s
        exchange.line = pool.waiting
        pool.waiting.append(exchange)
        self.wake(pool)
        self.arm()
        return None

    def wake(self, pool: Pool) -> None:
        """Asks the supervisor for the workers that those who wait need."""
        n = pool.lacking()
        now_s = self._loop.time()
        if n and (n > pool.asked_for or now_s - pool.asked_at_s > ASK_AGAIN_S or not pool.starting):
            pool.asked_for, pool.asked_at_s = n, now_s
            self.fleets.ensure(pool.fleet, n)

    def serve_waiting(self, pool: Pool) -> None:
        """Hands those who wait to workers with room, oldest first."""
        while pool.waiting:
            worker = pool.pick()
            if worker is None:
                return
            self.send(pool.waiting.popleft(), worker)

    def lease(self, lease: Lease) -> Refusal | None:
        """Admits one whose request control itself carries; it is granted now or when a worker has room."""
        lease.pool.arrived(self._loop.time())
        return self._admit(lease)

    def returned(self, lease: Lease, answered: Answered, end: str) -> None:
        """A lease is over; `end` as `leases` tells it."""
        pool, worker = lease.pool, lease.worker
        if end != "unused":
            pool.meter.answered(answered)
            if answered.status >= 400:
                pool.meter.add("model_errors")
        if worker is not None and end == "lost":
            worker.suspect = True
            self._loop.call_later(SUSPECT_S, self._trust, pool, worker)
        elif worker is not None and end == "hung":
            self._end_hung(worker)
        elif worker is not None and end != "unused":
            worker.proven_alive_s = self._loop.time()
            worker.misses = 0
        self._release(lease)

    def _grant(self, lease: Lease, worker: Worker) -> None:
        worker.outstanding += 1
        lease.worker = worker
        lease.sent_ns = perf_counter_ns()
        lease.deadline_s = self._loop.time() + lease.limit_s
        lease.pool.in_flight[lease] = None
        if self._timer is None:
            self.arm()
        lease.client.granted(worker, lease.pool.route.name)  # type: ignore[attr-defined]

    def send(self, exchange: Exchange, worker: Worker) -> None:
        """Hands an admitted request to a worker."""
        if exchange.leased:
            self._grant(exchange, worker)  # type: ignore[arg-type]
            return
        worker.outstanding += 1
        exchange.worker = worker
        exchange.deadline_s = self._loop.time() + exchange.pool.route.request_timeout_s
        exchange.pool.in_flight[exchange] = None
        if self._timer is None:
            self.arm()
        while worker.idle:
            upstream = worker.idle.pop()
            transport = upstream._transport
            if transport is not None and not transport.is_closing():
                upstream.send(exchange)
                return
        upstream = Upstream(self, worker)
        upstream.send(exchange)
        self._loop.create_task(self._connect(upstream, exchange, worker))

    async def _connect(self, upstream: Upstream, exchange: Exchange, worker: Worker) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._loop.create_unix_connection(lambda: upstream, worker.address)
        except (OSError, TimeoutError):
            upstream.abandon()
            if not exchange.done:
                self.upstream_lost(exchange, untouched=True)

    # -- the ends of an exchange -----------------------------------------------------------------

    def _release(self, exchange: Exchange) -> None:
        """The slot is free again; the next who waits takes it."""
        exchange.done = True
        pool, worker = exchange.pool, exchange.worker
        pool.inside -= 1
        pool.in_flight.pop(exchange, None)
        if worker is not None:
            worker.outstanding -= 1
            if not worker.outstanding:
                worker.idle_since_s = self._loop.time()
            if exchange.model is not None:
                self.multi_models.released(exchange, worker)
        if pool.waiting:
            self.serve_waiting(pool)

    def answered(self, exchange: Exchange, data: bytes, now_ns: int, body_bytes: int) -> None:
        """The worker's good answer, as the bytes that go to the client."""
        model_us = (now_ns - exchange.sent_ns) // 1000
        self._settle(exchange, data, 200, model_us, body_bytes)
        worker = exchange.worker
        if worker is not None:
            worker.proven_alive_s = self._loop.time()
            worker.misses = 0
        self._release(exchange)

    def capture(self, exchange: Exchange, content_type: bytes, body: bytes) -> None:
        """Keeps a sampled call; a route that has lost its capture meanwhile keeps nothing."""
        pool = exchange.pool
        if pool.route.capture is not None:
            self._spool.take(
                Call(
                    pool.route.capture,
                    self._account,
                    pool.region,
                    pool.endpoint,
                    pool.route.name,
                    time.time(),
                    exchange.request,
                    exchange.body_bytes,
                    content_type,
                    body,
                )
            )

    def model_error(self, exchange: Exchange, status: int, body: bytes, now_ns: int) -> None:
        """The worker's bad answer: 424 to the client, with the model's own status and words."""
        pool, worker = exchange.pool, exchange.worker
        if status in (404, 507) and exchange.model is not None and worker is not None and not exchange.retried:
            self.multi_models.doubted(exchange, worker, status, body)
            return
        text = readable(body)
        model_us = (now_ns - exchange.sent_ns) // 1000
        refusal = model_error(pool.region, self._account, pool.endpoint, status, text, CONTAINER)
        pool.meter.add("model_errors")
        data = answers.encode(refusal, exchange.client.keep_open)
        self._settle(exchange, data, max(status, 400), model_us, len(body))
        self._release(exchange)

    def _settle(self, exchange: Exchange, data: bytes, status: int, model_us: int, body_bytes: int) -> None:
        """The (rest of the) answer leaves, and is counted with its last byte."""
        pool = exchange.pool
        overhead_us = max(0, (perf_counter_ns() - exchange.arrived_ns) // 1000 - model_us)
        told = Answered(status, model_us, overhead_us, exchange.body_bytes, body_bytes, pool.route.serverless)
        exchange.client.settle(data, pool.meter, told)

    def malformed(self, exchange: Exchange, why: str) -> None:
        """The worker's answer is not HTTP or breaks a bound."""
        self._failed(exchange, 500, f"the model's answer is malformed: {why}")

    def upstream_lost(self, exchange: Exchange, untouched: bool) -> None:
        """The connection ended before the answer did: tried again where that is safe, else told."""
        if untouched and exchange.retried:
            self._failed(exchange, 0, "the model's process takes no connections, or closes them unread")
            return
        if untouched and not exchange.head_sent:
            pool, worker = exchange.pool, exchange.worker
            self.take_back(exchange)
            if worker is not None:
                worker.suspect = True
                self._loop.call_later(SUSPECT_S, self._trust, pool, worker)
            self.admit_again(exchange)
            return
        self._failed(exchange, 0, "the model's process ended while it computed the answer")

    def admit_again(self, exchange: Exchange) -> None:
        """One that was taken back from its worker."""
        exchange.pool.inside -= 1
        if exchange.model is None:
            refusal = self._admit(exchange)
        else:
            refusal = self.multi_models.admit(exchange, exchange.model.target)
        if refusal is not None:
            exchange.done = True
            exchange.client.refuse(refusal)

    def take_back(self, exchange: Exchange) -> None:
        """From a worker that did nothing with it; it may be sent once more."""
        worker = exchange.worker
        exchange.retried = True
        exchange.worker = exchange.upstream = None
        exchange.pool.in_flight.pop(exchange, None)
        if worker is not None:
            worker.outstanding -= 1
            if exchange.model is not None:
                self.multi_models.released(exchange, worker)

    def _trust(self, pool: Pool, worker: Worker) -> None:
        """It has outlived the suspicion: only that connection was lost."""
        worker.suspect = False
        self.serve_waiting(pool)
        self.multi_models.serve(pool)

    def _failed(self, exchange: Exchange, status: int, why: str) -> None:
        pool = exchange.pool
        if exchange.head_sent and exchange.stream:
            timed_out = self._loop.time() >= exchange.deadline_s
            self._break_stream(exchange, "ModelInvocationTimeExceeded" if timed_out else "StreamBroken", why)
            return
        if exchange.head_sent:
            exchange.client.abort()
        else:
            exchange.client.refuse(model_error(pool.region, self._account, pool.endpoint, status, why, CONTAINER))
        now_ns = perf_counter_ns()
        pool.meter.add("model_errors")
        sent_ns = exchange.sent_ns or now_ns
        model_us = (now_ns - sent_ns) // 1000
        total_us = (now_ns - exchange.arrived_ns) // 1000
        pool.meter.answered(Answered(500, model_us, total_us - model_us, exchange.body_bytes, 0, pool.route.serverless))
        self._release(exchange)

    def refuse_waiting(self, exchange: Exchange, refusal: Refusal) -> None:
        """The answer to one who has waited in vain; who calls has taken it out of its line."""
        exchange.done = True
        exchange.client.refuse(refusal)
        if exchange.leased:
            return
        overhead_us = (perf_counter_ns() - exchange.arrived_ns) // 1000
        exchange.pool.meter.answered(Answered(refusal.status, 0, overhead_us, exchange.body_bytes, 0, False))

    def client_gone(self, exchange: Exchange) -> None:
        """Nobody waits for the answer any more: the slot is freed and the worker told by a closed connection."""
        if exchange.done:
            return
        exchange.pool.meter.add("clients_gone")
        if exchange.worker is None:
            exchange.done = True
            exchange.pool.inside -= 1
            exchange.line.remove(exchange)
            return
        if exchange.upstream is not None:
            exchange.upstream.abandon()
        self._release(exchange)

    # -- time ------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Sets the timer: every tick while requests are inside, at the next idle worker's hour otherwise."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay_s = self._next_tick_s()
        if delay_s is not None:
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _next_tick_s(self) -> float | None:
        if any(pool.inside for pool in self.pools.values()):
            return TICK_S
        times = [at for pool in self.pools.values() if (at := pool.next_idle_at_s()) is not None]
        return max(0.01, min(times) - self._loop.time()) if times else None

    def _tick(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        routed = {variant.fleet for endpoint in self.table.endpoints.values() for variant in endpoint.variants}
        for pool in list(self.pools.values()):
            if pool.in_flight:
                self._expire_in_flight(pool, now_s)
            if pool.model_lines:
                self.multi_models.expire(pool, now_s)
            while pool.waiting and now_s >= pool.waiting[0].queued_until_s:
                self._expire_waiting(pool, pool.waiting.popleft())
            if pool.waiting:
                self.wake(pool)
            for worker in pool.idle_workers(now_s):
                worker.routable = False
                self.fleets.stop(worker.id, "Idle", 30.0)
            if not pool.inside and pool.fleet not in routed:
                del self.pools[pool.fleet]
        self.arm()

    def _expire_in_flight(self, pool: Pool, now_s: float) -> None:
        for exchange in list(pool.in_flight):
            if now_s < exchange.deadline_s:
                if exchange.leased or exchange.stream:
                    continue  # each has a time of its own
                return
            worker = exchange.worker
            if exchange.leased:
                exchange.client.abort()  # who holds it has forgotten it: the end of the connection returns it
                continue
            if exchange.upstream is not None:
                exchange.upstream.abandon()
            text = (
                "Your invocation timed out while waiting for a response from container primary. Review the latency "
                "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
            )
            self._failed(exchange, 0, text)
            if worker is not None:
                self._end_hung(worker)

    def _end_hung(self, worker: Worker) -> None:
        """Past its deadline: the process computes for nobody and blocks those behind (rule R4)."""
        if worker.routable:
            worker.routable = False
            self.fleets.stop(worker.id, "Hung", HUNG_GRACE_S)

    def _expire_waiting(self, pool: Pool, exchange: Exchange) -> None:
        pool.inside -= 1
        pool.meter.add("queue_timeouts")
        if pool.route.serverless and pool.starting:
            refusal = Refusal("ModelNotReadyException", 429, f"The model of endpoint {pool.endpoint} is still loading.")
        else:
            refusal = answers.unavailable(
                f"No worker of variant {pool.route.name} became free within {pool.route.queue_timeout_s:g} s"
                + (f"; the last start failed: {pool.last_failure}" if pool.last_failure else "")
                + "."
            )
        self.refuse_waiting(exchange, refusal)

    def park(self, region: str, name: str) -> int:
        """Lets an endpoint's workers go, each when it is idle; how many were told to at once. A request wakes it."""
        endpoint = self.endpoint(region, name)
        stopped = 0
        for route in endpoint.variants if endpoint else ():
            pool = self.pools[route.fleet]
            pool.parked = True
            for worker in pool.idle_workers(self._loop.time()):
                worker.routable = False
                self.fleets.stop(worker.id, "Parked", 30.0)
                stopped += 1
        self.arm()
        return stopped

    def facts(self) -> dict[str, Any]:
        """What `clary status` and control ask: per fleet, who is inside and who waits."""
        return {
            "generation": self.table.generation,
            "table_error": self.table_error,
            "fleets": {
                fleet: {
                    "ready": sum(1 for w in pool.workers.values() if w.routable),
                    "starting": len(pool.starting),
                    "inside": pool.inside,
                    "waiting": len(pool.waiting),
                    "last_failure": pool.last_failure,
                    # Of a multi-model variant: how many each worker holds.
                    "models": {w.id: w.models for w in pool.workers.values()} if pool.route.multi_model else {},
                }
                for fleet, pool in self.pools.items()
            },
        }


def wrong_kind(endpoint: str, multi_model: bool) -> Refusal:
    """To a call without a model where one must be named, or with one where none may be."""
    if multi_model:
        return answers.validation(
            f"Endpoint {endpoint} is a multi-model endpoint: TargetModel names the model, below its prefix."
        )
    return answers.validation(
        f"Endpoint {endpoint} is not a multi-model endpoint and does not support target model header."
    )


def _expiry_s(text: str, now_s: float) -> float:
    """When a session ends, by the rest of its header; what cannot be read counts as not said."""
    name, _, value = text.strip().partition("=")
    if name.strip().lower() == "expires":
        try:
            return datetime.strptime(value.strip(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            pass  # as if it were not there
    return now_s + DEFAULT_SESSION_S
