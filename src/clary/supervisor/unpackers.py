"""The supervisor's side of the unpacker: one warm interpreter that forks extractors while archives keep coming."""

from __future__ import annotations

import array
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clary.supervisor import processes

LINGER_S = 120.0  # after the last archive
AGAIN_S = 5.0  # after one has died
MESSAGE_BYTES = 1 << 16


class Unpacker:
    """Started by the first archive, which does not wait for it, or when it is kept; `ready` from its word on until it
    dies."""

    def __init__(
        self, selector: selectors.BaseSelector, log: Path, on_message: Callable[[dict[str, Any]], None]
    ) -> None:
        self._selector = selector
        self._log = log
        self._on_message = on_message
        self._socket: socket.socket | None = None
        self.pid = 0
        self.ready = False
        self._kept = False
        self._used_mono_s = 0.0
        self._not_before_mono_s = 0.0

    def keep(self, kept: bool) -> None:
        """Whether it stays however long no archive comes: models of multi-model endpoints come one by one."""
        self._kept = kept
        if kept:
            self._ensure()

    def _ensure(self) -> None:
        self._used_mono_s = time.monotonic()
        if self._socket is None and not self.pid and self._used_mono_s >= self._not_before_mono_s:
            self._start()

    def order(self, message: dict[str, Any], descriptors: Sequence[int]) -> bool:
        """False when it cannot be taken now: then the archive is unpacked by an interpreter of its own."""
        self._ensure()
        if not self.ready or self._socket is None:
            return False
        payload = array.array("i", descriptors).tobytes()
        try:
            self._socket.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])
        except OSError:
            return False
        return True

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        environ = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        argv = [sys.executable, "-I", "-m", "clary_worker.unpacker", "3"]
        try:
            self.pid = processes.start(argv, environ, {1: log, 2: log, 3: theirs.fileno()})
        except OSError:
            ours.close()
            return  # archives have interpreters of their own meanwhile
        finally:
            os.close(log)
            theirs.close()
        self._socket = ours
        self._selector.register(ours, selectors.EVENT_READ, lambda _mask: self._read())

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.stop()
            return
        message = json.loads(data)
        if message.get("state") == "ready":
            self.ready = True
        else:
            self._on_message(message)

    def died(self) -> None:
        self.pid = 0
        self._not_before_mono_s = time.monotonic() + AGAIN_S
        self._close()

    def deadline(self) -> float | None:
        """When it has been idle for long enough."""
        return self._used_mono_s + LINGER_S if self._socket is not None and not self._kept else None

    def stop(self) -> None:
        """Its children go on; whoever waits for them is told when its end is noticed."""
        self._close()
        if self.pid:
            processes.end(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        self.ready = False
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
