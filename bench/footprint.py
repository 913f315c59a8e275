"""What clary costs while it does little: starting, idling with every endpoint deleted, and holding many endpoints."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import artifacts
import load
import machine
import stand
from report import Table, spread, verdict
from scale import Scale

UP_S = 1.5
IDLE_MIB = 120.0
IDLE_CORE_RATIO = 0.005
PERIOD_S = 1.0
REQUESTS = 200


@dataclass(frozen=True, slots=True)
class Idle:
    """A tree of processes over a stretch of time in which nobody asks anything."""

    processes: int
    pss_mib: float
    cpu_s: float
    seconds: float


def table(scale: Scale) -> Table:
    """All of it in one table of one column."""
    first_s, later_s = _starts(scale.starts)
    with stand.running() as one:
        _work(one)
        machine.say(f"footprint: idle for {2 * scale.idle_s:g} s")
        time.sleep(scale.idle_s)
        idle = _idle(one, scale.idle_s)
    with stand.running() as one:
        resident = _resident(one, scale)
    ratio = idle.cpu_s / idle.seconds
    outcome = resident["outcome"]
    rows = [
        ("clary up --detach on an empty folder, until it returns ready, s", spread(first_s, 2)),
        ("clary up --detach on a folder that was used before, s", spread(later_s, 2)),
        (f"idle, every endpoint deleted {scale.idle_s:g} s before: processes", str(idle.processes)),
        ("idle: PSS of the tree, MiB", f"{idle.pss_mib:.0f}"),
        (f"idle: CPU seconds in {idle.seconds:.0f} s", f"{idle.cpu_s:.2f} ({ratio:.2%} of a core)"),
        (f"{resident['endpoints']} real-time endpoints resident: worker processes", str(resident["workers"])),
        (f"the same, 1 request/s each for {scale.resident_s:g} s: requests", str(outcome["requests"])),
        ("errors", str(outcome["errors"]) + (f" ({outcome['first_error']})" if outcome["errors"] else "")),
        ("p50 / p99 / max ms", " / ".join(f"{outcome[key]:.1f}" for key in ("p50_ms", "p99_ms", "max_ms"))),
        ("PSS of the tree, MiB", f"{resident['pss_mib']:.0f}"),
        ("CPU of the tree, share of a core", f"{resident['core_ratio']:.1%}"),
    ]
    return Table(
        name="footprint",
        title="Footprint",
        headers=("what", "measured"),
        rows=rows,
        notes=[
            f"Start: {verdict(statistics.median(first_s), UP_S, True, 's')} (the command line's own imports included).",
            f"Idle memory: {verdict(idle.pss_mib, IDLE_MIB, True, 'MiB')}.",
            f"Idle CPU: {verdict(100 * ratio, 100 * IDLE_CORE_RATIO, True, '% of a core')}.",
            "Resident: ONNX, XGBoost and forest endpoints in turn, one process each "
            "(SAGEMAKER_MODEL_SERVER_WORKERS=1), signed, one connection an endpoint, paced: lateness counts.",
            *resident["troubles"],
        ],
        raw={"first_s": first_s, "later_s": later_s, "idle": asdict(idle), "resident": resident},
    )


def _starts(count: int) -> tuple[list[float], list[float]]:
    """Seconds of first starts, and of second starts on the same folder."""
    machine.say(f"footprint: {count} starts")
    first, later = [], []
    for _ in range(count):
        with stand.running() as one:
            first.append(one.up_s)
            one.down()
            later.append(one.up())
    return first, later


def _work(one: stand.Stand) -> None:
    """A real-time and a serverless endpoint, asked a few hundred times, then deleted: a small day's work."""
    names = []
    for artifact, serverless in ((artifacts.xgboost_model(1), False), (artifacts.sklearn_model("forest"), True)):
        name = one.deploy(artifact, serverless=serverless)
        request = one.request(name, artifact)
        for _ in range(REQUESTS):
            one.ask_ok(request)
        names.append(name)
    for name in names:
        one.delete(name)


def _idle(one: stand.Stand, seconds: float) -> Idle:
    pids = machine.tree(one.pid)
    before, started_s = machine.cpu_s(pids), time.monotonic()
    time.sleep(seconds)
    spent_s, elapsed_s = machine.cpu_s(pids) - before, time.monotonic() - started_s
    return Idle(len(pids), machine.pss_mib(pids), spent_s, elapsed_s)


def _resident(one: stand.Stand, scale: Scale) -> dict[str, Any]:
    """Endpoints that all hold a process, each asked once a second."""
    kinds = [artifacts.onnx_model(), artifacts.xgboost_model(1), artifacts.sklearn_model("forest")]
    configs = [one.config(one.model(kind, {"SAGEMAKER_MODEL_SERVER_WORKERS": "1"}), serverless=False) for kind in kinds]
    found, troubles = [], []
    for number in range(scale.endpoints):
        try:
            found.append((one.endpoint(configs[number % 3]), kinds[number % 3]))
        except (RuntimeError, TimeoutError) as error:
            troubles.append(f"Endpoint {number + 1} of {scale.endpoints} was not made: {error}.")
            break
    machine.say(f"footprint: {len(found)} endpoints resident, asked for {scale.resident_s:g} s")
    requests = [one.request(name, kind) for name, kind in found]
    pids = machine.tree(one.pid)
    before_s, started_s = machine.cpu_s(pids), time.monotonic()
    outcome = load.measure(
        load.Order(
            f"tcp:127.0.0.1:{one.port}", requests, len(found), scale.resident_s, warm_s=PERIOD_S, period_s=PERIOD_S
        )
    )
    ratio = (machine.cpu_s(pids) - before_s) / (time.monotonic() - started_s)
    workers = len(one.supervisor("list")["workers"])
    pss_mib = machine.pss_mib(machine.tree(one.pid))
    return {
        "endpoints": len(found),
        "workers": workers,
        "pss_mib": pss_mib,
        "core_ratio": ratio,
        "outcome": asdict(outcome),
        "troubles": troubles,
    }
