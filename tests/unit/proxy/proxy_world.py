"""A proxy as a process whose supervisor is played by the test: it says which workers are ready, and hears what the
proxy asks of it. Workers are played, too: each talks as its test says."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clary import tables
from clary.domain.routing import EndpointRoute, RouteTable, VariantRoute
from clary.paths import Layout

FLEET = "us-east-1/e/v/1"
Talk = Callable[[socket.socket], None]


class World:
    """A proxy on a data folder, and the supervisor that it talks to."""

    def __init__(self, data: Path, variant: VariantRoute) -> None:
        self.layout = Layout(data)
        self.layout.make()
        self.layout.settings.write_text(
            json.dumps(
                {
                    "account": "123456789012",
                    "auth": False,
                    "host": "127.0.0.1",
                    "host_names": "",
                    "disk_reserve_mib": 0,
                }
            )
        )
        self.route(1, variant)
        self.asked: list[dict[str, Any]] = []
        self._workers: list[dict[str, Any]] = []
        self._open: list[socket.socket] = []
        self._front = socket.create_server(("127.0.0.1", 0))
        self._supervisor = self._listen(self.layout.supervisor_socket)
        self._life_read, self._life_write = os.pipe()
        self._proxy: subprocess.Popen[bytes] | None = None
        self._told: socket.socket | None = None

    def route(self, generation: int, variant: VariantRoute) -> None:
        """Writes the table; a running proxy takes it when it is told to."""
        endpoint = EndpointRoute("e", "us-east-1", "123456789012", (variant,))
        tables.write(self.layout.route_table, RouteTable(generation, {("us-east-1", "e"): endpoint}).as_dict())

    def _listen(self, path: Path, backlog: int = 100) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(backlog)
        self._open.append(listener)
        return listener

    def worker(self, talk: Talk | None, backlog: int = 100, fleet: str = FLEET) -> Path:
        """A ready worker that talks so to each connection; None: nobody accepts."""
        number = len(self._workers)
        address = self.layout.worker_sockets / f"w{number}.sock"
        listener = self._listen(address, backlog)
        if talk is not None:
            threading.Thread(target=self._accept, args=(listener, talk), daemon=True).start()
        event = {"event": "worker", "worker": f"w{number}", "fleet": fleet, "slot": number, "state": "ready"}
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
        self._told = connection
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

    def listening(self) -> None:
        """Returns when the proxy follows the supervisor and may be asked."""
        deadline = time.monotonic() + 20
        while not self.asked or not self.layout.proxy_socket.exists():
            assert time.monotonic() < deadline, "the proxy does not come"
            time.sleep(0.01)

    def move(self, variant: VariantRoute, talk: Talk) -> None:
        """An update of the endpoint: another fleet, with one worker, is routed to from now on."""
        self.join(talk, variant.fleet)
        self.reroute(variant)

    def join(self, talk: Talk | None, fleet: str) -> None:
        """Another worker is ready while the proxy runs."""
        assert self._told is not None
        self.worker(talk, fleet=fleet)
        self._told.sendall(json.dumps(self._workers[-1]).encode() + b"\n")

    def reroute(self, variant: VariantRoute) -> None:
        """The second table."""
        self.route(2, variant)
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.layout.proxy_socket))
            asked.sendall(b'{"op": "reload"}\n')
            assert json.loads(asked.makefile().readline())["generation"] == 2

    def facts(self) -> dict[str, Any]:
        """What the proxy tells of its fleets, by name."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.layout.proxy_socket))
            asked.sendall(b'{"op": "facts"}\n')
            told: dict[str, Any] = json.loads(asked.makefile().readline())["fleets"]
        return told

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

    def invoke(
        self, body: bytes = b"x", target: str = "", more: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, float]:
        """(status, or 0 when the answer was cut; body; seconds)."""
        began_s = time.monotonic()
        port = self._front.getsockname()[1]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            headers = {"X-Amzn-SageMaker-Target-Model": target} if target else {}
            headers |= more or {}
            client.request("POST", "/endpoints/e/invocations", body, headers)
            answer = client.getresponse()
            return answer.status, answer.read(), time.monotonic() - began_s
        except (http.client.HTTPException, ConnectionError):
            return 0, b"", time.monotonic() - began_s
        finally:
            client.close()
