"""From nothing to an answer: how long the request that wakes a sleeping endpoint takes, and what stands beside that.

Each wake is one client on a new connection, signed, against an endpoint of which no process is left: the supervisor's
own list must show none before the request is sent. The number is connect to the last byte of the 200. Nothing is
pinned: proxy, supervisor, zygote and worker share the machine's cores as they do in use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import artifacts
import environments
import load
import machine
import stand
from artifacts import Artifact
from environments import Unavailable
from report import Table, verdict
from scale import Scale

TARGET_P50_MS = {"onnx": 25.0, "xgboost": 25.0, "forest": 40.0, "torch": 40.0}
TARGET_P99_MS = {"onnx": 100.0, "xgboost": 100.0, "forest": 100.0, "torch": 100.0, "torch100": 500.0}
AT_ONCE = 10
ASLEEP_S = 0.25  # an idle endpoint is woken after a while, not in the moment in which its last worker went
ZYGOTE_LIMIT_S = 60.0
WAY_LIMIT_S = 900.0  # then a way ends with the wakes that it has
MOST_KILLS = 4  # the supervisor restarts a zygote that keeps dying after 0.2, 1, 5, 30 s
USUAL = "asleep"
AT_ONCE_AGAIN = "asleep, woken the moment its worker is gone"
BESIDE = 5  # rows beside the main one get one in so many of its wakes
NO_ZYGOTE = "plain start: clary keeps no zygote of this environment"
USUAL_WAYS = (f"{USUAL}, idle", f"{USUAL}, {NO_ZYGOTE}")
SIGNED_FOR_S = 600.0  # a signature holds for 15 minutes
NOTE = (
    "Client: a new TCP connection and a signed request for each wake, on the same machine, nothing pinned. "
    f"Between two wakes an endpoint sleeps {ASLEEP_S:g} s but where the way says otherwise. "
    f"A way ends after {WAY_LIMIT_S:g} s with the wakes that it has by then."
)

# What a wake would cost without a zygote: the same environment's interpreter, imports, model, one prediction.
PLAIN_START = {
    "forest": "import joblib; m = joblib.load({file!r}); m.predict([[1.0] * 30])",
    "xgboost": (
        "import numpy, xgboost; m = xgboost.Booster({{'nthread': 1}});"
        " m.load_model(bytearray(open({file!r}, 'rb').read())); m.inplace_predict(numpy.ones((1, 30), 'float32'))"
    ),
    "onnx": (
        "import numpy, onnxruntime; m = onnxruntime.InferenceSession({file!r});"
        " m.run(None, {{m.get_inputs()[0].name: numpy.ones((1, 30), 'float32')}})"
    ),
    "torch": "import torch; m = torch.jit.load({file!r}); m(torch.ones(1, 784))",
    "torch100": "import torch; m = torch.jit.load({file!r}); m(torch.ones(1, 784))",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of wake of one model. `trouble` says why there are no times."""

    artifact: str
    way: str
    times_ms: tuple[float, ...]
    trouble: str = ""

    def cells(self) -> tuple[str, ...]:
        if not self.times_ms:
            return (self.artifact, self.way, "0", f"not measured: {self.trouble}", "", "", "")
        ordered = sorted(self.times_ms)
        tail = (load.quantile(ordered, 0.5), load.quantile(ordered, 0.9), load.quantile(ordered, 0.99), ordered[-1])
        return (self.artifact, self.way, str(len(ordered)), *(f"{ms:.1f}" for ms in tail))

    def verdict(self, kind: str) -> str:
        """How the times stand to the targets of a kind of model."""
        ordered = sorted(self.times_ms)
        words = []
        if kind in TARGET_P50_MS:
            words.append(f"p50 {verdict(load.quantile(ordered, 0.5), TARGET_P50_MS[kind], True, 'ms')}")
        words.append(f"p99 {verdict(load.quantile(ordered, 0.99), TARGET_P99_MS[kind], True, 'ms')}")
        return f"{self.artifact}: {'; '.join(words)}."


@dataclass(slots=True)
class Sleeper:
    """A serverless endpoint that is woken again and again, and its signed request."""

    one: stand.Stand
    name: str
    artifact: Artifact
    request: bytes = b""
    signed_mono_s: float = float("-inf")

    def wake_ms(self) -> float:
        """One wake. The endpoint must sleep."""
        if time.monotonic() - self.signed_mono_s > SIGNED_FOR_S:
            self.request = self.one.request(self.name, self.artifact)
            self.signed_mono_s = time.monotonic()
        return self.one.ask_ok(self.request)


def interpreter(pid: int) -> str:
    """The python of a worker's environment: the first word of its command line, not the base that it links to."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


def table(scale: Scale) -> Table:
    """All wakes of all models."""
    rows: list[Row] = []
    verdicts: list[str] = []
    for kind, make in _models().items():
        try:
            artifact = make()
        except (Unavailable, subprocess.CalledProcessError) as error:
            rows.append(Row(kind, USUAL, (), str(error)))
            continue
        try:
            found = list(_model(artifact, scale))
            rows += found
            verdicts += [row.verdict(kind) for row in found if row.way.startswith(USUAL_WAYS) and row.times_ms]
        except (RuntimeError, OSError) as error:  # it could not be deployed: said in its row
            rows.append(Row(artifact.title, "deploying", (), str(error)))
    return Table(
        name="wake",
        title="Wake: an endpoint without any process, to the first 200",
        headers=("model", "way", "wakes", "p50 ms", "p90 ms", "p99 ms", "max ms"),
        rows=[row.cells() for row in rows],
        notes=[*verdicts, NOTE],
        raw=[{"model": row.artifact, "way": row.way, "ms": row.times_ms, "trouble": row.trouble} for row in rows],
    )


def _model(artifact: Artifact, scale: Scale) -> Iterator[Row]:
    """The rows of one model, with walls and without."""
    with stand.running() as one:
        yield from _walled(one, artifact, scale)
    with stand.running("--isolation", "none") as one:
        yield _unwalled(one, artifact, scale)


def _models() -> dict[str, Callable[[], Artifact]]:
    return {
        "onnx": artifacts.onnx_model,
        "xgboost": lambda: artifacts.xgboost_model(1),
        "forest": lambda: artifacts.sklearn_model("forest"),
        "torch": lambda: _torch("torch"),
        "torch100": lambda: _torch("torch100"),
    }


def _torch(kind: str) -> Artifact:
    if artifacts.torch_wheel() is None:
        raise Unavailable(f"no torch {artifacts.TORCH_VERSION} CPU wheel in the folders of UV_FIND_LINKS")
    return artifacts.torch_model(kind, environments.Environments(environments.cache_folder()))


def _walled(one: stand.Stand, artifact: Artifact, scale: Scale) -> Iterator[Row]:
    """The rows of one model on a clary with its default walls. A way that fails says so in its row."""
    machine.say(f"wake: {artifact.title}: deploying")
    sleeper = Sleeper(one, one.deploy(artifact, serverless=True), artifact)
    ways: dict[str, Callable[[], Iterator[float]]] = {
        USUAL_WAYS[0 if one.zygotes() else 1]: lambda: _repeat(sleeper, scale.wakes, ASLEEP_S),
        AT_ONCE_AGAIN: lambda: _repeat(sleeper, scale.wakes // BESIDE, 0.0),
        "zygote just killed": lambda: _killed(sleeper, min(MOST_KILLS, scale.wakes_beside)),
        f"{AT_ONCE} endpoints at once": lambda: _at_once(one, artifact, scale.wakes_beside),
        "first wake after `clary up`": lambda: _after_up(sleeper, max(2, scale.wakes_beside // 3)),
        "a plain interpreter: import, load, predict": lambda: _plain_starts(sleeper, max(3, scale.wakes_beside)),
    }
    for way, times in ways.items():
        yield _tried(artifact, way, times)


def _unwalled(one: stand.Stand, artifact: Artifact, scale: Scale) -> Row:
    sleeper = Sleeper(one, one.deploy(artifact, serverless=True), artifact)
    way = f"{USUAL}, isolation none"
    return _tried(artifact, way, lambda: _repeat(sleeper, scale.wakes // BESIDE, ASLEEP_S))


def _tried(artifact: Artifact, way: str, times: Callable[[], Iterator[float]]) -> Row:
    machine.say(f"wake: {artifact.title}: {way}")
    found: list[float] = []
    deadline = time.monotonic() + WAY_LIMIT_S
    try:
        for wake_ms in times():
            found.append(wake_ms)
            if time.monotonic() > deadline:
                break  # the column of counts tells it
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        machine.say(f"wake: {artifact.title}: {way}: {error}")
        return Row(artifact.title, f"{way}, until: {error}" if found else way, tuple(found), str(error))
    return Row(artifact.title, way, tuple(found))


def _repeat(sleeper: Sleeper, count: int, asleep_s: float) -> Iterator[float]:
    sleeper.wake_ms()
    for _ in range(count):
        sleeper.one.park(sleeper.name)
        time.sleep(asleep_s)
        yield sleeper.wake_ms()


def _killed(sleeper: Sleeper, count: int) -> Iterator[float]:
    """The zygote is killed just before the request: whatever the supervisor then does is inside the number."""
    for _ in range(count):
        zygote = _zygote(sleeper.one)
        sleeper.one.park(sleeper.name)
        os.kill(zygote, signal.SIGKILL)
        yield sleeper.wake_ms()


def _zygote(one: stand.Stand) -> int:
    """The pid of the clary's only zygote, once it is ready. Raises: RuntimeError where there is none to be killed."""
    if not one.zygotes():
        raise RuntimeError("this environment has no zygote: its workers are started plainly")

    def ready() -> int:
        return next((int(zygote["pid"]) for zygote in one.zygotes() if zygote["state"] == "ready"), 0)

    return int(machine.wait_until(ready, ZYGOTE_LIMIT_S, "a zygote to be ready"))


def _at_once(one: stand.Stand, artifact: Artifact, rounds: int) -> Iterator[float]:
    """Ten endpoints of the model, woken at the same moment by ten clients."""
    config = one.config(one.model(artifact), serverless=True)
    sleepers = [Sleeper(one, one.endpoint(config), artifact) for _ in range(AT_ONCE)]
    for sleeper in sleepers:
        sleeper.wake_ms()
    if one.zygotes():
        _zygote(one)  # the row before may have ended it; ten plain starts at once are another matter
    with ThreadPoolExecutor(AT_ONCE) as clients:
        for _ in range(rounds):
            one.park(*(sleeper.name for sleeper in sleepers))
            yield from clients.map(Sleeper.wake_ms, sleepers)
    for sleeper in sleepers:
        one.delete(sleeper.name)


def _after_up(sleeper: Sleeper, count: int) -> Iterator[float]:
    """clary was stopped and started again, its endpoints asleep; the first request of one."""
    for _ in range(count):
        sleeper.one.park(sleeper.name)
        sleeper.one.down()
        sleeper.one.up()
        yield sleeper.wake_ms()


def _plain_starts(sleeper: Sleeper, count: int) -> Iterator[float]:
    """A new interpreter of the same environment that imports, loads, predicts once and ends."""
    artifact = sleeper.artifact
    sleeper.wake_ms()
    python = interpreter(int(sleeper.one.workers(sleeper.name)[0]["pid"]))
    name, content = next(iter(artifact.files.items()))
    with tempfile.TemporaryDirectory(prefix="clary-bench-") as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        code = PLAIN_START[artifact.kind].format(file=str(file))
        for _ in range(count):
            yield _run_ms([python, "-I", "-c", code])


def _run_ms(command: list[str]) -> float:
    started_s = time.perf_counter()
    environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environ)
    return (time.perf_counter() - started_s) * 1000
