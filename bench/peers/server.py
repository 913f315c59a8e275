"""One peer's server: started on the servers' core, asked until it answers, ended with all that it started."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import load
import machine
from environments import Environments, Unavailable

from peers.catalogue import Peer

APPS = Path(__file__).parent / "apps"
TRAIN_LIMIT_S = 120.0
PORTS = (20_000, 32_000)


@dataclass(slots=True)
class Server:
    """A running one. `started_s` is seconds from its start to its first prediction."""

    port: int
    process: subprocess.Popen[bytes]
    scratch: Path
    started_s: float = 0.0

    def pids(self) -> set[int]:
        """All its processes, daemons included."""
        return machine.tree(self.process.pid) | machine.carrying(f"BENCH_SCRATCH={self.scratch}")


def prepare(peer: Peer, environments: Environments) -> str:
    """The python of the peer's environment, its models trained. Raises: Unavailable."""
    python = environments.build(peer.environment or peer.name, peer.requirements)
    models = Path(python).parent.parent / "bench-models"
    if not (models / "xgboost.ubj").exists():
        done = subprocess.run(
            [python, str(APPS / "models.py")],
            env={"PATH": os.environ["PATH"], "BENCH_MODELS": str(models)},
            capture_output=True,
            text=True,
            timeout=TRAIN_LIMIT_S,
        )
        if done.returncode:
            raise Unavailable(f"its models cannot be trained: {done.stderr.strip()[-300:]}")
    return python


@contextmanager
def running(
    peer: Peer,
    python: str,
    kind: str,
    batching: bool,
    variables: Mapping[str, str] | None = None,
    pinned: bool = True,
) -> Iterator[Server]:
    """The peer serving one model, on the servers' core when `pinned`.

    Raises: Unavailable when it does not answer in its time.
    """
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    port = free_ports(3)
    environ = {
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "HOME": str(scratch),
        "BENCH_PORT": str(port),
        "BENCH_MODEL": kind,
        "BENCH_BATCHING": "on" if batching else "off",
        "BENCH_MODELS": str(Path(python).parent.parent / "bench-models"),
        "BENCH_SCRATCH": str(scratch),
        **dict(peer.variables),
        **(variables or {}),
    }
    cores = {machine.cores()[0]} if pinned else os.sched_getaffinity(0)
    with (scratch / "log").open("wb") as log:
        begun_s = time.perf_counter()
        process = subprocess.Popen(
            [python, str(APPS / peer.app)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=scratch,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    server = Server(port, process, scratch)
    try:
        _await_answer(peer, server, load.post(peer.path, peer.body(kind), f"127.0.0.1:{port}"))
        server.started_s = time.perf_counter() - begun_s
        yield server
    finally:
        below = server.pids()
        machine.end(process)
        machine.kill(below | machine.carrying(f"BENCH_SCRATCH={scratch}"))
        shutil.rmtree(scratch, ignore_errors=True)


def _await_answer(peer: Peer, server: Server, request: bytes) -> None:
    deadline = time.monotonic() + peer.start_limit_s
    last = "nothing listens"
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            _, status, answer = load.ask(server.port, request, limit_s=20)
        except OSError as error:
            last = str(error)
        else:
            if status == 200:
                return
            last = answer[-300:].decode("latin-1")
        time.sleep(0.01)
    tail = (server.scratch / "log").read_text(errors="replace").strip()[-600:]
    state = "ended" if server.process.poll() is not None else f"no answer in {peer.start_limit_s:g} s"
    raise Unavailable(f"cannot be started: {state}; last answer: {last}; its log ends: {' '.join(tail.split())}")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that can be bound, below those that clients' connections are given."""
    while True:
        first = random.randrange(*PORTS)
        if all(_is_free(first + place) for place in range(count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
