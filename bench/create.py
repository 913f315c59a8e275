"""Making and deleting endpoints: how long from CreateEndpoint to the first 200, and whether anything is left behind."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import artifacts
import load
import machine
import stand
from report import Table, verdict
from scale import Scale

TARGET_P95_S = 1.0
SERVE_LIMIT_S = 60.0
RETRY_S = 0.005
FILL_CYCLES = 10
QUIET_S = 3.0  # for sockets to close and control groups to be removed
TEMPORARY = ("*.tmp", "*.part", ".*.tmp", "tmp*")


@dataclass(frozen=True, slots=True)
class Left:
    """What one clary holds at a moment."""

    processes: int
    open_files: dict[str, int]
    control_groups: int
    worker_sockets: int
    temporary_files: int
    model_folders: int


def table(scale: Scale) -> Table:
    """Cycles of create, first 200, delete; the books before and after."""
    artifact = artifacts.sklearn_model("forest")
    with stand.running() as one:
        machine.say(f"create: {scale.cycles} cycles")
        config = one.config(one.model(artifact), serverless=False)
        keeper = one.endpoint(one.config(one.model(artifact), serverless=True))  # holds the zygote throughout
        first_s = _cycle(one, config, artifact, 0)
        for number in range(FILL_CYCLES):  # until pools that are bounded (the database's connections) are full
            _cycle(one, config, artifact, 1 + number)
        before = _look(one, keeper)
        found = [_cycle(one, config, artifact, FILL_CYCLES + 1 + n) for n in range(scale.cycles)]
        after = _look(one, keeper)
    ordered = sorted(found)
    numbers = (load.quantile(ordered, 0.5), load.quantile(ordered, 0.95), ordered[-1])
    rows = [("CreateEndpoint to first 200, s", str(len(found)), *(f"{value:.3f}" for value in numbers))]
    return Table(
        name="create",
        title="Create and delete",
        headers=("what", "cycles", "p50", "p95", "max"),
        rows=rows,
        notes=[
            f"Create: p95 {verdict(numbers[1], TARGET_P95_S, True, 's')}.",
            f"The first on this clary took {first_s:.3f} s.",
            "Real-time endpoint, random forest of 100 trees, one call of CreateEndpoint to the first 200 of an "
            "invocation that is repeated until there is one; the environment is built and its zygote warm.",
            *_leaks(before, after, scale.cycles),
        ],
        raw={"first_s": first_s, "cycles_s": found, "before": asdict(before), "after": asdict(after)},
    )


def _cycle(one: stand.Stand, config: str, artifact: artifacts.Artifact, number: int) -> float:
    """One life of an endpoint; seconds from the call of CreateEndpoint to the first 200."""
    name = f"cycle-{number}"
    request = one.request(name, artifact)
    sagemaker = one.client("sagemaker")
    started_s = time.perf_counter()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    while load.ask(one.port, request)[1] != 200:
        if time.perf_counter() - started_s > SERVE_LIMIT_S:
            raise TimeoutError(f"{name} has not served {SERVE_LIMIT_S:g} s after CreateEndpoint")
        time.sleep(RETRY_S)
    took_s = time.perf_counter() - started_s
    one.delete(name)
    return took_s


def _look(one: stand.Stand, keeper: str) -> Left:
    """Counts once nothing but the sleeping endpoint and its zygote is there."""
    one.park(keeper)
    time.sleep(QUIET_S)
    names = {one.pid: "supervisor"} | {one.service_pid(name): name for name in ("proxy", "control")}
    names |= {int(zygote["pid"]): "zygote" for zygote in one.zygotes() if zygote["pid"]}
    return Left(
        processes=len(machine.tree(one.pid)),
        open_files={name: machine.open_files(pid) for pid, name in names.items()},
        control_groups=_control_groups(one.data),
        worker_sockets=len(list((one.data / "run" / "w").iterdir())),
        temporary_files=sum(len(list(one.data.rglob(pattern))) for pattern in TEMPORARY),
        model_folders=len(list((one.data / "models").iterdir())),
    )


def _control_groups(data: Path) -> int:
    """Groups below the folders that this clary made for itself; none where it has no right to make any."""
    own = "clary-" + hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return sum(1 for folder in Path("/sys/fs/cgroup").rglob(own) for inner in folder.iterdir() if inner.is_dir())


def _leaks(before: Left, after: Left, cycles: int) -> list[str]:
    first, last = _flat(asdict(before)), _flat(asdict(after))
    notes = [f"{name}: {first[name]} before, {last[name]} after {cycles} cycles" for name in last]
    grown = Counter({name: last[name] - first.get(name, 0) for name in last})
    more = [f"{name} +{count}" for name, count in grown.items() if count > 0]
    notes.append(f"Left behind: {', '.join(more) if more else 'nothing'}.")
    return notes


def _flat(found: Mapping[str, object]) -> dict[str, int]:
    flat: dict[str, int] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            flat |= {f"open files of the {key}": count for key, count in value.items()}
        else:
            flat[name.replace("_", " ")] = int(str(value))
    return flat
