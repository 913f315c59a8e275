"""The model server: loads the model, says that it is ready, and answers HTTP on the socket that it was given.

One thread, one loop. Predictions run on the loop's thread: a worker does one thing at a time, and a hand-over to a
thread pool costs more than a small prediction. Importing this module starts nothing: it is safe before a fork.

    serve -> handler (script or predictor) -> warm-up -> listener on the loop -> status.ready -> until SIGTERM
    SIGTERM -> no more accepts, open requests are answered, idle connections close -> 0
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import sys
import traceback
from time import perf_counter
from typing import Any

from . import loader, memory, multimodel, scripts
from .batching import Batcher, Submits
from .connection import Connection, Service
from .contract import Handler, LoadError, Status
from .handler import PredictorHandler
from .listener import Listener
from .spec import WorkerSpec
from .triton import serving

try:
    import uvloop
except ModuleNotFoundError:  # an environment without it serves on asyncio's own loop
    uvloop = None

EXIT_UNSERVABLE = 65  # EX_DATAERR: the artifact or its script cannot be served
EXIT_FAILED = 70  # EX_SOFTWARE: the model's code failed
TRITON = ("triton", "triton-pytorch")  # frameworks whose artifact is a model repository
_BACKLOG = 1024
_GRACE_S = 0.02  # after SIGTERM: connects and requests that the kernel already holds are still taken
_DRAIN_CHECK_S = 0.25


def serve(spec: WorkerSpec, listener: socket.socket, status: Status) -> int:
    """Runs until SIGTERM and returns the exit code. `listener` is a listening unix or TCP socket.

    A start that fails is told to `status` in one line (and in full on stderr) before the return.
    """
    started_s = perf_counter()
    if spec.transform:
        memory.keep_freed()
    try:
        handler = build(spec)
    except LoadError as error:
        traceback.print_exc(file=sys.stderr)
        status.failed(error.reason, error.hint)
        return EXIT_UNSERVABLE
    except Exception as error:  # the worker's border: a model's failure to load becomes data
        traceback.print_exc(file=sys.stderr)
        status.failed("%s: %s" % (type(error).__name__, error), "read the traceback in the endpoint's log")
        return EXIT_FAILED
    load_ms = (perf_counter() - started_s) * 1000.0
    # The model lives as long as the process: later collections need not walk it.
    gc.freeze()
    loop = new_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_run(spec, handler, listener, status, load_ms, loop))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return 0


def new_loop() -> Any:
    """An event loop: uvloop's where the environment has it."""
    return uvloop.new_event_loop() if uvloop is not None else asyncio.new_event_loop()


def build(spec: WorkerSpec) -> Handler:
    """The handler of this artifact: its script, or its model served without one, warmed.

    Raises: LoadError, or whatever the user's code raises.
    """
    if spec.framework in TRITON:
        return serving.Serving(spec)
    if spec.multi_model:
        return multimodel.NoModel()
    program = scripts.locate(spec)
    if scripts.is_served(program, spec):
        found: Handler = scripts.load(program, spec)
        return found
    predictor, note = loader.load(spec.model_dir, spec.framework, spec.threads, spec.environ, spec.cache_dir)
    handler = PredictorHandler(predictor, spec, note)
    if spec.warm_up:
        handler.warm()
    return handler


def execution_parameters(spec: WorkerSpec) -> bytes:
    """What a transform job asks for first. 6 MB is the job's own default, and the built-in XGBoost's answer."""
    limit_mb = max(1, min(6, spec.max_payload_bytes // (1024 * 1024)))
    return json.dumps(
        {"MaxConcurrentTransforms": max(1, spec.threads), "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": limit_mb}
    ).encode()


async def _run(
    spec: WorkerSpec, handler: Handler, listener: socket.socket, status: Status, load_ms: float, loop: Any
) -> None:
    if isinstance(handler, serving.Serving):
        batcher: Submits = handler
        handler.open(loop)
    else:
        batcher = Batcher(handler, loop.call_soon, spec.max_batch_size, spec.batching == "auto")
    service = Service(batcher, spec.max_payload_bytes, execution_parameters(spec), loop)
    if spec.multi_model:
        service.models = multimodel.Models(spec, loop)
        if spec.memory_bytes:
            memory.bound(spec.memory_bytes)
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.set)
    listener.setblocking(False)
    options = {"sock": listener, "backlog": _BACKLOG}
    if listener.family == socket.AF_UNIX and uvloop is not None:
        listener.listen(_BACKLOG)
        server: Any = Listener(loop, listener, lambda: Connection(service))
    elif listener.family == socket.AF_UNIX:
        if sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # the path is the supervisor's
        server = await loop.create_unix_server(lambda: Connection(service), **options)
    else:
        server = await loop.create_server(lambda: Connection(service), **options)
    status.ready(
        {
            "loader": handler.loader,
            "warmup": handler.warmed,
            "batchable": bool(handler.batchable and spec.batching == "auto" and spec.max_batch_size > 1),
            "load_ms": round(load_ms, 3),
            "note": handler.note,
        }
    )
    await leaving.wait()
    await _drain(server, service)
    if isinstance(handler, serving.Serving):
        handler.close()


async def _drain(server: Any, service: Service) -> None:
    """Answers what has arrived. The supervisor ends a worker that takes longer than its drain time."""
    service.draining = True
    await asyncio.sleep(_GRACE_S)
    server.close()
    empty = asyncio.Event()
    service.on_lost = lambda: None if service.connections else empty.set()
    while service.connections:
        for connection in list(service.connections):
            connection.close_idle()
        try:
            await asyncio.wait_for(empty.wait(), _DRAIN_CHECK_S)
        except asyncio.TimeoutError:
            continue
