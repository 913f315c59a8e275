"""clary and its peers, side by side: four models, each server fresh for each round, rounds interleaved (A B C A B C).

For clary a "start" is CreateEndpoint to the first 200 on a clary that is up, its memory is that of the whole tree, and
it is asked with --no-auth, since no peer authenticates; the data path table tells what signatures cost.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import artifacts
import environments
import load
import machine
import stand
from environments import Environments, Unavailable
from load import Order, Outcome
from report import Table, spread
from scale import Scale

from peers import catalogue, server

MOST_ROUNDS = 3
TROUBLE_CHARS = 300  # of a reason, in a cell; results.json has all of it
SETTLE_S = 1.0  # between the first prediction and the reading of memory
FOREST_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """One model, with or without batching, and the numbers of connections it is asked on."""

    kind: str
    title: str
    batching: bool
    connections: tuple[int, ...]


CASES = (
    Case("echo", "echo JSON", False, (1, 32)),
    Case("logistic", "logistic regression, 1 row", False, (1, 32)),
    Case("xgboost", "XGBoost, 100 rows", False, (1, 32)),
    Case("forest", "random forest of 100, 1 row, batching off", False, (1, 32, 64)),
    Case("forest", "random forest of 100, 1 row, batching on", True, (1, 32, 64)),
)


class NoBatching(Unavailable):
    """The server has nothing of the kind: no failure."""


@dataclass(slots=True)
class Found:
    """What one server showed in one case, over the rounds."""

    starts_s: list[float] = field(default_factory=list)
    idle_mib: list[float] = field(default_factory=list)
    load: dict[int, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    trouble: str = ""

    def as_dict(self) -> dict[str, Any]:
        loads = {str(count): [asdict(outcome) for outcome in found] for count, found in self.load.items()}
        return {"starts_s": self.starts_s, "idle_mib": self.idle_mib, "load": loads, "trouble": self.trouble}


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is ready to be loaded."""

    started_s: float
    pids: set[int]
    order: Order


Contenders = dict[str, Any]  # title -> function of a case that gives a context manager of Target, or the trouble


def names() -> tuple[str, ...]:
    return tuple(catalogue.PEERS)


def tables(scale: Scale, chosen: Sequence[str]) -> list[Table]:
    """One table a case."""
    store = Environments(environments.cache_folder())
    with stand.running("--no-auth") as clary:
        contenders: Contenders = {
            "clary": lambda case: _clary(clary, case, direct=False),
            "clary, worker's socket": lambda case: _clary(clary, case, direct=True),
        }
        repositories: Contenders = {
            "clary, Triton repository, Python": lambda case: _repository(clary, case, "python"),
            "clary, Triton repository, ONNX": lambda case: _repository(clary, case, "onnxruntime"),
        }
        packages: dict[str, str] = {}
        for name in chosen:
            peer = catalogue.PEERS[name]
            contenders[peer.title] = _contender(peer, store, packages)
        stand.pin_servers([clary.pid])
        found: list[Table] = []
        for case in CASES:
            asked = contenders | repositories if case.kind == "forest" else contenders
            found.append(_table(case, _measure(case, asked, scale), packages, scale))
        return found


def _contender(peer: catalogue.Peer, store: Environments, packages: dict[str, str]) -> Any:
    """How to start the peer, or the text that says why it cannot be had."""
    machine.say(f"peers: preparing {peer.title}")
    try:
        python = server.prepare(peer, store)
    except Unavailable as error:
        return str(error)
    found = environments.versions(python, (peer.package, "scikit-learn", "xgboost-cpu", "numpy"))
    packages[peer.title] = ", ".join(f"{name} {version}" for name, version in found.items())

    @contextmanager
    def start(case: Case) -> Iterator[Target]:
        if case.batching and not peer.batching:
            raise NoBatching("has no batching in its server")
        with server.running(peer, python, case.kind, case.batching) as one:
            request = load.post(peer.path, peer.body(case.kind), f"127.0.0.1:{one.port}")
            yield Target(one.started_s, one.pids(), _order(f"tcp:127.0.0.1:{one.port}", request, one.pids()))

    return start


def _order(address: str, request: bytes, pids: set[int]) -> Order:
    return Order(address, [request], 1, 1.0, core=machine.cores()[1], cpu_of={"all": sorted(pids)})


def _artifact(kind: str) -> artifacts.Artifact:
    if kind == "echo":
        return artifacts.json_echo()
    if kind == "xgboost":
        sent = json.dumps({"instances": catalogue.rows(kind)}).encode()
        return replace(artifacts.xgboost_model(1), body=sent, content_type="application/json")
    return artifacts.sklearn_model(kind)


def _repository(one: stand.Stand, case: Case, backend: str) -> AbstractContextManager[Target]:
    """clary serving the forest from a repository made for Triton."""
    return _clary(one, case, direct=False, artifact=artifacts.triton_forest(backend, case.batching))


@contextmanager
def _clary(one: stand.Stand, case: Case, direct: bool, artifact: artifacts.Artifact | None = None) -> Iterator[Target]:
    artifact = artifact or _artifact(case.kind)
    batching = "auto" if case.batching else "off"
    model = one.model(artifact, {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "CLARY_BATCHING": batching})
    config = one.config(model, serverless=False)
    started_s = time.perf_counter()
    endpoint = one.endpoint(config)
    request = one.request(endpoint, artifact, signed=False)
    one.ask_ok(request)
    started_s = time.perf_counter() - started_s
    worker = one.workers(endpoint)[0]
    stand.pin_servers([one.pid])
    address = f"unix:{worker['address']}" if direct else f"tcp:127.0.0.1:{one.port}"
    pids = {int(worker["pid"])} if direct else machine.tree(one.pid)
    try:
        yield Target(started_s, pids, _order(address, one.direct(artifact) if direct else request, pids))
    finally:
        one.delete(endpoint)


def _measure(case: Case, contenders: Contenders, scale: Scale) -> dict[str, Found]:
    found = {title: Found(trouble=start if isinstance(start, str) else "") for title, start in contenders.items()}
    for number in range(min(scale.rounds, MOST_ROUNDS)):
        for title, start in contenders.items():
            if found[title].trouble:
                continue
            machine.say(f"peers: {case.title}: round {number + 1}: {title}")
            _visit(start, case, found[title], scale)
    return found


def _visit(start: Any, case: Case, found: Found, scale: Scale) -> None:
    """One server, one round. A start that fails is tried once more; then its row says why and the others go on."""
    for last in (False, True):
        try:
            with start(case) as target:
                _load(target, case, found, scale)
            return
        except (Unavailable, RuntimeError, OSError) as error:
            machine.say(f"peers: {case.title}: {error}")
            if last or isinstance(error, NoBatching):
                found.trouble = str(error)
                return


def _load(target: Target, case: Case, found: Found, scale: Scale) -> None:
    time.sleep(SETTLE_S)
    found.starts_s.append(target.started_s)
    found.idle_mib.append(machine.pss_mib(target.pids))
    for connections in case.connections:
        outcome = load.measure(replace(target.order, connections=connections, seconds=scale.seconds))
        found.load[connections].append(outcome)


def _table(case: Case, found: Mapping[str, Found], packages: Mapping[str, str], scale: Scale) -> Table:
    headers = ["server"]
    for count in case.connections:
        headers += [f"req/s, {count} conn.", f"p50 ms, {count}", f"p99 ms, {count}"]
    headers += ["CPU us/request, 32", "start to first prediction s", "idle PSS MiB"]
    order = sorted(found, key=lambda title: -_rate(found[title], 32))
    notes = [f"{title}: {text}." for title, text in packages.items()] if case is CASES[0] else []
    if case.kind == "forest" and "clary" in found:
        notes.append(_forest(found, case.batching))
    return Table(
        name="peers",
        title=f"Peers: {case.title}",
        headers=headers,
        rows=[_row(title, found[title], case.connections) for title in order],
        notes=notes,
        raw={title: one.as_dict() for title, one in found.items()},
    )


def _rate(found: Found, connections: int) -> float:
    outcomes = found.load.get(connections, [])
    return sorted(o.requests_per_s for o in outcomes)[len(outcomes) // 2] if outcomes else 0.0


def _row(title: str, found: Found, connections: Sequence[int]) -> list[str]:
    if not found.load:
        return [title, f"not measured: {found.trouble[:TROUBLE_CHARS]}"] + [""] * (3 * len(connections) + 2)
    cells = [title + (f" (then: {found.trouble})" if found.trouble else "")]
    for count in connections:
        outcomes = found.load.get(count, [])
        errors = sum(o.errors for o in outcomes)
        cells.append(spread(o.requests_per_s for o in outcomes) + (f", {errors} errors" if errors else ""))
        cells.append(spread((o.p50_ms for o in outcomes), 2))
        cells.append(spread((o.p99_ms for o in outcomes), 2))
    cells.append(spread(o.cpu_us["all"] for o in found.load.get(32, [])))
    return [*cells, spread(found.starts_s, 2), spread(found.idle_mib)]


def _forest(found: Mapping[str, Found], batching: bool) -> str:
    """clary against Triton at 64 connections, the target of the batching design."""
    ours, theirs = _rate(found["clary"], 64), _rate(found.get("Triton (pytriton)", Found()), 64)
    words = "batching on" if batching else "batching off"
    if not theirs:
        return f"{words}, 64 connections: Triton was not measured, so there is no ratio."
    ratio = ours / theirs
    met = "" if not batching else f", target >= {FOREST_FACTOR:g}: {'met' if ratio >= FOREST_FACTOR else 'MISSED'}"
    return (
        f"{words}, 64 connections: clary answers {ratio:.1f} times as many requests as Triton{met}. "
        "clary evaluates scikit-learn's forests by a table walk of its own that is checked bit for bit at load."
    )
