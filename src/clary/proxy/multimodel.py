"""Calls of multi-model endpoints: which worker holds the model, who loads it, and what goes for it.

A call whose model is held by a worker with time is sent at once. Otherwise it waits in its model's own line: for a
holder's next free place, or for the one task per model that brings the model in. Control puts its files where workers
see them, a worker is told to load it, and where that worker says 507 its least recently used idle models go first. A
model that nobody can load is told to all who wait for it, and is tried again by the next call.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from clary.domain.multimodel import Held, Place, holder, loader, spills, victims
from clary.proxy import answers, model_api
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.forward import Exchange, model_error, readable

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher

FETCH_LIMIT_S = 300.0
ROOM_LIMIT_S = 60.0  # of a load that waits: for a worker, for models in use to be let go
LOOK_EVERY_S = 0.01
ASK_ROOM_EVERY_S = 0.1
SPILL_AGAIN_S = 5.0  # after another worker could not take the model
MAX_EVICTIONS = 1000  # for one load
MAX_FILES_KNOWN = 100_000  # targets of a pool whose folder is remembered


@dataclass(frozen=True, slots=True)
class Files:
    """Where workers find a target's model, by control's last word."""

    name: str
    url: str
    bytes: int


@dataclass(slots=True, eq=False)
class Model:
    """One target of a pool that is held, being loaded, or waited for."""

    target: str
    files: Files | None = None
    bytes: int = 0  # measured by its first holder, or of its files
    holders: dict[str, Worker] = field(default_factory=dict)
    inflight: Counter[str] = field(default_factory=Counter)  # by worker
    waiting: deque[Exchange] = field(default_factory=deque)
    spill_from_s: float = 0.0
    loading: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """What workers know it by."""
        return self.files.name if self.files is not None else ""


class _Failed(Exception):
    """The load came to nothing; what its callers are told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class MultiModels:
    """The models of all pools. Everything happens in the event loop."""

    def __init__(self, dispatcher: Dispatcher, account: str, control_socket: Path) -> None:
        self._dispatcher = dispatcher
        self._account = account
        self._control_socket = control_socket
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: dict[tuple[str, str], asyncio.Future[None]] = {}  # (worker, model) being unloaded

    # -- calls -----------------------------------------------------------------------------------

    def admit(self, exchange: Exchange, target: str) -> Refusal | None:
        """Sends the call, or lets it wait for its model."""
        pool = exchange.pool
        model = pool.models.pop(target, None) or Model(target)
        pool.models[target] = model  # the last: they lie in the order of their use
        exchange.model = model
        held = any(worker.routable for worker in model.holders.values())
        worker = self._free_holder(pool, model) if not model.waiting else None
        if worker is None and len(model.waiting) >= pool.route.queue_limit:
            self._tidy(pool, model)
            pool.meter.add("no_capacity")
            return answers.unavailable(
                f"{pool.route.queue_limit} requests already wait for model {target} (setting queue_limit)."
            )
        pool.inside += 1
        pool.meter.add("model_hits" if held else "model_misses")
        if worker is not None:
            self._send(exchange, worker)
        else:
            exchange.waited = not held
            self._line_up(exchange, model)
            self._dispatcher.arm()
        self._maybe_bring(pool, model)
        return None

    def _line_up(self, exchange: Exchange, model: Model) -> None:
        exchange.line = model.waiting
        exchange.queued_until_s = self._loop.time() + exchange.patience_s
        model.waiting.append(exchange)
        exchange.pool.model_lines[model] = None

    def _free_holder(self, pool: Pool, model: Model) -> Worker | None:
        chosen = holder([_place(worker) for worker in _able(model.holders.values(), pool)])
        return model.holders[chosen.worker] if chosen is not None else None

    def _send(self, exchange: Exchange, worker: Worker) -> None:
        model = exchange.model
        assert model is not None
        model.inflight[worker.id] += 1
        name = model.name.encode()
        exchange.request = b"POST /models/%b/invoke HTTP/1.1\r\nHost: worker\r\n%b" % (name, exchange.parts)
        self._dispatcher.send(exchange, worker)

    def serve(self, pool: Pool) -> None:
        """Hands those who wait to holders of their models with room."""
        for model in list(pool.model_lines):
            while model.waiting and (worker := self._free_holder(pool, model)) is not None:
                exchange = model.waiting.popleft()
                if exchange.waited:
                    pool.meter.add("model_wait_us", (perf_counter_ns() - exchange.arrived_ns) // 1000)
                self._send(exchange, worker)
            if not model.waiting:
                pool.model_lines.pop(model, None)

    def released(self, exchange: Exchange, worker: Worker) -> None:
        """The call is over, however it ended: its place is free again."""
        model, pool = exchange.model, exchange.pool
        assert model is not None
        model.inflight[worker.id] -= 1
        if not model.inflight[worker.id]:
            del model.inflight[worker.id]
        if pool.model_lines:
            self.serve(pool)
        if not pool.route.cache_models and worker.id not in model.inflight and not model.waiting:
            self._task(self._let_go(pool, model, worker))
        self._tidy(pool, model)

    def doubted(self, exchange: Exchange, worker: Worker, status: int, body: bytes) -> None:
        """A 404 or 507 for a call: the worker may have lost the model, or lack room for the call. Asked again once."""
        exchange.retried = True
        exchange.upstream = None  # that connection may serve another call by now
        self._task(self._look_into(exchange, worker, status, body))

    async def _look_into(self, exchange: Exchange, worker: Worker, status: int, body: bytes) -> None:
        pool, model = exchange.pool, exchange.model
        assert model is not None
        again = False
        try:
            if status == 507:
                going = victims(self._held(pool, worker, model), 1)
                await self._unload_all(pool, worker, going)
                again = bool(going)
            elif not await model_api.holds(worker.address, model.name):
                _drop(model, worker)
                again = True
        except (OSError, ValueError):
            pass  # it answers nothing: the call's own answer is what we have
        if exchange.done:
            return  # its caller has left, or its time is over
        if not again:
            self._dispatcher.model_error(exchange, status, body, perf_counter_ns())
            return
        self._dispatcher.take_back(exchange)
        self._dispatcher.admit_again(exchange)

    def forget(self, pool: Pool, worker: Worker) -> None:
        """A worker has gone, and its models with it."""
        for model in list(pool.models.values()):
            _drop(model, worker)
            if model.waiting:
                self._maybe_bring(pool, model)
            self._tidy(pool, model)

    def expire(self, pool: Pool, now_s: float) -> None:
        """Callers that have waited long enough are told to come again; the load goes on."""
        for model in list(pool.model_lines):
            while model.waiting and now_s >= model.waiting[0].queued_until_s:
                exchange = model.waiting.popleft()
                pool.inside -= 1
                pool.meter.add("queue_timeouts")
                text = f"Model {model.target} of endpoint {pool.endpoint} is not ready yet; try again."
                self._dispatcher.refuse_waiting(exchange, Refusal("ModelNotReadyException", 429, text))
            if not model.waiting:
                pool.model_lines.pop(model, None)
                self._tidy(pool, model)

    def waiting(self, pool: Pool) -> list[Exchange]:
        """Takes all who wait out of their lines."""
        found = [exchange for model in pool.model_lines for exchange in model.waiting]
        for model in pool.model_lines:
            model.waiting.clear()
        pool.model_lines.clear()
        return found

    # -- loading ---------------------------------------------------------------------------------

    def _maybe_bring(self, pool: Pool, model: Model) -> None:
        """Begins a load where nobody holds the model, or all who do are busy and another worker is not."""
        if model.loading is not None:
            return
        live = [_place(worker) for worker in model.holders.values() if worker.routable]
        if live:
            if len(pool.workers) == len(live) or self._loop.time() < model.spill_from_s:
                return
            others = [_place(w) for w in _able(pool.workers.values(), pool) if w.id not in model.holders]
            if not spills(live, others):
                return
        model.loading = self._task(self._bring(pool, model))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bring(self, pool: Pool, model: Model) -> None:
        """One load, from the object store into a worker; then all who wait are served, or told why not."""
        refusal: Refusal | None = None
        try:
            await self._fetch(pool, model)
            await self._load(pool, model)
        except _Failed as error:
            refusal = error.refusal
        except (OSError, ValueError) as error:
            reason = f"Model {model.target} could not be loaded: {error or type(error).__name__}."
            refusal = answers.unavailable(reason)
        model.loading = None
        if refusal is not None:
            model.spill_from_s = self._loop.time() + SPILL_AGAIN_S
            if not any(worker.routable for worker in model.holders.values()):
                self._refuse_all(pool, model, refusal)
        self.serve(pool)
        self._tidy(pool, model)

    def _tidy(self, pool: Pool, model: Model) -> None:
        """Forgets a model that nobody holds, loads or waits for."""
        if not model.holders and model.loading is None and not model.waiting and not model.inflight:
            pool.models.pop(model.target, None)

    async def _fetch(self, pool: Pool, model: Model) -> None:
        """Its files are where workers see them. Raises: _Failed."""
        started_ns = perf_counter_ns()
        files = pool.model_files.pop(model.target, None)
        try:
            told = await self._ask_control({"op": "fetch_model", "fleet": pool.fleet, "target": model.target})
        except OSError as error:
            if files is None:
                text = f"Model {model.target} is not loaded, and the object store cannot be asked just now."
                raise _Failed(answers.unavailable(text)) from error
        else:
            if "invalid" in told:
                raise _Failed(answers.validation(str(told["invalid"])))
            if not told.get("ok"):
                raise _Failed(self._model_error(pool, 500, str(told.get("error"))))
            files = Files(told["name"], told["url"], int(told["bytes"]))
            pool.meter.add("model_fetch_us", (perf_counter_ns() - started_ns) // 1000)
        while len(pool.model_files) >= MAX_FILES_KNOWN:
            del pool.model_files[next(iter(pool.model_files))]
        pool.model_files[model.target] = files
        if not model.holders:  # those who hold it know it by the name that it had
            model.files, model.bytes = files, files.bytes

    async def _load(self, pool: Pool, model: Model) -> None:
        """A worker holds the model. Raises: _Failed, OSError, ValueError."""
        worker = await self._worker(pool, model)
        worker.outstanding += 1  # a load is work: the worker is not idle, and is not asked whether it lives
        try:
            await self._load_into(pool, model, worker)
        finally:
            worker.outstanding -= 1
            if not worker.outstanding:
                worker.idle_since_s = self._loop.time()

    async def _load_into(self, pool: Pool, model: Model, worker: Worker) -> None:
        assert model.files is not None
        evicted = 0
        until_s = self._loop.time() + ROOM_LIMIT_S
        while True:
            leaving = self._leaving.get((worker.id, model.name))
            if leaving is not None:
                await leaving
            started_ns = perf_counter_ns()
            told = await model_api.load(worker.address, model.name, model.files.url)
            if worker.closed:
                raise ConnectionResetError("the worker that loaded it has ended")
            if told.status in (200, 409):
                pool.meter.add("model_loads")
                pool.meter.add("model_load_us", (perf_counter_ns() - started_ns) // 1000)
                if not model.holders:
                    model.bytes = told.number("bytes") or model.bytes
                _keep(model, worker)
                return
            if told.status != 507:
                raise _Failed(self._model_error(pool, told.status, readable(told.body[:4096])))
            lacking_bytes = told.number("lackingBytes") or model.bytes
            held = self._held(pool, worker, model)
            going = victims(held, lacking_bytes) if evicted < MAX_EVICTIONS else []
            busy = any(True for _ in self._held(pool, worker, model))
            if going:
                evicted += len(going)
                await self._unload_all(pool, worker, going)
            elif busy and evicted < MAX_EVICTIONS and self._loop.time() < until_s:
                await asyncio.sleep(ASK_ROOM_EVERY_S)  # all are in use: one will be let go
            elif not await self._unload_strangers(pool, worker):
                text = f"Model {model.target} does not fit: {readable(told.body[:1024])}"
                raise _Failed(answers.unavailable(text))

    async def _worker(self, pool: Pool, model: Model) -> Worker:
        """The worker to load it. Raises: TimeoutError when none comes."""
        asked_s = 0.0
        async with asyncio.timeout(ROOM_LIMIT_S):
            while True:
                able = [w for w in _able(pool.workers.values(), pool) if w.id not in model.holders]
                chosen = loader([_place(worker) for worker in able])
                if chosen is not None:
                    return pool.workers[chosen.worker]
                if self._loop.time() - asked_s > 1.0:
                    asked_s = self._loop.time()
                    self._dispatcher.fleets.ensure(pool.fleet, max(1, pool.route.min_workers))
                await asyncio.sleep(LOOK_EVERY_S)

    # -- unloading -------------------------------------------------------------------------------

    async def _unload_all(self, pool: Pool, worker: Worker, targets: Iterable[str]) -> None:
        for target in targets:
            model = pool.models.get(target)
            if model is not None:
                await self._unload(pool, model, worker)

    async def _unload(self, pool: Pool, model: Model, worker: Worker) -> None:
        """Out of the table first, so that no call goes there any more. Raises: OSError, ValueError."""
        if worker.id not in model.holders or model.inflight.get(worker.id):
            return
        _drop(model, worker)
        self._tidy(pool, model)
        key = (worker.id, model.name)
        gone = self._leaving[key] = self._loop.create_future()
        started_ns = perf_counter_ns()
        try:
            await model_api.unload(worker.address, model.name)
        finally:
            del self._leaving[key]
            gone.set_result(None)
        pool.meter.add("model_unloads")
        pool.meter.add("model_unload_us", (perf_counter_ns() - started_ns) // 1000)

    async def _let_go(self, pool: Pool, model: Model, worker: Worker) -> None:
        try:
            await self._unload(pool, model, worker)
        except (OSError, ValueError):
            return  # a worker that does not answer is its health check's business; what it kept is a stranger's now

    async def _unload_strangers(self, pool: Pool, worker: Worker) -> int:
        """What the worker holds that we know nothing of: loaded for a proxy that has died. How many went."""
        known = {model.name for model in pool.models.values() if worker.id in model.holders or model.loading}
        strangers = [name for name in await model_api.listed(worker.address) if name not in known]
        gone = [(await model_api.unload(worker.address, name)).status == 200 for name in strangers]
        return sum(gone)

    def _held(self, pool: Pool, worker: Worker, but: Model) -> Iterator[Held]:
        """Least recently used first."""
        for model in pool.models.values():
            if worker.id in model.holders and model is not but:
                yield Held(model.target, model.bytes, model.inflight.get(worker.id, 0))

    def _refuse_all(self, pool: Pool, model: Model, refusal: Refusal) -> None:
        while model.waiting:
            exchange = model.waiting.popleft()
            pool.inside -= 1
            if refusal.code == "ModelError":
                pool.meter.add("model_errors")
            self._dispatcher.refuse_waiting(exchange, refusal)
        pool.model_lines.pop(model, None)

    def _model_error(self, pool: Pool, status: int, text: str) -> Refusal:
        return model_error(pool.region, self._account, pool.endpoint, status, text, pool.container)

    async def _ask_control(self, message: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(FETCH_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(str(self._control_socket), limit=1 << 20)
            try:
                writer.write(json.dumps(message).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        if not line:
            raise ConnectionResetError("control has ended the connection")
        told: dict[str, Any] = json.loads(line)
        return told


def _place(worker: Worker) -> Place:
    return Place(worker.id, worker.outstanding, worker.models, worker.model_bytes)


def _able(workers: Iterable[Worker], pool: Pool) -> list[Worker]:
    limit = pool.route.worker_concurrency
    return [w for w in workers if w.routable and not w.suspect and w.outstanding < limit]


def _keep(model: Model, worker: Worker) -> None:
    model.holders[worker.id] = worker
    worker.models += 1
    worker.model_bytes += model.bytes


def _drop(model: Model, worker: Worker) -> None:
    if model.holders.pop(worker.id, None) is not None:
        worker.models -= 1
        worker.model_bytes -= model.bytes
