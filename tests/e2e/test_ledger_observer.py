"""The ledger against somebody outside: who watched the process table and counted answers, while clary was killed.

What is counted: a request is one completed 200 when the kernel has taken the last byte of its answer for its client
(`clary.proxy.receipts`), so a client that waits for each answer, and reads it whole, counts the same number exactly,
whatever is killed when. Requests that ended in an error at the client are on neither side's list of 200s.

Lives agree to 0.2 s: a twentieth for the supervisor's last heartbeat, the rest for the machine's own lateness, to which
is added by how much the observer itself was woken too late, and for how long the machine let processes live on that we
had sent SIGKILL ourselves: nobody is left then who could write down when they went.

CLARY_TEST_KILLS=N makes it N kills (ten are the suite's); CLARY_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import Clary, instance, leftovers, serverless, signal_to, wait_for
from process_watch import lives
from urllib3.exceptions import HTTPError

from clary.paths import Layout
from clary.store.raw_usage import CounterFile

KILLS = int(os.environ.get("CLARY_TEST_KILLS", "10"))
AGREE_NS = 200_000_000


@contextmanager
def watch(folder: Path) -> Iterator[dict[str, Any]]:
    """What `process_watch` sees while the block runs; filled in at its end."""
    seen: dict[str, Any] = {}
    program = [sys.executable, str(Path(__file__).with_name("process_watch.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as observer:
        assert observer.stdin is not None
        observer.stdin.write(f"{folder}\n")
        observer.stdin.flush()
        assert observer.stdout is not None
        assert observer.stdout.readline() == "watching\n"
        try:
            yield seen
        finally:
            told, _ = observer.communicate()
            seen.update(json.loads(told))


class Callers:
    """Clients that wait for each answer, read it whole and count it."""

    def __init__(self, clary: Clary, endpoints: list[str], bodies: list[str]) -> None:
        self.read = dict.fromkeys(endpoints, 0)
        self.failed: list[str] = []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(clary._client("sagemaker-runtime", "us-east-1"), name, body))
            for name in endpoints
            for body in bodies
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: Any, endpoint: str, body: str) -> None:
        while not self._stop.is_set():
            try:
                answer = client.invoke_endpoint(EndpointName=endpoint, Body=body, ContentType="text/plain")
                assert answer["Body"].read() == body.encode()
                with self._lock:
                    self.read[endpoint] += 1
            except (ClientError, BotoCoreError, HTTPError) as error:
                with self._lock:
                    self.failed.append(str(error))
                time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def kill(one: Clary, what: str) -> int:
    """kill -9 of `what`: a service by name, the supervisor, or every process by its own signal.

    Returns for how many nanoseconds the tree lived on although every process had its signal; 0 for any other `what`.
    """
    facts = one.supervisor(op="list")
    services = {service["name"]: service["pid"] for service in facts["services"]}
    if what in services:
        wait_for(lambda: one.service_pid(what), 10, f"{what} to be there")
        signal_to(one.service_pid(what), signal.SIGKILL)
        return 0
    pids = [facts["pid"]]
    if what == "tree":
        pids += [*services.values(), *(worker["pid"] for worker in facts["workers"])]
    lived_on_ns, signalled_ns = 0, time.monotonic_ns()
    for pid in pids:
        try:
            if pid:
                signal_to(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the lifeline was faster
    if what == "tree":
        wait_for(lambda: not any(lives(str(pid)) for pid in pids), 10, "the tree to die")
        lived_on_ns = time.monotonic_ns() - signalled_ns
    wait_for(lambda: not leftovers(one.data), 10, "every process to hear of it")
    one.up()
    return lived_on_ns


def completed(one: Clary, endpoint: str) -> int:
    """The 200s of an endpoint as its fleets' counters have them."""
    found = 0
    for usage in CounterFile(Layout(one.data).counters).changed().values():
        if usage.fleet.split("/")[1] == endpoint:
            found += usage["requests"] - usage["errors_4xx"] - usage["errors_5xx"]
    return found


def journal_lives(one: Clary) -> dict[str, tuple[int, int]]:
    """Worker -> its life, as the supervisor journalled it; all have ended."""
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for line in Layout(one.data).journal.read_text().splitlines():
        event = json.loads(line)
        if event["event"] in ("started", "exited"):
            (starts if event["event"] == "started" else ends)[event["worker"]] = event["at_ns"]
    return {worker: (at_ns, ends[worker]) for worker, at_ns in starts.items()}


@pytest.mark.timeout(120 + 20 * KILLS)
def test_lives_and_requests_agree_with_an_outside_observer_over_ten_kills(
    start_clary: Callable[..., Clary], echo_files: dict[str, str]
) -> None:
    seed = int(os.environ.get("CLARY_TEST_SEED", random.randrange(1 << 32)))
    dice = random.Random(seed)
    print("seed", seed)
    one = start_clary()
    model = one.model(one.upload(dict(echo_files)), "clary/sklearn", {"SAGEMAKER_MODEL_SERVER_WORKERS": "2"})
    kinds = ["proxy", "control", "proxy", "proxy", "supervisor", "control", "proxy", "tree", "proxy", "proxy"]
    with watch(Layout(one.data).worker_logs) as seen:
        names = [one.endpoint(one.config(instance(model))), one.endpoint(one.config(serverless(model)))]
        callers = Callers(one, names, ["x", "y" * 40_000, "z" * 1_000_000])
        lived_on_ns = 0
        try:
            for number in range(KILLS):
                time.sleep(dice.uniform(0.2, 1.2))
                lived_on_ns = max(lived_on_ns, kill(one, kinds[number % len(kinds)]))
            time.sleep(1)
        finally:
            callers.stop()
        wait_for(one.answers, 20, "the API")
        for name in names:
            one.delete(name)
        wait_for(lambda: not one.supervisor(op="list")["workers"], 10, "the last worker to leave")
        time.sleep(0.2)  # the observer looks once more
    verdict = wait_for(lambda: caught_up(one), 10, "metering to have read everything")
    print(f"read={callers.read} failed={len(callers.failed)} ledger={verdict['ledger_nanousd']}")
    assert verdict["exact"], verdict
    assert verdict["differences"] == []
    for name in names:
        assert completed(one, name) == callers.read[name], f"{name}, seed {seed}, failed {callers.failed}"
        assert callers.read[name] > KILLS
    print(f"processes lived on for {lived_on_ns / 1e6:.1f} ms after SIGKILL")
    agree(journal_lives(one), seen, AGREE_NS + seen["late_ns"] + lived_on_ns, seed)


def caught_up(one: Clary) -> dict[str, Any] | None:
    """The reconciliation, once nothing of the raw usage is unread."""
    verdict: dict[str, Any] = json.loads(one.run("cost", "--verify", "--json").stdout)
    return None if verdict["behind_bytes"] or verdict["behind_requests"] else verdict


def agree(journal: dict[str, tuple[int, int]], told: dict[str, Any], allowed_ns: int, seed: int) -> None:
    """Each life in the journal is what the observer saw, to `allowed_ns`, and the other way round."""
    seen = told["lives"]
    worst_early_ns = worst_late_ns = 0
    for worker, (start_ns, end_ns) in journal.items():
        if worker not in seen:
            assert end_ns - start_ns < allowed_ns, f"{worker} lived unseen, seed {seed}"
            continue
        life = seen[worker]
        assert life["gone_ns"] is not None, worker
        early_ns = max(life["unseen_ns"] - start_ns, start_ns - life["found_ns"], 0)
        late_ns = max(life["seen_ns"] - end_ns, end_ns - life["gone_ns"], 0)
        worst_early_ns, worst_late_ns = max(worst_early_ns, early_ns), max(worst_late_ns, late_ns)
        assert max(early_ns, late_ns) <= allowed_ns, f"{worker}: {start_ns, end_ns} but {life}, seed {seed}"
    for worker, life in seen.items():
        known = worker in journal or life["seen_ns"] - life["found_ns"] < allowed_ns
        assert known, f"{worker} lived and nobody was told: {life}, seed {seed}"
    worst = f"start {worst_early_ns / 1e6:.1f} ms, end {worst_late_ns / 1e6:.1f} ms"
    print(f"lives={len(journal)} worst difference: {worst}; observer late by {told['late_ns'] / 1e6:.1f} ms")
    if not seen:
        pytest.fail("the observer saw no worker at all")
