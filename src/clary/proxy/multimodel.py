"""Calls of multi-model endpoints: which worker holds the model, who loads it, and what goes for it.

A call whose model is held is sent at once. Otherwise it waits in its model's own line while one task per model brings
the model in: control puts its files where workers see them, a worker is told to load it, and where that worker says
507 its least recently used idle models go first. A model that nobody can load is told to all who wait for it, and is
tried again by the next call.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from clary.domain.multimodel import Held, Place, holder, loader, spills, victims
from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.forward import Exchange, model_error, readable

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher

FETCH_LIMIT_S = 300.0
LOAD_LIMIT_S = 360.0  # how long a load may go on when its callers have been told to come again
UNLOAD_LIMIT_S = 30.0
WORKER_LIMIT_S = 60.0
LOOK_EVERY_S = 0.01
MAX_ANSWER_BYTES = 1 << 20
MAX_EVICTIONS = 1000  # for one load
CONTAINER = "primary"


@dataclass(slots=True, eq=False)
class Model:
    """One target of a pool. `name` and `url` are what workers know it by."""

    target: str
    name: str = ""
    url: str = ""
    bytes: int = 0
    holders: dict[str, Worker] = field(default_factory=dict)
    inflight: Counter[str] = field(default_factory=Counter)  # by worker
    waiting: deque[Exchange] = field(default_factory=deque)
    last_used_s: float = 0.0
    loading: asyncio.Task[None] | None = None


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

    # -- calls -----------------------------------------------------------------------------------

    def admit(self, exchange: Exchange, target: str) -> Refusal | None:
        """Sends the call, or lets it wait for its model."""
        pool = exchange.pool
        model = pool.models.get(target)
        if model is None:
            model = pool.models[target] = Model(target)
        model.last_used_s = self._loop.time()
        exchange.model = model
        chosen = holder([_place(worker) for worker in _able(model.holders.values(), pool)])
        if chosen is not None:
            pool.inside += 1
            pool.meter.add("model_hits")
            self._send(exchange, model.holders[chosen.worker])
            self._maybe_spill(pool, model)
            return None
        if len(model.waiting) >= pool.route.queue_limit:
            pool.meter.add("no_capacity")
            return answers.unavailable(
                f"{pool.route.queue_limit} requests already wait for model {target} (setting queue_limit)."
            )
        pool.inside += 1
        pool.meter.add("model_misses")
        exchange.waited = True
        exchange.queued_until_s = self._loop.time() + pool.route.queue_timeout_s
        exchange.line = model.waiting
        model.waiting.append(exchange)
        self._begin(pool, model)
        return None

    def _send(self, exchange: Exchange, worker: Worker) -> None:
        model = exchange.model
        assert model is not None
        model.inflight[worker.id] += 1
        exchange.request = b"POST /models/%b/invoke HTTP/1.1\r\nHost: worker\r\n%b" % (
            model.name.encode(),
            exchange.parts,
        )
        self._dispatcher.send(exchange, worker)

    def released(self, exchange: Exchange, worker: Worker) -> None:
        """The call is over, however it ended."""
        model, pool = exchange.model, exchange.pool
        assert model is not None
        model.inflight[worker.id] -= 1
        if not model.inflight[worker.id]:
            del model.inflight[worker.id]
        if not pool.route.cache_models and not model.inflight and not model.waiting:
            self._task(self._unload(pool, model, worker))

    def not_there(self, exchange: Exchange, worker: Worker) -> None:
        """The worker has lost the model by itself: load it again, once for a call."""
        model = exchange.model
        assert model is not None
        _drop(model, worker)
        exchange.line = model.waiting
        model.waiting.append(exchange)
        self._begin(exchange.pool, model)

    def forget(self, pool: Pool, worker: Worker) -> None:
        """A worker has gone, and its models with it."""
        for target, model in list(pool.models.items()):
            model.holders.pop(worker.id, None)
            if not model.holders and model.loading is None and not model.waiting:
                del pool.models[target]

    def expire(self, pool: Pool, now_s: float) -> None:
        """Callers that have waited long enough are told to come again; the load goes on."""
        for model in pool.models.values():
            while model.waiting and now_s >= model.waiting[0].queued_until_s:
                exchange = model.waiting.popleft()
                pool.inside -= 1
                pool.meter.add("queue_timeouts")
                text = f"Model {model.target} is still loading; try again."
                self._dispatcher.refuse_waiting(exchange, Refusal("ModelNotReadyException", 429, text))

    # -- loading ---------------------------------------------------------------------------------

    def _maybe_spill(self, pool: Pool, model: Model) -> None:
        if model.loading is not None or len(pool.workers) == len(model.holders):
            return
        held = [_place(worker) for worker in _able(model.holders.values(), pool)]
        others = [_place(w) for w in _able(pool.workers.values(), pool) if w.id not in model.holders]
        if spills(held, others):
            self._begin(pool, model)

    def _begin(self, pool: Pool, model: Model) -> None:
        if model.loading is None:
            model.loading = self._task(self._bring(pool, model))

    def _task(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _bring(self, pool: Pool, model: Model) -> None:
        """One load, from the object store into a worker; then all who wait are served, or told why not."""
        started_ns = perf_counter_ns()
        try:
            await self._fetch(pool, model)
            worker = await self._load(pool, model)
        except _Failed as error:
            self._refuse_all(pool, model, error.refusal)
        except (OSError, TimeoutError, ValueError) as error:
            reason = f"Model {model.target} could not be loaded: {error or type(error).__name__}."
            self._refuse_all(pool, model, answers.unavailable(reason))
        else:
            waited_us = (perf_counter_ns() - started_ns) // 1000
            while model.waiting:
                pool.meter.add("model_wait_us", waited_us)
                self._send(model.waiting.popleft(), worker)
        finally:
            model.loading = None
            if not model.holders:
                pool.models.pop(model.target, None)

    async def _fetch(self, pool: Pool, model: Model) -> None:
        """Its files are where workers see them. Raises: _Failed."""
        started_ns = perf_counter_ns()
        try:
            told = await self._ask_control({"op": "fetch_model", "fleet": pool.fleet, "target": model.target})
        except OSError as error:
            if model.name:
                return  # it was there before: with control away, what is on the disk still serves
            text = f"Model {model.target} is not loaded, and the object store cannot be asked just now."
            raise _Failed(answers.unavailable(text)) from error
        if "missing" in told:
            raise _Failed(answers.validation(f"Failed to download model data for {model.target}: {told['missing']}."))
        if not told.get("ok"):
            raise _Failed(self._model_error(pool, 500, str(told.get("error"))))
        if told["name"] != model.name:
            model.name, model.url = told["name"], told["url"]
        model.bytes = max(model.bytes, int(told["bytes"]))
        pool.meter.add("model_fetch_us", (perf_counter_ns() - started_ns) // 1000)

    async def _load(self, pool: Pool, model: Model) -> Worker:
        """A worker that now holds the model. Raises: _Failed, OSError, TimeoutError."""
        worker = await self._worker(pool, model)
        body = json.dumps({"model_name": model.name, "url": model.url}).encode()
        evicted = 0
        while True:
            started_ns = perf_counter_ns()
            status, answer = await ask_worker(worker.address, "POST", "/models", body, LOAD_LIMIT_S)
            if status in (200, 409):
                pool.meter.add("model_loads")
                pool.meter.add("model_load_us", (perf_counter_ns() - started_ns) // 1000)
                model.bytes = int(_number(answer, "bytes")) or model.bytes
                model.holders[worker.id] = worker
                worker.models += 1
                worker.model_bytes += model.bytes
                return worker
            if status != 507:
                raise _Failed(self._model_error(pool, status, readable(answer[:4096])))
            going = victims(self._held(pool, worker, model), model.bytes)
            if not going and await self._unload_strangers(pool, worker):
                continue
            if not going or evicted > MAX_EVICTIONS:
                text = f"Model {model.target} does not fit: {readable(answer[:1024])}"
                raise _Failed(answers.unavailable(text))
            for target in going:
                evicted += 1
                await self._unload(pool, pool.models[target], worker)

    async def _worker(self, pool: Pool, model: Model) -> Worker:
        """The worker to load it. Raises: TimeoutError when none comes."""
        asked_s = 0.0
        async with asyncio.timeout(WORKER_LIMIT_S):
            while True:
                able = [w for w in _able(pool.workers.values(), pool) if w.id not in model.holders]
                chosen = loader([_place(worker) for worker in able])
                if chosen is not None:
                    return pool.workers[chosen.worker]
                if self._loop.time() - asked_s > 1.0:
                    asked_s = self._loop.time()
                    self._dispatcher.fleets.ensure(pool.fleet, max(1, pool.route.min_workers))
                await asyncio.sleep(LOOK_EVERY_S)

    async def _unload(self, pool: Pool, model: Model, worker: Worker) -> None:
        """Out of the table first, so that no call goes there any more."""
        if model.holders.get(worker.id) is None or model.inflight.get(worker.id):
            return
        _drop(model, worker)
        if not model.holders and model.loading is None and not model.waiting:
            pool.models.pop(model.target, None)
        started_ns = perf_counter_ns()
        await ask_worker(worker.address, "DELETE", f"/models/{model.name}", b"", UNLOAD_LIMIT_S)
        pool.meter.add("model_unloads")
        pool.meter.add("model_unload_us", (perf_counter_ns() - started_ns) // 1000)

    async def _unload_strangers(self, pool: Pool, worker: Worker) -> int:
        """What the worker holds that we know nothing of: loaded for a proxy that has died. How many went."""
        status, answer = await ask_worker(worker.address, "GET", "/models", b"", UNLOAD_LIMIT_S)
        try:
            listed = [str(one["modelName"]) for one in json.loads(answer)["models"]] if status == 200 else []
        except (ValueError, KeyError, TypeError):
            return 0
        known = {model.name for model in pool.models.values() if worker.id in model.holders or model.loading}
        strangers = [name for name in listed if name not in known]
        for name in strangers:
            await ask_worker(worker.address, "DELETE", f"/models/{name}", b"", UNLOAD_LIMIT_S)
        return len(strangers)

    def _held(self, pool: Pool, worker: Worker, but: Model) -> list[Held]:
        return [
            Held(model.target, model.bytes, model.inflight.get(worker.id, 0), model.last_used_s)
            for model in pool.models.values()
            if worker.id in model.holders and model is not but
        ]

    def _refuse_all(self, pool: Pool, model: Model, refusal: Refusal) -> None:
        while model.waiting:
            exchange = model.waiting.popleft()
            pool.inside -= 1
            self._dispatcher.refuse_waiting(exchange, refusal)

    def _model_error(self, pool: Pool, status: int, text: str) -> Refusal:
        return model_error(pool.region, self._account, pool.endpoint, status, text, CONTAINER)

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


def _drop(model: Model, worker: Worker) -> None:
    if model.holders.pop(worker.id, None) is not None:
        worker.models -= 1
        worker.model_bytes -= model.bytes


def _number(answer: bytes, name: str) -> float:
    """A number that a worker told of a model; 0 where it tells none (a user's own server need not)."""
    try:
        told = json.loads(answer)
    except ValueError:
        return 0
    value = told.get(name, 0) if isinstance(told, dict) else 0
    return value if isinstance(value, (int, float)) else 0


async def ask_worker(address: str, method: str, path: str, body: bytes, limit_s: float) -> tuple[int, bytes]:
    """(status, body) of one request on a connection of its own. Raises: OSError, TimeoutError, ValueError."""
    head = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\nContent-Type: application/json\r\n"
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_unix_connection(address)
        try:
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = int((await reader.readline()).split(b" ")[1])
            length: int | None = None
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                if name.strip().lower() == b"content-length":
                    length = int(value)
            if length is None:
                return status, await reader.read(MAX_ANSWER_BYTES)
            return status, await reader.readexactly(min(length, MAX_ANSWER_BYTES))
        except (IndexError, asyncio.IncompleteReadError) as error:
            raise ConnectionResetError("the worker broke off") from error
        finally:
            writer.close()
