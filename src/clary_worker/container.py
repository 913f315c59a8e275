"""A container as a worker: this process creates it, carries requests to its port 8080, and ends as it ends.

    guardian <- pipe - this process -> engine: create, attach, start, wait, remove
                             |
         unix socket of the worker -> 127.0.0.1:8080 in the container's network

It is a program of ours and holds nothing of the user's, so it runs as root, as it must to enter the container's
network (setns(2)); it does so as soon as the container runs, and stays there. Output comes by the attached stream into
this process's own log. SIGTERM goes to the container; its exit code becomes ours. The container is no child of ours,
so a guardian in a session of its own holds the other end of a pipe: when this process is gone, however it went, the
guardian removes the container. What even that one could not is swept at the next start, by label
(`container_tasks.sweep`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Dict, Tuple

from . import command
from .container_config import ContainerSpec, create_body
from .engine import Engine, EngineError
from .spec import WorkerSpec

CLONE_NEWNET = 0x40000000
LOGS_LIMIT_S = 5.0  # for the last lines after the end
GUARD_TRIES, GUARD_PAUSE_S = 40, 0.25  # a creation may be under way when its maker dies
GUARD_AWAY_TRIES = 600  # a second each: a daemon that is away comes back, mostly
AWAY_PAUSE_S = 1.0  # between two questions to a daemon that is away
EXIT_NOT_STARTED = 126


def name_of(worker_id: str) -> str:
    return "clary-" + worker_id


def serve(spec: WorkerSpec, listener: socket.socket, status: Any) -> int:
    """Runs the container until it ends or SIGTERM; the exit code."""
    held = ContainerSpec.from_dict(spec.container)
    engine, name = Engine(held.engine), name_of(spec.worker_id)
    guard = _guard(held.engine, name)
    made = False
    try:
        try:
            config = (engine.image(held.image) or {}).get("Config") or {}
            body = create_body(held, list(config.get("Volumes") or ()))
            engine.call("POST", "/containers/create?name=" + name, body)
            made = True
            program = Program(engine, name, status)
            program.start()
        except EngineError as error:
            made = made or not error.away
            status.failed("the container cannot be started: %s" % error, "`clary doctor` tells what the engine says")
            return EXIT_NOT_STARTED
        relay = command.Relay(program, listener, status, command.PORT, "container " + held.image)
        return asyncio.run(relay.run())
    finally:
        with contextlib.suppress(EngineError):  # then the guardian tries on
            if made:
                engine.remove(name)
            os.write(guard, b".")
        os.close(guard)


class Program:
    """The running container, in the words of a started program."""

    def __init__(self, engine: Engine, name: str, status: Any) -> None:
        self._engine = engine
        self._name = name
        self._status = status
        self._out_of_memory = False
        self._pid = 0
        self._ended = threading.Event()
        self._copier = threading.Thread(target=self._copy, name="output", daemon=True)
        self._stream = self._attach()

    def start(self) -> None:
        """Starts it and enters its network. Raises: EngineError."""
        self._copier.start()
        self._engine.call("POST", "/containers/%s/start" % self._name)
        self._pid = pid = int(self._state()["Pid"])
        if not pid:
            return  # it has ended already; `wait` tells how
        try:
            network = os.open("/proc/%d/ns/net" % pid, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the same
        try:
            # The number may have become another's while it was opened: it is still the container's, or nothing is.
            if self._state()["Pid"] == pid and ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) != 0:
                raise EngineError(0, "entering its network: %s" % os.strerror(ctypes.get_errno()))
        finally:
            os.close(network)

    def facts(self) -> Dict[str, Any]:
        """For `clary ps`: which container, and its first process."""
        return {"container": self._name, "container_pid": self._pid}

    def terminate(self) -> None:
        """SIGTERM to its first process; returns at once."""
        threading.Thread(target=self._kill, name="terminate", daemon=True).start()

    def wait(self) -> int:
        """Waits for the end; the exit code. What memory ended is told to the supervisor."""
        code = None
        while code is None:
            try:
                code = int(self._engine.call("POST", "/containers/%s/wait" % self._name, limit_s=None)["StatusCode"])
                self._out_of_memory = bool(self._state()["OOMKilled"])
            except EngineError as error:
                if error.status:
                    print("the container engine has lost the container: %s" % error, file=sys.stderr)
                    code = 1
                else:
                    time.sleep(AWAY_PAUSE_S)  # the daemon is away: what it runs may serve on, and it will know more
        self._ended.set()
        self._copier.join(LOGS_LIMIT_S)
        if self._out_of_memory:
            self._status.ended("OutOfMemory")
        return code

    def last_words(self, code: int) -> Tuple[str, str]:
        """(reason, hint) of an end before it was ready."""
        if self._out_of_memory:
            return "OutOfMemory: the container exceeded the memory of its instance", "choose more memory"
        return (
            "the container ended with exit code %d before it answered GET /ping on port %d" % (code, command.PORT),
            "it is started as `docker run IMAGE serve`, without network, capabilities or a writable root; "
            "its last words are in the endpoint's log",
        )

    def _state(self) -> Any:
        return self._engine.call("GET", "/containers/%s/json" % self._name)["State"]

    def _kill(self) -> None:
        with contextlib.suppress(EngineError):  # it has ended
            self._engine.call("POST", "/containers/%s/kill?signal=SIGTERM" % self._name)

    def _attach(self) -> Any:
        return self._engine.open("POST", "/containers/%s/attach?stream=1&stdout=1&stderr=1" % self._name, None, None)

    def _copy(self) -> None:
        """Its output to our log, until it has ended; taken up again when the daemon comes back."""
        while True:
            connection, response = self._stream
            try:
                _frames(response)
            except OSError as error:
                print("the container's output broke off: %s" % error, file=sys.stderr)
            finally:
                connection.close()
            while not self._ended.wait(AWAY_PAUSE_S):
                with contextlib.suppress(EngineError):
                    self._stream = self._attach()
                    break
            else:
                return


def _frames(response: Any) -> None:
    """Copies frame by frame, to the stream's end (Engine API, "Attach to a container", stream format)."""
    while True:
        head = _exactly(response, 8)
        if len(head) < 8:
            return
        left = int.from_bytes(head[4:8], "big")
        while left:
            piece = response.read1(min(left, 1 << 16))
            if not piece:
                return
            left -= len(piece)
            _write(piece)


def _exactly(response: Any, count: int) -> bytes:
    """`count` bytes, fewer at the end."""
    found = b""
    while len(found) < count:
        piece = response.read1(count - len(found))
        if not piece:
            break
        found += piece
    return found


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _guard(engine: str, name: str) -> int:
    """Starts the guardian; the pipe's end whose closing, by whatever end of ours, wakes it."""
    read, write = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(read)
        return write
    code = 1
    try:
        os.setsid()  # whoever kills our session leaves this one alive
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGIO):
            signal.signal(number, signal.SIG_IGN)
        os.dup2(read, 0)
        os.closerange(3, 1024)
        if os.read(0, 1) != b".":
            _remove_surely(Engine(engine), name)
        code = 0
    finally:
        os._exit(code)


def _remove_surely(engine: Engine, name: str) -> None:
    """Until it was there and went, or did not come in the time that a creation takes."""
    absent = away = 0
    while absent < GUARD_TRIES and away < GUARD_AWAY_TRIES:
        try:
            if engine.remove(name):
                return
            absent += 1
            time.sleep(GUARD_PAUSE_S)
        except EngineError:
            away += 1
            time.sleep(AWAY_PAUSE_S)
