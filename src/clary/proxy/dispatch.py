"""The proxy's heart: from an authenticated invocation to an exchange on a worker, and everything that may befall it.

Owns the pools (one a fleet) and the route table. `roster` tells who works in the pools, `deadlines` keeps the time,
`sessions` and `multimodel` know who must be asked. All state is touched from the event loop only.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from clary import tables
from clary.domain.containers import ATTRIBUTES
from clary.domain.routing import EndpointRoute, RouteTable, VariantRoute, choose, parse_table, target
from clary.paths import Layout
from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.capture import Call, CaptureSpool
from clary.proxy.chain import Chain
from clary.proxy.deadlines import Deadlines
from clary.proxy.fleets import Fleets
from clary.proxy.forward import Exchange, Upstream, model_error, readable
from clary.proxy.health import Health
from clary.proxy.kinds import PLAIN, Wish
from clary.proxy.meter import Answered, Meter
from clary.proxy.multimodel import MultiModels
from clary.proxy.redirection import redirect
from clary.proxy.roster import Roster
from clary.proxy.sessions import NEW_SESSION, Sessions
from clary.wire.eventstream import exception_frame

if TYPE_CHECKING:
    from clary.proxy.leases import Lease
    from clary.proxy.server import FrontConnection

SUSPECT_S = 0.25  # by then the supervisor has told of a worker that died
ASK_AGAIN_S = 1.0  # an `ensure` that brought no event is repeated
STREAM_LIMIT_S = 480.0  # of a whole stream (container contract: 8 min)
FORWARDED = frozenset((b"content-type", b"accept"))


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
        self._components: dict[tuple[str, str, str], VariantRoute] = {}  # by region, endpoint, name
        self.roster = Roster(self, account)
        self.fleets = Fleets(layout.supervisor_socket, self.roster.event, self.roster.snapshot)
        self.health = Health(self)
        self._sessions = Sessions()
        self.multi_models = MultiModels(self, account, layout.control_socket)
        self._deadlines = Deadlines(self)
        self._loop = asyncio.get_running_loop()
        self.table_error = ""

    # -- routes ----------------------------------------------------------------------------------

    def reload(self) -> int:
        """Takes the newest whole table; a torn one is refused and the old one stays. The generation in force."""
        try:
            table = parse_table(tables.read(self._route_table))
            for endpoint in table.endpoints.values():
                for variant in endpoint.variants:
                    for route in (variant, *variant.containers):
                        self._meter.slot(route.fleet)  # what cannot be counted is not served
        except (tables.TornTable, KeyError, TypeError, ValueError, OSError) as error:
            self.table_error = f"route table refused: {error!r}"
            return self.table.generation
        self.table_error = ""
        self.table = table
        self.body_limits = {}
        for endpoint in table.endpoints.values():
            name = endpoint.name.encode()
            limits = [variant.max_request_bytes for variant in endpoint.variants]
            self.body_limits[name] = max([*limits, self.body_limits.get(name, 0)])
        self._components = {
            (e.region, e.name, v.component): v for e in table.endpoints.values() for v in e.variants if v.component
        }
        wanted = {r.fleet: (r, v, e) for e in table.endpoints.values() for v in e.variants for r in v.routes}
        for fleet, (route, variant, endpoint) in wanted.items():
            pool = self.pools.get(fleet)
            if pool is None:
                slot, steps = self._meter.slot(fleet), None
                if variant.containers and not variant.direct:
                    slot, steps = self._meter.slot(variant.fleet), slot
                pool = Pool(route, endpoint.region, endpoint.name, slot, steps)
                self.pools[fleet] = pool
                self.roster.routed(pool)
            else:
                pool.route = route
        for fleet in self.pools.keys() - wanted.keys():
            pool = self.pools[fleet]
            # Its endpoint is gone, or moved: those who wait try again on what is there now.
            waiting = [*pool.waiting, *self.multi_models.waiting(pool)]
            pool.waiting.clear()
            for exchange in waiting:
                redirect(self, exchange)
            if not pool.inside:
                del self.pools[fleet]
        self.arm()
        return table.generation

    def moved(self, endpoint: EndpointRoute, route: VariantRoute) -> VariantRoute | None:
        """Where a request that waited for `route` goes on an endpoint that has changed."""
        if not endpoint.hosts_components:
            return choose(endpoint.variants, random.random())
        found = self._components.get((endpoint.region, endpoint.name, route.component))
        return found if found is not None and found.max_workers else None

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

    def component(self, endpoint: EndpointRoute, name: str | None, variant: str | None) -> VariantRoute | Refusal:
        """The inference component to take the request."""
        if not endpoint.hosts_components:
            return answers.validation(f"InferenceComponentName: endpoint {endpoint.name} has no inference components.")
        if name is None:
            return answers.validation(
                "Inference Component Name header is required for endpoints to which you plan to deploy inference "
                "components. Please include Inference Component Name header or consider using SageMaker models."
            )
        found = self._components.get((endpoint.region, endpoint.name, name))
        if found is None:
            return answers.validation(f"Inference Component {name} is not in service on endpoint {endpoint.name}.")
        if variant is not None and variant != found.name:
            return answers.validation(f"Inference Component {name} is on variant {found.name}, not on {variant}.")
        if not found.max_workers:
            self.pools[found.fleet].meter.add("no_capacity")
            return answers.validation(
                "Inference Component has no capacity to process this request. ApplicationAutoScaling may be "
                "in-progress (if configured) or try to increase the capacity by invoking "
                "UpdateInferenceComponentRuntimeConfig API."
            )
        return found

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
            return self.enter(exchange, wish.target) or exchange
        return self._admit(exchange) or exchange

    def pipeline(
        self,
        client: FrontConnection,
        route: VariantRoute,
        fields: Sequence[bytes],
        body: bytes,
        arrived_ns: int,
        wish: Wish,
    ) -> Chain | Refusal:
        """Admits one request to the containers of a pipeline, or tells why not; `fields` are header lines."""
        chain = Chain(self, client, route, fields, body, arrived_ns, wish)
        if route.capture is not None:
            chain.captured = random.random() < route.capture.sampling
        return chain.begin(self._loop.time()) or chain

    def enter(self, exchange: Exchange, target: str) -> Refusal | None:
        """Admits it to its pool, for the model that it is to be asked of, "" where there is one only."""
        if not target:
            return self._admit(exchange)
        exchange.parts = exchange.parts or exchange.request
        return self.multi_models.admit(exchange, target)

    def passed(self, exchange: Exchange, headers: dict[bytes, bytes], body: bytes, now_ns: int) -> None:
        """A step's good answer that is the next one's request."""
        assert exchange.chain is not None
        if exchange.worker is not None:
            self._proven_alive(exchange.worker)
        model_us = (now_ns - exchange.sent_ns) // 1000
        content_type, attributes = headers.get(b"content-type", b""), headers.get(ATTRIBUTES.encode(), b"")
        exchange.chain.passed(exchange, content_type, attributes, body, model_us)
        self._release(exchange)

    def rouse(self, pool: Pool) -> None:
        """A worker for those who are on their way to the pool; nothing where one lives or starts."""
        now_s = self._loop.time()
        lives = pool.starting or any(worker.routable for worker in pool.workers.values())
        if not lives and now_s - pool.asked_at_s > ASK_AGAIN_S:
            pool.asked_for, pool.asked_at_s = 1, now_s
            self.fleets.ensure(pool.fleet, 1)

    # -- sessions --------------------------------------------------------------------------------

    def _admit_to_session(self, exchange: Exchange, session: str) -> Refusal | None:
        """To the worker that opened it, and no other."""
        pool = exchange.pool
        held = self._sessions.find(pool.region, pool.endpoint, session)
        worker = self.roster.worker(held.worker) if held is not None and held.expires_s > time.time() else None
        if worker is None or self.pools[worker.fleet].route.container != pool.route.container:
            why = "is not open" if held is None else "has ended with the process that held it"
            self._sessions.forget(pool.region, pool.endpoint, session)
            return answers.validation(f"Session {session} {why}; open another one with SessionId {NEW_SESSION}.")
        exchange.pool = self.pools[worker.fleet]
        exchange.pool.inside += 1
        exchange.retried = True  # no other worker knows the session
        self.send(exchange, worker)
        return None

    def session(self, exchange: Exchange, header: bytes, value: bytes) -> None:
        """A model has opened or closed one."""
        pool, worker = exchange.pool, exchange.worker
        if worker is not None:
            self._sessions.told(pool.region, pool.endpoint, worker.id, header, value, time.time())

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
        exchange.queued_until_s = now_s + exchange.patience_s
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
            self._suspect(pool, worker)
        elif worker is not None and end == "hung":
            self._deadlines.end_hung(worker)
        elif worker is not None and end != "unused":
            self._proven_alive(worker)
        self._release(lease)

    def send(self, exchange: Exchange, worker: Worker) -> None:
        """Hands an admitted request to a worker."""
        worker.outstanding += 1
        exchange.worker = worker
        exchange.deadline_s = self._loop.time() + exchange.limit_s
        exchange.pool.in_flight[exchange] = None
        if not self._deadlines.armed:
            self.arm()
        if exchange.leased:
            exchange.granted(worker)
            return
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
        if exchange.worker is not None:
            self._proven_alive(exchange.worker)
        self._release(exchange)

    def _proven_alive(self, worker: Worker) -> None:
        worker.proven_alive_s = self._loop.time()
        worker.misses = 0

    def capture(self, exchange: Exchange, content_type: bytes, body: bytes) -> None:
        """Keeps a sampled call; a route that has lost its capture meanwhile keeps nothing."""
        pool = exchange.pool
        if pool.route.capture is not None:
            request, request_body_bytes = exchange.asked
            self._spool.take(
                Call(
                    pool.route.capture,
                    self._account,
                    pool.region,
                    pool.endpoint,
                    pool.route.name,
                    time.time(),
                    request,
                    request_body_bytes,
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
        refusal = self._model_error(pool, worker, status, text)
        pool.meter.add("model_errors")
        data = answers.encode(refusal, exchange.client.keep_open)
        self._settle(exchange, data, max(status, 400), model_us, len(body))
        self._release(exchange)

    def _model_error(self, pool: Pool, worker: Worker | None, status: int, text: str) -> Refusal:
        several = pool.route.container and worker is not None
        stream = f"{pool.route.name}/{worker.id}/{pool.container}" if several and worker is not None else ""
        return model_error(pool.region, self._account, pool.endpoint, status, text, pool.container, stream)

    def _settle(self, exchange: Exchange, data: bytes, status: int, model_us: int, body_bytes: int) -> None:
        """The (rest of the) answer leaves, and is counted with its last byte."""
        pool = exchange.pool
        overhead_us = max(0, (perf_counter_ns() - exchange.arrived_ns) // 1000 - model_us)
        told = Answered(status, model_us, overhead_us, exchange.body_bytes, body_bytes, pool.route.serverless)
        exchange.client.settle(data, pool.meter, told)

    def malformed(self, exchange: Exchange, why: str) -> None:
        """The worker's answer is not HTTP or breaks a bound."""
        self.failed(exchange, 500, f"the model's answer is malformed: {why}")

    def upstream_lost(self, exchange: Exchange, untouched: bool) -> None:
        """The connection ended before the answer did: tried again where that is safe, else told."""
        if untouched and exchange.retried:
            self.failed(exchange, 0, "the model's process takes no connections, or closes them unread")
            return
        if untouched and not exchange.head_sent:
            pool, worker = exchange.pool, exchange.worker
            self.take_back(exchange)
            if worker is not None:
                self._suspect(pool, worker)
            self.admit_again(exchange)
            return
        self.failed(exchange, 0, "the model's process ended while it computed the answer")

    def admit_again(self, exchange: Exchange) -> None:
        """One that was taken back from its worker."""
        exchange.pool.inside -= 1
        refusal = self.enter(exchange, exchange.model.target if exchange.model is not None else "")
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

    def _suspect(self, pool: Pool, worker: Worker) -> None:
        """It dropped a request: probably it dies, and the news of it is under way."""
        worker.suspect = True
        self._loop.call_later(SUSPECT_S, self._trust, pool, worker)

    def _trust(self, pool: Pool, worker: Worker) -> None:
        """It has outlived the suspicion: only that connection was lost."""
        worker.suspect = False
        self.serve_waiting(pool)
        self.multi_models.serve(pool)

    def failed(self, exchange: Exchange, status: int, why: str) -> None:
        """The worker gave no answer that could be passed on."""
        pool = exchange.pool
        if exchange.head_sent and exchange.stream:
            timed_out = self._loop.time() >= exchange.deadline_s
            self._break_stream(exchange, "ModelInvocationTimeExceeded" if timed_out else "StreamBroken", why)
            return
        if exchange.head_sent:
            exchange.client.abort()
        else:
            exchange.client.refuse(self._model_error(pool, exchange.worker, status, why))
        now_ns = perf_counter_ns()
        pool.meter.add("model_errors")
        sent_ns = exchange.sent_ns or now_ns
        model_us = (now_ns - sent_ns) // 1000
        total_us = (now_ns - exchange.arrived_ns) // 1000
        if exchange.chain is None:  # a chain counts itself, as a whole
            told = Answered(500, model_us, total_us - model_us, exchange.body_bytes, 0, pool.route.serverless)
            pool.meter.answered(told)
        self._release(exchange)

    def refuse_waiting(self, exchange: Exchange, refusal: Refusal) -> None:
        """The answer to one who has waited in vain; who calls has taken it out of its line."""
        exchange.done = True
        exchange.client.refuse(refusal)
        if exchange.leased or exchange.chain is not None:
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

    # -- what is asked of all of it --------------------------------------------------------------

    def arm(self) -> None:
        """Something has changed that the timer looks after."""
        self._deadlines.arm()

    def park(self, region: str, name: str) -> int:
        """Lets an endpoint's workers go, each when it is idle; how many were told to at once. A request wakes it."""
        endpoint = self.endpoint(region, name)
        stopped = 0
        for route in (one for variant in endpoint.variants for one in variant.routes) if endpoint else ():
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
                    "endpoint": pool.endpoint,
                    "component": pool.route.component,
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
