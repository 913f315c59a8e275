"""What large uploads do to everybody else: four clients upload a gigabyte each while others describe and invoke.

Three stretches on one clary: nobody uploads; the same four clients upload to a server that throws the bytes away (what
they take from this machine by themselves: the floor); they upload to clary. Nothing is pinned: clients and clary share
the cores, as on a laptop. Each client is a process of its own with boto3's `upload_file` and its default settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import artifacts
import boto3
import load
import machine
import stand
from report import Table, verdict
from scale import Scale

CLIENTS = 4
TARGET_P99_MS = 50.0
TARGET_MIB = 200.0
DESCRIBE_EVERY_S = 0.05
INVOKE_EVERY_S = 0.05
INVOKE_WINDOW_S = 5.0
PROCESSES = ("proxy", "control")


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the others saw while something went on for `seconds`."""

    what: str
    seconds: float
    uploaded_mib: float
    describe_ms: list[float]  # ascending
    invoke_p50_ms: float  # of the worst window
    invoke_p99_ms: float
    failed: int
    first_error: str
    cpu_s: dict[str, float]
    others_s: float  # CPU of everything else on the machine, our own clients that describe and invoke included
    peak_mib: dict[str, float]  # resident set at its largest

    def row(self) -> tuple[str, ...]:
        cells = [self.what, f"{self.uploaded_mib / self.seconds:.0f}" if self.uploaded_mib else "", str(self.calls)]
        cells += [f"{load.quantile(self.describe_ms, share):.1f}" for share in (0.5, 0.99, 1.0)]
        cells += [f"{self.invoke_p50_ms:.1f}", f"{self.invoke_p99_ms:.1f}", str(self.failed)]
        cells += [f"{self.cpu_s[name] / self.seconds:.2f}" for name in (*PROCESSES, "clients")]
        cells.append(f"{self.others_s / self.seconds:.2f}")
        return (*cells, *(f"{self.peak_mib[name]:.0f}" for name in PROCESSES))

    @property
    def calls(self) -> int:
        return len(self.describe_ms)


def table(scale: Scale) -> Table:
    """The three stretches."""
    artifact = artifacts.sklearn_model("logistic")
    with stand.running() as one, _file(scale.upload_mib) as file:
        endpoint = one.deploy(artifact)
        work = Work(one, endpoint, one.request(endpoint, artifact), scale.upload_mib)
        machine.say(f"uploads: {scale.seconds:g} s without any")
        rest = work.rest(scale.seconds)
        machine.say(f"uploads: {CLIENTS} x {scale.upload_mib} MiB thrown away")
        with _sink() as port:
            floor = work.uploads("uploads thrown away", file, f"http://127.0.0.1:{port}")
        machine.say(f"uploads: {CLIENTS} x {scale.upload_mib} MiB to clary")
        real = work.uploads("uploads to clary", file, f"http://127.0.0.1:{one.port}")
    stretches = (rest, floor, real)
    p99_ms = load.quantile(real.describe_ms, 0.99)
    return Table(
        name="uploads",
        title="Large uploads beside everything else",
        headers=(
            "meanwhile",
            "MiB/s",
            "DescribeEndpoint calls",
            "p50 ms",
            "p99 ms",
            "max ms",
            "InvokeEndpoint p50 ms",
            "p99 ms",
            "failed",
            *(f"CPU of {name}, cores" for name in (*PROCESSES, "upload clients", "all else")),
            *(f"memory of {name} at most, MiB" for name in PROCESSES),
        ),
        rows=[one.row() for one in stretches],
        notes=[
            f"DescribeEndpoint during uploads: p99 {verdict(p99_ms, TARGET_P99_MS, True, 'ms')}; "
            f"{load.quantile(floor.describe_ms, 0.99):.1f} ms while the same clients upload to somebody else.",
            f"Control: {verdict(real.peak_mib['control'], TARGET_MIB, True, 'MiB')}.",
            f"Failed invocations during uploads: {verdict(real.failed, 0, True, 'requests')}"
            + (f" ({real.first_error})." if real.failed else "."),
            "Per stretch the worst of the invocations' windows is shown.",
            f"{CLIENTS} processes upload {scale.upload_mib} MiB each at the same time (boto3 upload_file, its default "
            "TransferConfig: parts of 8 MiB, ten threads a process); a boto3 client calls DescribeEndpoint every "
            f"{1000 * DESCRIBE_EVERY_S:.0f} ms, and one connection sends a signed invocation of a logistic regression "
            f"every {1000 * INVOKE_EVERY_S:.0f} ms (lateness counts). Nothing is pinned.",
        ],
        raw=[asdict(one) for one in stretches],
    )


@dataclass(frozen=True, slots=True)
class Work:
    """The clary that is watched, and who asks it what."""

    one: stand.Stand
    endpoint: str
    request: bytes
    upload_mib: int

    def rest(self, seconds: float) -> Stretch:
        return self._watch("no uploads", lambda: time.sleep(seconds), 0.0, ())

    def uploads(self, what: str, file: Path, url: str) -> Stretch:
        """All clients at once, each told to begin when all are up."""
        order = {
            "client": {
                "region_name": stand.REGION,
                "endpoint_url": url,
                "aws_access_key_id": self.one.variables["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": self.one.variables["AWS_SECRET_ACCESS_KEY"],
            },
            "file": str(file),
            "bucket": stand.BUCKET,
        }
        clients = [_Client({**order, "key": f"upload-{number}"}) for number in range(CLIENTS)]

        def upload() -> None:
            for client in clients:
                client.begin()
            for client in clients:
                client.wait()

        try:
            return self._watch(what, upload, CLIENTS * self.upload_mib, [client.pid for client in clients])
        finally:
            for client in clients:
                client.end()

    def _watch(self, what: str, work: Callable[[], None], uploaded_mib: float, client_pids: Sequence[int]) -> Stretch:
        pids = {name: [self.one.service_pid(name)] for name in PROCESSES} | {"clients": client_pids}
        over = threading.Event()
        with ThreadPoolExecutor(2) as threads:
            describes = threads.submit(_describe, self.one.client("sagemaker"), self.endpoint, over)
            invokes = threads.submit(_invoke, f"tcp:127.0.0.1:{self.one.port}", self.request, over)
            try:
                for name in PROCESSES:
                    machine.forget_peak(pids[name][0])
                before, busy_s, started_s = _cpu_s(pids), machine.busy_s(), time.perf_counter()
                work()
                seconds = time.perf_counter() - started_s
                after, busy_s = _cpu_s(pids), machine.busy_s() - busy_s
            finally:
                over.set()
        invoked: list[load.Outcome] = invokes.result()
        return Stretch(
            what=what,
            seconds=seconds,
            uploaded_mib=uploaded_mib,
            describe_ms=sorted(describes.result()),
            invoke_p50_ms=max(outcome.p50_ms for outcome in invoked),
            invoke_p99_ms=max(outcome.p99_ms for outcome in invoked),
            failed=sum(outcome.errors for outcome in invoked),
            first_error=next((outcome.first_error for outcome in invoked if outcome.errors), ""),
            cpu_s={name: after[name] - before[name] for name in pids},
            others_s=busy_s - sum(after.values()) + sum(before.values()),
            peak_mib={name: machine.peak_mib(pids[name][0]) for name in PROCESSES},
        )


class _Client:
    """One uploading process; it stays until `end`, so that its CPU time can be read."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as at terminals of their own: the kernel shares the cores out by session
        )
        self.pid = self._process.pid
        self._say(json.dumps(order))
        self._hear()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("an uploading client ended before its time; its last words are on stderr")
        return line

    def begin(self) -> None:
        self._say("go")

    def wait(self) -> float:
        """Seconds that the upload took."""
        return float(self._hear())

    def end(self) -> None:
        machine.end(self._process)


def _cpu_s(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: machine.cpu_s(some) for name, some in pids.items()}


def _describe(client: Any, endpoint: str, over: threading.Event) -> list[float]:
    """Milliseconds of each call, one every DESCRIBE_EVERY_S, or at once where the last was later than that."""
    found = []
    while not over.is_set():
        started_s = time.perf_counter()
        client.describe_endpoint(EndpointName=endpoint)
        took_s = time.perf_counter() - started_s
        found.append(1000 * took_s)
        over.wait(max(0.0, DESCRIBE_EVERY_S - took_s))
    return found


def _invoke(address: str, request: bytes, over: threading.Event) -> list[load.Outcome]:
    """Windows of paced load for as long as it goes on; the last one ends at most one window late."""
    found = []
    while not over.is_set():
        order = load.Order(address, [request], 1, INVOKE_WINDOW_S, period_s=INVOKE_EVERY_S)
        found.append(load.measure(order))
    return found


@contextmanager
def _file(size_mib: int) -> Iterator[Path]:
    """Random bytes in a file that is gone afterwards."""
    with tempfile.NamedTemporaryFile(prefix="clary-bench-upload-") as file:
        for _ in range(size_mib):
            file.write(os.urandom(1 << 20))
        file.flush()
        yield Path(file.name)


@contextmanager
def _sink() -> Iterator[int]:
    """The port of a server that throws uploads away."""
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("sink.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        machine.end(process)


def main() -> None:
    """One client: an order on the first line of stdin, the upload on the second; seconds on stdout; then it waits."""
    order = json.loads(sys.stdin.readline())
    client = boto3.client("s3", **order["client"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started_s = time.perf_counter()
    client.upload_file(order["file"], order["bucket"], order["key"])
    sys.stdout.write(f"{time.perf_counter() - started_s}\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main()
