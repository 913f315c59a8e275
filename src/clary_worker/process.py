"""A worker's life from its first instruction to its exit code, forked from a zygote or started plainly.

Order matters: the log first (so that a failure is seen), then the walls, then the environment, and only then the
model. What happened is told on the status socket in JSON lines: loading, then ready or failed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import traceback
from typing import Any, Dict, Optional

from . import command, container, guest, jail, lifeline, server
from .spec import JailSpec, WorkerSpec

# Thread pools that were sized to one before the framework's import and may grow in a child (decisions of the project:
# fork first, raise the count afterwards).
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MAPPING_LIMIT_S = 5.0


class Status:
    """Tells the supervisor how the start went. Writes are small and the socket never fills."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._told = False

    def _send(self, message: Dict[str, Any]) -> None:
        self._socket.sendall((json.dumps(message) + "\n").encode())

    def loading(self) -> None:
        self._send({"state": "loading"})

    def ready(self, detail: Dict[str, Any]) -> None:
        self._told = True
        self._send({"state": "ready", "detail": detail})

    def probe(self, told: str) -> None:
        self._send({"state": "probe", "detail": told[:512]})

    def failed(self, reason: str, hint: str) -> None:
        self._told = True
        self._send({"state": "failed", "reason": reason[:4096], "hint": hint[:1024]})

    def ended(self, reason: str) -> None:
        """Why what this worker held has ended, in the supervisor's word; believed of runners of containers only."""
        self._send({"state": "ended", "reason": reason})

    def await_mapping(self) -> None:
        """Tells that this process is in its user namespace and waits for its uid there. Raises: OSError when late."""
        self._send({"state": "unmapped"})
        self._socket.settimeout(MAPPING_LIMIT_S)
        answer = self._socket.recv(1)
        self._socket.settimeout(None)
        if not answer:
            raise OSError("the supervisor did not map this worker's uid")

    @property
    def told(self) -> bool:
        return self._told


def prepare(common: JailSpec) -> Optional[OSError]:
    """Puts up the walls that all workers of an environment have in common; the reason when one does not stand.

    From then on this process is good for nothing but to be a worker.
    """
    os.setsid()
    try:
        if common.guest:
            guest.prepare()
        else:
            jail.prepare(common)
    except OSError as error:
        return error
    return None


def run(
    message: Dict[str, Any],
    listener: int,
    log: int,
    status: int,
    life: int,
    *trees: int,
    fallen: Optional[OSError] = None,
) -> int:
    """Serves until told to stop; the process's exit code. `message` is {"worker": ..., "jail": ...}.

    `trees`: descriptors of the mount trees of a guest's jail. The walls that all have in common stand (`prepare`), or
    `fallen` says why not.
    """
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Python's own buffers: a line printed by a model must be in the log when the model dies.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    lifeline.hold(life)
    teller = Status(status)
    spec = WorkerSpec.from_dict(message["worker"])
    walls = JailSpec.from_dict(message["jail"])
    try:
        if fallen is not None:
            raise fallen
        if walls.guest:
            guest.finish(walls, trees, teller.await_mapping)
            lifeline.hold(life)  # again: who may be signalled was settled by the uid we then had
        else:
            jail.finish(walls)
    except OSError as error:
        teller.failed(str(error), "run `clary doctor` to see what this host's kernel allows")
        return 71
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    teller.loading()
    return serve(spec, socket.socket(fileno=listener), teller, message.get("environ", {}))


def serve(spec: WorkerSpec, listener: socket.socket, status: Status, environ: Dict[str, str]) -> int:
    """The model server with this process's environment, randomness and signals set as a fresh process's would be."""
    os.environ.clear()
    os.environ.update(environ)
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(spec.threads))
    _reseed()
    _raise_threads(spec.threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if spec.framework == "container":
            return container.serve(spec, listener, status)
        if spec.framework == "command":
            return command.serve(spec, listener, status, spec.private_network)
        return server.serve(spec, listener, status)
    except MemoryError:
        status.failed("MemoryError while starting", "choose an instance type with more memory")
        return 70
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if not status.told:
            status.failed("the model's code called exit(%s)" % (error.code,), "remove the exit call from the script")
        return code or 1
    except BaseException as error:  # the worker's border: a model's failure becomes data
        traceback.print_exc()
        if not status.told:
            status.failed("%s: %s" % (type(error).__name__, error), "read the traceback in the endpoint's log")
        return 70


def _reseed() -> None:
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy.random" in sys.modules:
        numpy.random.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def _raise_threads(count: int) -> None:
    """torch keeps the one thread that the zygote imported it with; a fresh process would read OMP_NUM_THREADS."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
