"""Many models in one process, by the API that AWS's multi-model containers speak:

    POST   /models {"model_name": N, "url": folder}   200; 409 when it is loaded, 507 when memory would not do
    GET    /models                                    {"models": [{"modelName", "modelUrl"}]}
    GET    /models/N, DELETE /models/N                200, or 404
    POST   /models/N/invoke                           the model's answer, or 404

Memory is measured, not guessed: what the process grew by since it started, against its share of the instance's memory
with a reserve. A load that would not fit is refused before it begins where its last load or the size of its files tells
so, and undone where only the load itself told; so loads are made one after the other. What unloaded models held is
given back to the system when a load needs it. Models of bare artifacts load on a thread, so that the others answer
meanwhile; one with a script of its own loads on the loop's thread, as its modules have to be alone in the interpreter
then.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Callable, Dict, Iterator, List, Optional

from . import loader, memory, scripts
from .batching import Batcher
from .contract import JSON, TEXT, Handler, LoadError, Request, Response
from .handler import PredictorHandler
from .spec import WorkerSpec

_RESERVE_RATIO = 0.1  # of the memory limit, kept for requests
_RESERVE_BYTES = 48 << 20
_FILE_FACTOR = 1.5  # what a model of unknown kind takes in memory, in sizes of its files
_EXPANSION_WEIGHT = 0.5  # of the last load in what is expected of the next
_ROOM_RATIO = 0.02  # of the budget, freed beyond what lacks
_MAX_LOADS = 1000  # that wait
_SIZES_KEPT = 100_000  # of models that were loaded once
_GUESS_RATIO = 0.1  # of the budget, that lacks a load which failed for want of memory
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "unable to allocate", "cannot allocate memory", "out of memory")


class Model:
    """One loaded model."""

    __slots__ = ("batcher", "bytes", "handler", "load_ms", "name", "url")

    def __init__(self, name: str, url: str, handler: Handler, batcher: Batcher, bytes_: int, load_ms: float) -> None:
        self.name = name
        self.url = url
        self.handler = handler
        self.batcher = batcher
        self.bytes = bytes_
        self.load_ms = load_ms

    def described(self) -> Dict[str, Any]:
        return {
            "modelName": self.name,
            "modelUrl": self.url,
            "bytes": self.bytes,
            "loadMs": round(self.load_ms, 3),
            "loader": self.handler.loader,
        }


class Order:
    """A load that was asked for, by one or several."""

    __slots__ = ("exchanges", "name", "url")

    def __init__(self, name: str, url: str, exchange: Any) -> None:
        self.name = name
        self.url = url
        self.exchanges: List[Any] = [exchange]


class Models:
    """The models of one process. Calls come from the loop's thread."""

    def __init__(self, spec: WorkerSpec, loop: Any) -> None:
        self._spec = spec
        self._loop = loop
        self._models: Dict[str, Model] = {}
        self._wanted: Dict[str, Order] = {}  # loads, first come first served; the first is under way
        self._thread = ThreadPoolExecutor(1, "load")
        self._start_bytes = memory.resident_bytes()
        reserve = max(_RESERVE_BYTES, int(spec.memory_bytes * _RESERVE_RATIO))
        self._budget_bytes = max(1, spec.memory_bytes - self._start_bytes - reserve) if spec.memory_bytes else 0
        self._untrimmed = False  # models have gone since memory was last given back
        self._sizes: Dict[str, int] = {}  # bytes of models as they were loaded last, by name
        self._expansion = _FILE_FACTOR  # bytes in memory by bytes of files, of the models loaded so far
        self._largest_bytes = 0
        memory.map_large_arrays()

    def take(self, method: bytes, path: bytes, exchange: Any) -> None:
        """Answers, now or later, what was asked below /models."""
        parts = path.decode("latin-1").split("/")[2:]  # "", "models", ...
        name = parts[0] if parts else ""
        if len(parts) == 2 and parts[1] == "invoke" and method == b"POST":
            self._invoke(name, exchange)
        elif not name and method == b"POST":
            self._load(exchange)
        elif not name and method == b"GET":
            exchange.answer(_json({"models": [model.described() for model in self._models.values()]}))
        elif len(parts) == 1 and method in (b"GET", b"DELETE"):
            model = self._models.get(name)
            if model is None:
                exchange.answer(_said(404, "Model %s is not loaded." % name))
            elif method == b"GET":
                exchange.answer(_json(model.described()))
            else:
                self._unload(model)
                exchange.answer(_json({"status": "Model %s was unloaded." % name, **self._memory()}))
        else:
            asked = (method + b" " + path).decode("latin-1")
            exchange.answer(_said(405, "%s is not taken here." % asked))

    # -- calls

    def _invoke(self, name: str, exchange: Any) -> None:
        model = self._models.get(name)
        if model is None:
            exchange.answer(_said(404, "Model %s is not loaded." % name))
        else:
            model.batcher.submit(exchange)

    # -- loading

    def _load(self, exchange: Any) -> None:
        try:
            asked = json.loads(exchange.request.body)
            name, url = str(asked["model_name"]), str(asked["url"])
        except (ValueError, KeyError, TypeError):
            exchange.answer(_said(400, 'POST /models takes {"model_name": ..., "url": ...}.'))
            return
        if name in self._models:
            exchange.answer(_said(409, "Model %s is loaded already." % name))
        elif name in self._wanted:
            self._wanted[name].exchanges.append(exchange)
        elif len(self._wanted) >= _MAX_LOADS:
            exchange.answer(_said(503, "%d loads wait already." % _MAX_LOADS))
        else:
            self._wanted[name] = Order(name, url, exchange)
            if len(self._wanted) == 1:
                self._begin()

    def _begin(self) -> None:
        """The next load. One at a time: whether it fits is measured when the one before it is in."""
        while self._wanted:
            order = next(iter(self._wanted.values()))
            lacking_bytes = self._lacking_bytes(order.name, order.url)
            if lacking_bytes:
                self._end(order, self._full(order.name, lacking_bytes))
                continue
            spec = replace(self._spec, model_dir=order.url, code_dir="", cache_dir="", warm_up=False)
            try:
                program = _program(spec, self._spec.code_dir)
            except LoadError as error:
                self._end(order, _failed(order.name, error))
                continue
            if program is None:
                job = self._loop.run_in_executor(self._thread, _built, partial(_bare, spec))
                job.add_done_callback(partial(self._built, order))
                return
            self._loaded(order, _built(partial(_Scripted, program, spec)))

    def _built(self, order: Order, job: Any) -> None:
        self._loaded(order, job.result())
        self._begin()

    def _loaded(self, order: Order, result: Any) -> None:
        error, handler, bytes_, load_ms = result
        if error is not None:
            lacking_bytes = max(bytes_, int(self._budget_bytes * _GUESS_RATIO))
            failed = self._full(order.name, lacking_bytes) if _is_memory(error) else _failed(order.name, error)
            self._end(order, failed)
            return
        self._learn(order, bytes_)
        batching = self._spec.batching == "auto"
        batcher = Batcher(handler, self._loop.call_soon, self._spec.max_batch_size, batching)
        model = self._models[order.name] = Model(order.name, order.url, handler, batcher, bytes_, load_ms)
        # It stays, so no later collection is to walk it: with thousands of models that would stop all calls meanwhile.
        gc.collect()
        gc.freeze()
        over_bytes = self._used_bytes() - self._budget_bytes
        if self._budget_bytes and over_bytes > 0 and len(self._models) > 1 and self._trimmed() > self._budget_bytes:
            del handler, batcher, result
            self._unload(model)
            self._trimmed()
            self._end(order, self._full(order.name, over_bytes))
            return
        self._end(order, _json({"status": "Model %s is loaded." % order.name, **model.described(), **self._memory()}))

    def _end(self, order: Order, answer: Response) -> None:
        del self._wanted[order.name]
        for exchange in order.exchanges:
            exchange.answer(answer)

    def _unload(self, model: Model) -> None:
        """What it held is free for the next load at once, and the system's again when a load needs it."""
        del self._models[model.name]
        model.handler = model.batcher = None  # type: ignore[assignment]
        self._untrimmed = True

    # -- memory

    def _learn(self, order: Order, bytes_: int) -> None:
        """So that its next load is refused in time, and others of its kind."""
        self._sizes.pop(order.name, None)
        while len(self._sizes) >= _SIZES_KEPT:
            del self._sizes[next(iter(self._sizes))]
        self._sizes[order.name] = bytes_
        self._largest_bytes = max(self._largest_bytes, bytes_)
        found = bytes_ / max(1, _folder_bytes(order.url))
        self._expansion += (max(_FILE_FACTOR, found) - self._expansion) * _EXPANSION_WEIGHT

    def _needed_bytes(self, name: str, url: str) -> int:
        """What a model will take, as far as one can know: no model is expected to be larger than all before it only
        because others were packed well."""
        files = _folder_bytes(url)
        expected = min(int(files * self._expansion), self._largest_bytes)
        return self._sizes.get(name) or max(expected, int(files * _FILE_FACTOR))

    def _lacking_bytes(self, name: str, url: str) -> int:
        """How many bytes must be freed before this may be loaded; 0: it may.

        Somewhat more than lacks: what gives memory back costs the same for many models as for one.
        """
        if not self._budget_bytes:
            return 0
        # Alone in here it is tried if its files fit: nothing could make more room for it.
        needed = self._needed_bytes(name, url) if self._models else _folder_bytes(url)
        if self._used_bytes() + needed <= self._budget_bytes:
            return 0
        used = self._trimmed()
        if used + needed <= self._budget_bytes:
            return 0
        return used + needed - self._budget_bytes + int(self._budget_bytes * _ROOM_RATIO)

    def _trimmed(self) -> int:
        """Bytes in use when the memory of models that have gone is the system's again."""
        if self._untrimmed:
            gc.unfreeze()  # the models that have gone are walked once more
            gc.collect()
            gc.freeze()
            memory.trim()
            self._untrimmed = False
        return self._used_bytes()

    def _full(self, name: str, lacking_bytes: int) -> Response:
        used = self._used_bytes()
        told = {
            "code": 507,
            "type": "InsufficientStorage",
            "message": "There is no room for model %s: models take %d of %d bytes, and %d more must be freed."
            % (name, used, self._budget_bytes, lacking_bytes),
            "lackingBytes": lacking_bytes,
            **self._memory(),
        }
        return Response(json.dumps(told).encode(), JSON, 507)

    def _used_bytes(self) -> int:
        return max(0, memory.resident_bytes() - self._start_bytes)

    def _memory(self) -> Dict[str, int]:
        return {"usedBytes": self._used_bytes(), "budgetBytes": self._budget_bytes, "loadedModels": len(self._models)}


class NoModel:
    """What answers /invocations of a multi-model worker."""

    loader = "multi-model"
    note = ""
    warmed = False
    batchable = False

    def invoke(self, request: Request) -> Response:
        return _said(400, "This worker holds many models; POST /models/NAME/invoke.")

    def invoke_many(self, requests: List[Request]) -> List[Response]:
        return [self.invoke(request) for request in requests]


class _Scripted:
    """A handler whose modules are in the interpreter only while it runs: two models may both have a `utils.py`."""

    def __init__(self, program: scripts.Program, spec: WorkerSpec) -> None:
        self._folder = program.folder
        self._modules: Dict[str, Any] = {}
        with self._entered():
            self._handler = scripts.load(program, spec)
        self.loader: str = self._handler.loader
        self.note: str = self._handler.note
        self.warmed: bool = self._handler.warmed

    @property
    def batchable(self) -> bool:
        return bool(self._handler.batchable)

    def invoke(self, request: Request) -> Response:
        with self._entered():
            return self._whole(self._handler.invoke(request))

    def invoke_many(self, requests: List[Request]) -> List[Response]:
        with self._entered():
            return [self._whole(response) for response in self._handler.invoke_many(requests)]

    def _whole(self, response: Response) -> Response:
        """A generator would run on when our modules have left: its pieces are taken now."""
        if not isinstance(response.body, bytes):
            pieces = [piece.encode() if isinstance(piece, str) else bytes(piece) for piece in response.body]
            response.body = b"".join(pieces)
        return response

    @contextmanager
    def _entered(self) -> Iterator[None]:
        sys.path.insert(0, self._folder)
        sys.modules.update(self._modules)
        before = set(sys.modules) if not self._modules else None
        count = len(sys.modules)
        try:
            yield
        finally:
            if before is not None or len(sys.modules) != count:
                self._modules = {name: one for name, one in sys.modules.items() if self._is_ours(one)}
            for name in self._modules:
                sys.modules.pop(name, None)
            if self._folder in sys.path:
                sys.path.remove(self._folder)

    def _is_ours(self, module: Any) -> bool:
        """Looks into the module's dictionary only: a lazy module would import itself if it were asked."""
        names = getattr(module, "__dict__", {})
        file = names.get("__file__")
        places = [file] if isinstance(file, str) else list(names.get("__path__") or ())
        return any(str(place).startswith(self._folder + os.sep) for place in places)


def _program(spec: WorkerSpec, shared_dir: str) -> Optional[scripts.Program]:
    """The model's own script, else the one that all models share. Raises: LoadError."""
    try:
        own = scripts.locate(spec)
    except LoadError:
        if not shared_dir:
            raise
        own = None
    return own if own is not None or not shared_dir else scripts.locate(replace(spec, code_dir=shared_dir))


def _bare(spec: WorkerSpec) -> Any:
    if scripts.is_served(None, spec):
        return scripts.load(None, spec)
    predictor, note = loader.load(spec.model_dir, spec.framework, spec.threads, spec.environ)
    return PredictorHandler(predictor, spec, note)


def _built(make: Callable[[], Any]) -> Any:
    """(error, handler, bytes that the process grew by, milliseconds)."""
    resident, allocated, started_s = memory.resident_bytes(), memory.allocated_bytes(), perf_counter()

    def grown() -> int:
        return max(0, memory.resident_bytes() - resident, memory.allocated_bytes() - allocated)

    try:
        handler = make()
    except BaseException as error:  # the worker's border: one model's failure is no other's
        if not isinstance(error, LoadError):
            traceback.print_exc(file=sys.stderr)
        return error, None, grown(), 0.0
    return None, handler, grown(), (perf_counter() - started_s) * 1000.0


def _is_memory(error: BaseException) -> bool:
    """Whether a load failed for want of memory; a LoadError carries what the library raised as its cause."""
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return True
    told = str(error).lower()  # native libraries say so in words only
    return any(words in told for words in _MEMORY_WORDS)


def _failed(name: str, error: BaseException) -> Response:
    reason = "%s (%s)" % (error.reason, error.hint) if isinstance(error, LoadError) else repr(error)
    return _said(500, "Model %s could not be loaded: %s" % (name, reason))


def _folder_bytes(url: str) -> int:
    found = 0
    for place, _, files in os.walk(url):
        for name in files:
            try:
                found += os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue  # a link that leads nowhere; the load will say what it misses
    return found


def _json(value: Any) -> Response:
    return Response(json.dumps(value).encode(), JSON)


def _said(status: int, words: str) -> Response:
    return Response((words + "\n").encode(), TEXT, status)
