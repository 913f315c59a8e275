"""Many models in one process, by the API that AWS's multi-model containers speak:

    POST   /models {"model_name": N, "url": folder}   200; 409 when it is loaded, 507 when memory would not do
    GET    /models                                    {"models": [{"modelName", "modelUrl"}]}
    GET    /models/N, DELETE /models/N                200, or 404
    POST   /models/N/invoke                           the model's answer, or 404

Memory is measured, not guessed: what the process grew by since it started, against its share of the instance's memory
with a reserve. A load that would not fit is refused before it begins where the size of its files tells so, and undone
where only the load itself told. Models of bare artifacts load on a thread, so that the others answer meanwhile; one
with a script of its own loads on the loop's thread, as its modules have to be alone in the interpreter then.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any, Callable, Dict, Iterator, List, Optional

from . import loader, scripts
from .batching import Batcher
from .contract import JSON, TEXT, Handler, LoadError, Request, Response
from .handler import PredictorHandler
from .spec import WorkerSpec

_RESERVE_RATIO = 0.1  # of the memory limit, kept for requests
_RESERVE_BYTES = 48 << 20
_FILE_FACTOR = 1.5  # what a model of unknown kind takes in memory, in sizes of its files
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What this process holds in memory now (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


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


class Models:
    """The models of one process. Calls come from the loop's thread."""

    def __init__(self, spec: WorkerSpec, loop: Any) -> None:
        self._spec = spec
        self._loop = loop
        self._models: Dict[str, Model] = {}
        self._loading: Dict[str, List[Any]] = {}  # name -> exchanges that wait for it
        self._thread = ThreadPoolExecutor(1, "load")
        self._start_bytes = resident_bytes()
        reserve = max(_RESERVE_BYTES, int(spec.memory_bytes * _RESERVE_RATIO))
        self._budget_bytes = max(0, spec.memory_bytes - self._start_bytes - reserve) if spec.memory_bytes else 0

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
            return
        waiting = self._loading.get(name)
        if waiting is not None:
            waiting.append(exchange)
            return
        needed = int(_folder_bytes(url) * _FILE_FACTOR)
        if self._budget_bytes and self._used_bytes() + needed > self._budget_bytes and self._models:
            exchange.answer(self._full(name, needed))
            return
        self._loading[name] = [exchange]
        spec = replace(self._spec, model_dir=url, code_dir="", cache_dir="", warm_up=False)
        try:
            program = scripts.locate(spec)
        except LoadError as error:
            self._loaded(name, url, error, None, 0, 0.0)
            return
        if program is not None:
            self._loaded(name, url, *_built(lambda: _Scripted(program, spec)))
            return
        job = self._loop.run_in_executor(self._thread, _built, lambda: _bare(spec))
        job.add_done_callback(lambda done: self._loaded(name, url, *done.result()))

    def _loaded(
        self, name: str, url: str, error: Optional[BaseException], handler: Any, bytes_: int, load_ms: float
    ) -> None:
        waiting = self._loading.pop(name)
        if error is not None:
            answer = _failed(name, error)
        else:
            batching = self._spec.batching == "auto"
            batcher = Batcher(handler, self._loop.call_soon, self._spec.max_batch_size, batching)
            model = self._models[name] = Model(name, url, handler, batcher, bytes_, load_ms)
            answer = _json({"status": "Model %s is loaded." % name, **model.described(), **self._memory()})
            if self._budget_bytes and self._used_bytes() > self._budget_bytes and len(self._models) > 1:
                self._unload(model)
                answer = self._full(name, bytes_)
        for exchange in waiting:
            exchange.answer(answer)

    def _unload(self, model: Model) -> None:
        """Returns when the memory is the system's again, as far as the allocator gives it back."""
        del self._models[model.name]
        model.handler = model.batcher = None  # type: ignore[assignment]
        gc.collect()
        _trim()

    def _full(self, name: str, needed: int) -> Response:
        told = {
            "code": 507,
            "type": "InsufficientStorage",
            "message": "Model %s needs about %d bytes; %d of %d are in use."
            % (name, needed, self._used_bytes(), self._budget_bytes),
            **self._memory(),
        }
        return Response(json.dumps(told).encode(), JSON, 507)

    def _used_bytes(self) -> int:
        return max(0, resident_bytes() - self._start_bytes)

    def _memory(self) -> Dict[str, int]:
        return {"usedBytes": self._used_bytes(), "budgetBytes": self._budget_bytes, "models": len(self._models)}


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
        file = getattr(module, "__file__", None)
        return isinstance(file, str) and file.startswith(self._folder + os.sep)


def _bare(spec: WorkerSpec) -> PredictorHandler:
    predictor, note = loader.load(spec.model_dir, spec.framework, spec.threads, spec.environ)
    return PredictorHandler(predictor, spec, note)


def _built(make: Callable[[], Any]) -> Any:
    """(error, handler, bytes that the process grew by, milliseconds)."""
    before, started_s = resident_bytes(), perf_counter()
    try:
        handler = make()
    except BaseException as error:  # the worker's border: one model's failure is no other's
        if not isinstance(error, LoadError):
            traceback.print_exc(file=sys.stderr)
        return error, None, 0, 0.0
    return None, handler, max(0, resident_bytes() - before), (perf_counter() - started_s) * 1000.0


def _failed(name: str, error: BaseException) -> Response:
    if isinstance(error, MemoryError):
        return Response(b'{"code": 507, "message": "out of memory while loading"}', JSON, 507)
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


def _trim() -> None:
    """Gives freed memory back to the system (glibc's malloc_trim; other C libraries have none and need none)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _json(value: Any) -> Response:
    return Response(json.dumps(value).encode(), JSON)


def _said(status: int, words: str) -> Response:
    return Response((words + "\n").encode(), TEXT, status)
