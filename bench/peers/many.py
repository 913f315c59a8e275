"""Servers that load models while they run, beside clary's multi-model endpoint: first calls, warm calls, memory.

Each peer holds so many models as its way allows in a bounded time (one of them starts a process for each), and clary is
measured with each of these numbers in the same run. A first call is what a client does until it has a prediction of a
model that is not loaded: of the peers a call that loads and one that predicts, of clary one that does both.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import load
import machine
from environments import Environments, Unavailable, cache_folder

from peers import catalogue, server
from peers.catalogue import MODELS, Peer

CALLERS = 4
WARM_CALLS = 2000


@dataclass(frozen=True, slots=True)
class Many:
    """One peer: how a model is loaded and asked, by its name."""

    peer: Peer
    load: Callable[[str], tuple[str, bytes]]  # path and body
    infer: Callable[[str], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Held:
    """What one server showed with `models` loaded. Times ascend; `grown_mib` is of all its processes."""

    who: str
    models: int
    first_ms: list[float]
    warm_ms: list[float]
    grown_mib: float
    processes: int
    trouble: str = ""

    def row(self) -> tuple[str, ...]:
        if self.trouble:
            return (self.who, f"not measured: {self.trouble}", *[""] * 7)
        quantiles = [load.quantile(times, share) for times in (self.first_ms, self.warm_ms) for share in (0.5, 0.99)]
        mib = self.grown_mib / self.models
        # A growth that is within a page a model is noise.
        per_gib = f"{1024 / mib:,.0f}" if mib > 0.004 else "over 250,000"
        cells = [self.who, f"{self.models:,}", *(f"{ms:,.1f}" for ms in quantiles)]
        return (*cells, f"{mib:.3f}", per_gib, str(self.processes))


HEADERS = (
    "server",
    "models",
    "first call p50 ms",
    "p99 ms",
    "warm call p50 ms",
    "p99 ms",
    "MiB a model",
    "models a GiB",
    "processes",
)


def _mms_load(name: str) -> tuple[str, bytes]:
    asked = {"url": name, "model_name": name, "initial_workers": 1, "synchronous": True}
    return "/models", json.dumps(asked).encode()


def _mms_infer(name: str) -> tuple[str, bytes]:
    return f"/models/{name}/invoke", json.dumps({"inputs": catalogue.rows("logistic")}).encode()


def _mlserver_infer(name: str) -> tuple[str, bytes]:
    return f"/v2/models/{name}/infer", catalogue.PEERS["mlserver"].body("logistic")


def peers() -> dict[str, Many]:
    """By the name of the environment. Their `path` and `payload` ask whether they are up."""
    mlserver = catalogue.PEERS["mlserver"]
    return {
        "mms": Many(
            Peer(
                "mms",
                "multi-model-server",
                "multi-model-server",
                ("multi-model-server==1.1.11", *MODELS),
                "mms_start.py",
                "/ping",
                lambda _: {},
                batching=False,
            ),
            _mms_load,
            _mms_infer,
        ),
        "mlserver": Many(
            Peer(
                "mlserver",
                mlserver.title,
                mlserver.package,
                mlserver.requirements,
                "mlserver_many_start.py",
                "/v2/repository/index",
                lambda _: {},
                batching=False,
            ),
            lambda name: (f"/v2/repository/models/{name}/load", b""),
            _mlserver_infer,
        ),
    }


def measure(name: str, count: int) -> Held:
    """The peer with so many models; where it cannot be had or fails, why."""
    many = peers()[name]
    machine.say(f"multimodel: {many.peer.title}, {count} models")
    try:
        python = server.prepare(many.peer, Environments(cache_folder()))
        with server.running(many.peer, python, "logistic", False, {"BENCH_MANY": str(count)}, pinned=False) as running:
            return _held(many, running, count)
    except (Unavailable, RuntimeError, OSError) as error:
        machine.say(f"multimodel: {many.peer.title}: {error}")
        return Held(many.peer.title, count, [], [], 0.0, 0, " ".join(str(error).split())[:300])


def _held(many: Many, running: server.Server, count: int) -> Held:
    names = [f"m{number}" for number in range(count)]
    host = f"127.0.0.1:{running.port}"

    def ask(way: Callable[[str], tuple[str, bytes]], name: str) -> float:
        path, body = way(name)
        took_ms, status, answer = load.ask(running.port, load.post(path, body, host))
        if status != 200:
            raise RuntimeError(f"{path} answers {status}: {answer[-200:]!r}")
        return took_ms

    def first(name: str) -> float:
        return ask(many.load, name) + ask(many.infer, name)

    first(names[0])  # what is imported once is not the model's
    before_mib = machine.pss_mib(running.pids())
    firsts = sorted(first(name) for name in names[1:])
    grown_mib, processes = machine.pss_mib(running.pids()) - before_mib, len(running.pids())
    warm = warm_calls(names, lambda name: ask(many.infer, name))
    return Held(many.peer.title, count - 1, firsts, warm, grown_mib, processes)


def warm_calls(names: Sequence[str], ask: Callable[[str], float]) -> list[float]:
    """Milliseconds of calls of models that are loaded, by four callers with a connection a call; ascending."""
    some = random.Random(7).choices(names, k=min(WARM_CALLS, 20 * len(names)))
    with ThreadPoolExecutor(CALLERS) as threads:
        return sorted(threads.map(ask, some))
