"""The tests' side of a worker: starts one through the forking process, talks HTTP to its socket, stops it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

START_S = 30.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=START_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(START_S)
        self.sock.connect(self._path)


def talk(connection: UnixConnection, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named, encode_chunked=not isinstance(body, (bytes, str, type(None))))
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


class Worker:
    """One served artifact. `detail` is what it told when it became ready; `failure` when it did not."""

    def __init__(self, forks: Forks, pid: int, folder: Path) -> None:
        self._forks = forks
        self.pid = pid
        self.socket = str(folder / "s")
        self.log_path = folder / "log"
        self.detail: dict[str, Any] = {}
        self.failure: dict[str, str] = {}
        self.code: int | None = None
        self._connection: UnixConnection | None = None

    def connect(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def raw(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(START_S)
        found.connect(self.socket)
        return found

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        if self._connection is None:
            self._connection = self.connect()
        return talk(self._connection, method, path, body, **headers)

    def invoke(self, body: Any, content_type: str = "text/csv", accept: str = "", **headers: str) -> Answer:
        if accept:
            headers["Accept"] = accept
        return self.request("POST", "/invocations", body, Content_Type=content_type, **headers)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        if self.code is None:
            self.code = int(self._forks.order({"wait": self.pid})["code"])
        return self.code

    def stop(self) -> int:
        if self._connection is not None:
            self._connection.close()
        if self.code is None:
            self.terminate()
        return self.wait()


class Forks:
    def __init__(self, frameworks: list[str]) -> None:
        environ = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, "-u", str(Path(__file__).with_name("worker_forks.py")), *frameworks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        self.hello = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the forking process has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def order(self, value: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        return self._read()

    def start(self, folder: Path, model_dir: Path, framework: str, **spec: Any) -> Worker:
        record = {
            "worker_id": "w1",
            "endpoint_name": "e",
            "variant_name": "v",
            "framework": framework,
            "model_dir": str(model_dir),
            **spec,
        }
        status = folder / "status"
        order = {"spec": record, "socket": str(folder / "s"), "status": str(status), "log": str(folder / "log")}
        worker = Worker(self, int(self.order({"fork": order})["pid"]), folder)
        end_s = time.monotonic() + START_S
        while not status.exists():
            assert time.monotonic() < end_s, "the worker did not tell its status: " + worker.log
            time.sleep(0.002)
        told = json.loads(status.read_text())
        worker.detail = told.get("ready", {})
        worker.failure = told.get("failed", {})
        if worker.failure:
            worker.wait()
        return worker

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=START_S)
