"""The proxy, as a process, beside workers that are slow or do not read (rows W7, W8): cut at the time, tried elsewhere.

The supervisor is played by the test: it says which workers are ready, and hears what the proxy asks of it.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clary import tables
from clary.domain.routing import EndpointRoute, RouteTable, VariantRoute
from clary.paths import Layout
from clary.settings import Settings, to_json

FLEET = "us-east-1/e/v/1"
TIME_S = 1.0
Talk = Callable[[socket.socket], None]


def read_request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        length = 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return file.read(length)


def good(connection: socket.socket) -> None:
    while True:
        body = read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def drip(connection: socket.socket) -> None:
    """A body that comes byte by byte and would take a minute."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    for _ in range(600):
        connection.sendall(b"d")
        time.sleep(0.1)


def never_reads(connection: socket.socket) -> None:
    time.sleep(60)


class World:
    """A proxy on a data folder, and the supervisor that it talks to."""

    def __init__(self, data: Path) -> None:
        self.layout = Layout(data)
        self.layout.make()
        self.layout.settings.write_text(to_json(Settings(auth=False)))
        variant = VariantRoute("v", FLEET, 1.0, request_timeout_s=TIME_S, queue_timeout_s=3.0)
        endpoint = EndpointRoute("e", "us-east-1", "123456789012", (variant,))
        tables.write(self.layout.route_table, RouteTable(1, {("us-east-1", "e"): endpoint}).as_dict())
        self.asked: list[dict[str, Any]] = []
        self._workers: list[dict[str, Any]] = []
        self._open: list[socket.socket] = []
        self._front = socket.create_server(("127.0.0.1", 0))
        self._supervisor = self._listen(self.layout.supervisor_socket)
        self._life_read, self._life_write = os.pipe()
        self._proxy: subprocess.Popen[bytes] | None = None

    def _listen(self, path: Path, backlog: int = 100) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(backlog)
        self._open.append(listener)
        return listener

    def worker(self, talk: Talk | None, backlog: int = 100) -> Path:
        """A ready worker that talks so to each connection; None: nobody accepts."""
        number = len(self._workers)
        address = self.layout.worker_sockets / f"w{number}.sock"
        listener = self._listen(address, backlog)
        if talk is not None:
            threading.Thread(target=self._accept, args=(listener, talk), daemon=True).start()
        event = {"event": "worker", "worker": f"w{number}", "fleet": FLEET, "slot": number, "state": "ready"}
        self._workers.append({**event, "address": str(address), "started_ns": 1, "ready_ns": 2, "detail": {}})
        return address

    def _accept(self, listener: socket.socket, talk: Talk) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(talk, connection), daemon=True).start()

    def _talk(self, talk: Talk, connection: socket.socket) -> None:
        try:
            talk(connection)
        except OSError:
            return  # the proxy has hung up

    def _supervise(self) -> None:
        connection, _ = self._supervisor.accept()
        self._open.append(connection)
        for line in connection.makefile():
            request = json.loads(line)
            self.asked.append(request)
            if request["op"] == "subscribe":
                answer = {"id": request["id"], "ok": True, "workers": self._workers}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def start(self) -> None:
        threading.Thread(target=self._supervise, daemon=True).start()
        argv = [sys.executable, "-I", "-m", "clary.proxy", "--data", str(self.layout.data)]
        argv += ["--listen-fd", str(self._front.fileno()), "--life-fd", str(self._life_read)]
        self._proxy = subprocess.Popen(argv, pass_fds=(self._front.fileno(), self._life_read))

    def stopped(self) -> list[tuple[str, str]]:
        """(worker, reason) of what the supervisor was asked to end; waits for the first."""
        deadline = time.monotonic() + 5
        while True:
            told = [(one["worker"], one["reason"]) for one in self.asked if one["op"] == "stop"]
            if told or time.monotonic() > deadline:
                return told
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._proxy is not None
        self._proxy.kill()
        self._proxy.wait()
        for one in [*self._open, self._front]:
            one.close()
        os.close(self._life_read)
        os.close(self._life_write)

    def invoke(self, body: bytes = b"x") -> tuple[int, bytes, float]:
        """(status, or 0 when the answer was cut; body; seconds)."""
        began_s = time.monotonic()
        port = self._front.getsockname()[1]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            client.request("POST", "/endpoints/e/invocations", body)
            answer = client.getresponse()
            return answer.status, answer.read(), time.monotonic() - began_s
        except (http.client.HTTPException, ConnectionError):
            return 0, b"", time.monotonic() - began_s
        finally:
            client.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.stop()


@pytest.mark.parametrize("talk", [drip, never_reads])
@pytest.mark.parametrize("size_bytes", [1, 8 << 20])
def test_a_worker_that_is_too_slow_is_left_at_the_time_and_reported(world: World, talk: Talk, size_bytes: int) -> None:
    world.worker(talk)
    world.start()
    status, text, took_s = world.invoke(b"r" * size_bytes)
    assert status == 424
    assert b"timed out" in text
    assert took_s >= TIME_S
    assert world.stopped() == [("w0", "Hung")]


def test_a_worker_whose_backlog_is_full_is_passed_over(world: World) -> None:
    full = world.worker(None, backlog=0)
    fillers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(str(full))
    world.worker(good)
    world.start()
    assert [world.invoke(b"y")[:2] for _ in range(20)] == [(200, b"y")] * 20
    for filler in fillers:
        filler.close()


def test_one_worker_that_takes_no_connection_is_an_error_that_says_so(world: World) -> None:
    world.worker(None, backlog=0).unlink()
    world.start()
    status, text, _ = world.invoke()
    assert status == 424
    assert b"takes no connections" in text
