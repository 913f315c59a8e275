"""The supervisor's side of the zygotes: one warm interpreter per environment in use, restarted when it dies."""

from __future__ import annotations

import array
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clary.supervisor import processes
from clary.supervisor.fleet import ZygoteSpec

BACKOFF_S = (0.2, 1.0, 5.0, 30.0)
CALM_AFTER_S = 60.0  # one that lived this long starts its backoff anew
IMPORT_LIMIT_S = 120.0  # an import that takes longer has hung; its fleets are started plainly meanwhile
# Read by libraries at import, in zygotes and in plain starts. One thread, so that forks are safe; children raise it
# afterwards.
AT_IMPORT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    # A worker may raise the count afterwards. Its threads then wait asleep, not spinning: on two busy cores XGBoost's
    # prediction of 100 rows with two threads took 4 to 14 ms of CPU with libgomp's default, 0.27 ms with this, and a
    # small convolutional net in torch 50 ms against 0.2.
    "OMP_WAIT_POLICY": "PASSIVE",
    # From 1.31 on onnxruntime reports to Microsoft by threads of its own, on Linux too. Nobody asked the user, and a
    # zygote in which a thread appears may not fork any more.
    "ORT_DISABLE_TELEMETRY": "1",
}


class Zygote:
    """One warm interpreter; `state` is starting, ready, unsafe (never forked from) or dead.

    `common` are the walls that its children put up before they know whom they serve. `jail` and `uid` are those of one
    whose environment is not to be trusted: it runs behind them from its first line.
    """

    def __init__(
        self,
        spec: ZygoteSpec,
        log: Path,
        common: dict[str, Any],
        jail: dict[str, Any] | None = None,
        uid: int = -1,
    ) -> None:
        self.spec = spec
        self.common = common
        self.jail = jail
        self.uid = uid
        self.state = "dead"
        self.pid = 0
        self.detail: dict[str, Any] = {}
        self.started_mono_s = 0.0
        self.restart_at_mono_s = 0.0
        self.unwanted_since_mono_s: float | None = None
        self.deaths = 0
        self._log = log
        self._socket: socket.socket | None = None

    def start(self, selector: selectors.BaseSelector, on_message: Callable[[Zygote, dict[str, Any]], None]) -> None:
        """Starts the interpreter; its messages arrive at `on_message`."""
        self.close(selector)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **AT_IMPORT, **dict(self.spec.environ)}
        argv = [self.spec.python, "-I", "-m", "clary_worker.zygote", self.spec.framework, "3", *self.spec.imports]
        descriptors = {1: log, 2: log, 3: theirs.fileno()}
        try:
            if self.jail is None:
                self.pid = processes.start(argv, environ, descriptors)
            else:
                self.pid = processes.start_jailed(argv, {**environ, "HOME": "/tmp"}, descriptors, self.jail)
        finally:
            os.close(log)
            theirs.close()
        self._socket = ours
        ours.send(json.dumps({"common": self.common}).encode())
        self.state = "starting"
        self.started_mono_s = time.monotonic()
        selector.register(ours, selectors.EVENT_READ, lambda _mask: self._read(selector, on_message))

    def _read(self, selector: selectors.BaseSelector, on_message: Callable[[Zygote, dict[str, Any]], None]) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(selector)
            return
        try:
            message = json.loads(data)
        except ValueError:
            message = None
        if isinstance(message, dict):
            on_message(self, message)
        else:  # whatever it is by now, it is not our zygote
            self.stop()

    def fork(self, message: dict[str, Any], descriptors: Sequence[int]) -> bool:
        """Asks for a child; False when the zygote cannot take the order (the caller then starts plainly)."""
        if self.state != "ready" or self._socket is None:
            return False
        payload = array.array("i", descriptors).tobytes()
        try:
            self._socket.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])
        except OSError:
            return False
        return True

    def died(self) -> None:
        self.pid = 0
        self.state = "dead"
        if time.monotonic() - self.started_mono_s >= CALM_AFTER_S:
            self.deaths = 0
        delay_s = BACKOFF_S[min(self.deaths, len(BACKOFF_S) - 1)]
        self.deaths += 1
        self.restart_at_mono_s = time.monotonic() + delay_s

    def stop(self) -> None:
        if self.pid:
            processes.end(self.pid, signal.SIGKILL)  # it holds nothing that could be lost

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._socket is not None:
            selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
