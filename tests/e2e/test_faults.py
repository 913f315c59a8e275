"""The fault matrix, on real processes: what breaks stays small, what is promised holds (named by row)."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import Clary, instance, leftovers, serverless, signal_to, wait_for


@pytest.fixture(scope="module")
def broken(start_clary: Callable[..., Clary]) -> Clary:
    """A clary of our own, to hurt."""
    return start_clary()


@pytest.fixture(scope="module")
def echo_uri(broken: Clary, echo_files: dict[str, str]) -> str:
    return broken.upload(dict(echo_files))


@dataclass
class Load:
    """What a steady stream of requests met."""

    served: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: int = 0  # answers that were not the echo that was asked for
    slowest_s: float = 0.0


@contextmanager
def load(clary: Clary, endpoint: str, threads: int = 2, body: str = "x") -> Iterator[Load]:
    """Requests without retries from `threads` clients while the block runs."""
    told, stop, lock = Load(), threading.Event(), threading.Lock()
    clients = [clary.client("sagemaker-runtime") for _ in range(threads)]

    def ask(client: object) -> None:
        while not stop.is_set():
            started_s = time.monotonic()
            try:
                answer = client.invoke_endpoint(EndpointName=endpoint, Body=body, ContentType="text/plain")  # type: ignore[attr-defined]
                right = answer["Body"].read() == body.encode()
                with lock:
                    told.served += 1
                    told.wrong += not right
            except (ClientError, BotoCoreError) as error:
                with lock:
                    told.failed.append(str(error))
            with lock:
                told.slowest_s = max(told.slowest_s, time.monotonic() - started_s)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(ask, client) for client in clients]
        try:
            yield told
        finally:
            stop.set()
        for one in running:
            one.result()


def two_workers(clary: Clary, uri: str) -> str:
    model = clary.model(uri, "clary/sklearn", {"SAGEMAKER_MODEL_SERVER_WORKERS": "2"})
    return clary.endpoint(clary.config(instance(model)))


def test_w1_an_idle_worker_killed_is_replaced_and_nobody_notices(broken: Clary, echo_uri: str) -> None:
    name = two_workers(broken, echo_uri)
    victim = broken.ready(name)[0]
    signal_to(victim["pid"], signal.SIGKILL)
    for _ in range(50):
        assert broken.invoke(name, "x", "text/plain") == b"x"
    wait_for(
        lambda: (
            [w["state"] for w in broken.workers(name)] == ["ready", "ready"]
            and victim["worker"] not in {w["worker"] for w in broken.workers(name)}
        ),
        10,
        "the successor",
    )
    broken.delete(name)


def test_w2_a_worker_killed_under_load_fails_only_what_it_held(broken: Clary, echo_uri: str) -> None:
    name, witness = two_workers(broken, echo_uri), two_workers(broken, echo_uri)
    with load(broken, name, 4) as hurt, load(broken, witness, 1) as clean:
        for _ in range(3):
            time.sleep(0.7)
            signal_to(broken.ready(name)[0]["pid"], signal.SIGKILL)
        time.sleep(0.7)
    assert clean.failed == []
    assert len(hurt.failed) <= 3 * 4, hurt.failed  # at most what four clients had in flight, three times
    assert hurt.served > 50
    broken.delete(name)
    broken.delete(witness)


def test_a_request_of_death_is_not_tried_on_a_second_worker(broken: Clary, echo_uri: str) -> None:
    name = two_workers(broken, echo_uri)
    before = {w["worker"] for w in broken.workers(name)}
    broken.invoke(name, "x", "text/plain")
    with pytest.raises(ClientError, match="ended while it computed"):
        broken.invoke(name, "die 3", "text/plain")
    wait_for(lambda: len(before & {w["worker"] for w in broken.workers(name)}) < 2, 5, "the news of its death")
    assert len(before & {w["worker"] for w in broken.workers(name)}) == 1
    broken.delete(name)


def test_w4_a_hung_worker_is_ended_and_replaced(broken: Clary, echo_uri: str) -> None:
    name = broken.endpoint(
        broken.config(instance(broken.model(echo_uri, "clary/sklearn", {"SAGEMAKER_MODEL_SERVER_WORKERS": "1"})))
    )
    victim = broken.ready(name)[0]
    signal_to(victim["pid"], signal.SIGSTOP)
    wait_for(lambda: broken.workers(name) and broken.workers(name)[0]["worker"] != victim["worker"], 40, "its end")
    wait_for(lambda: broken.workers(name)[0]["state"] == "ready", 10, "its successor")
    assert broken.invoke(name, "x", "text/plain") == b"x"
    broken.delete(name)


def test_w5_a_leak_ends_that_worker_alone_with_its_reason(broken: Clary, echo_uri: str) -> None:
    witness = two_workers(broken, echo_uri)
    model = broken.model(echo_uri, "clary/sklearn")
    name = broken.endpoint(broken.config(serverless(model, memory=1024)))
    if broken.supervisor(op="list")["isolation"]["cgroup_version"] == 0:
        pytest.skip("no control groups here: nothing but the whole host's memory limits a worker")
    with load(broken, witness, 1) as clean, pytest.raises(ClientError, match="ended while it computed"):
        broken.invoke(name, "leak", "text/plain")
    assert clean.failed == []
    journal = (broken.data / "journal" / "workers.jsonl").read_text()
    assert '"reason":"OutOfMemory"' in journal
    assert broken.invoke(name, "x", "text/plain") == b"x"
    broken.delete(name)
    broken.delete(witness)


def test_a_zygote_killed_under_a_wake_costs_a_plain_start_and_no_more(broken: Clary, echo_uri: str) -> None:
    name = broken.endpoint(
        broken.config(serverless(broken.model(echo_uri, "clary/sklearn"))), tags={"clary:keep-alive-s": "0.2"}
    )
    for _ in range(3):
        wait_for(lambda: not broken.workers(name), 10, "zero workers")
        for zygote in broken.supervisor(op="list")["zygotes"]:
            if zygote["pid"]:
                signal_to(zygote["pid"], signal.SIGKILL)
        assert broken.invoke(name, "x", "text/plain") == b"x"
    wait_for(lambda: all(z["state"] == "ready" for z in broken.supervisor(op="list")["zygotes"]), 60, "a zygote")
    broken.delete(name)


def test_d1_the_proxy_killed_is_back_within_a_second_and_refuses_no_connect(broken: Clary, echo_uri: str) -> None:
    name = two_workers(broken, echo_uri)
    pid = broken.service_pid("proxy")
    signal_to(broken.service_pid("control"), signal.SIGSTOP)  # back even with control away
    try:
        signal_to(pid, signal.SIGKILL)
        runtime = broken.client("sagemaker-runtime", read_timeout=10)
        answer = runtime.invoke_endpoint(EndpointName=name, Body=b"x", ContentType="text/plain")
        assert answer["Body"].read() == b"x"
    finally:
        signal_to(broken.service_pid("control"), signal.SIGCONT)
    broken.delete(name)


def test_c1_control_killed_or_stopped_touches_no_invocation(broken: Clary, echo_uri: str) -> None:
    name = two_workers(broken, echo_uri)
    sleeper = broken.endpoint(
        broken.config(serverless(broken.model(echo_uri, "clary/sklearn"))), tags={"clary:keep-alive-s": "0.2"}
    )
    wait_for(lambda: not broken.workers(sleeper), 10, "zero workers")
    with load(broken, name, 2) as steady:
        pid = broken.service_pid("control")
        signal_to(pid, signal.SIGSTOP)
        assert broken.invoke(sleeper, "x", "text/plain") == b"x"  # wakes without control
        signal_to(broken.ready(name)[0]["pid"], signal.SIGKILL)  # is replaced without control
        time.sleep(1.5)
        assert len([w for w in broken.workers(name) if w["state"] == "ready"]) == 2
        signal_to(pid, signal.SIGKILL)
        wait_for(lambda: broken.service_pid("control") not in (0, pid), 10, "control's successor")
        wait_for(broken.answers, 20, "the API")
    assert len(steady.failed) <= 2, steady.failed  # what the killed worker held
    broken.delete(name)
    broken.delete(sleeper)


def test_c7_kill_9_of_everything_returns_without_hands(start_clary: Callable[..., Clary], forest: object) -> None:
    one = start_clary()
    uri = one.upload(dict(forest.files))  # type: ignore[attr-defined]
    name = one.endpoint(one.config(instance(one.model(uri, "clary/sklearn"))))
    # The supervisor alone: every other process hears of it by its lifeline, whatever it is doing.
    signal_to(one.supervisor(op="list")["pid"], signal.SIGKILL)
    wait_for(lambda: not leftovers(one.data), 5, "every process to hear of it")
    one.up()
    wait_for(lambda: any(w["state"] == "ready" for w in one.workers(name)), 30, "workers")
    for _ in range(3):
        facts = one.supervisor(op="list")
        for pid in [facts["pid"], *(s["pid"] for s in facts["services"]), *(w["pid"] for w in facts["workers"])]:
            if pid:  # what is only now being started has none yet, and hears of the others' end
                signal_to(pid, signal.SIGKILL)
        wait_for(lambda: not leftovers(one.data), 5, "every process to hear of it")
        one.up()
        assert one.settled(name)["EndpointStatus"] == "InService"
        wait_for(lambda: any(w["state"] == "ready" for w in one.workers(name)), 30, "workers")
        assert one.invoke(name, "5.1,3.5,1.4,0.2").strip() == b"0"
    one.delete(name)


BROKEN = {
    "import error": ({"code/inference.py": "import surely_absent_module"}, "surely_absent_module"),
    "exit": ({"code/inference.py": "def model_fn(d):\n    raise SystemExit(3)"}, "exit(3)"),
    "exception": ({"code/inference.py": "def model_fn(d):\n    raise RuntimeError('too cold')"}, "too cold"),
    "hard exit": ({"code/inference.py": "import os\nprint('last words')\nos._exit(9)"}, "last words"),
    "no model": ({"readme.md": "nothing"}, "readme.md"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_w3_a_model_that_cannot_start_ends_failed_with_its_reason(broken: Clary, case: str) -> None:
    files, why = BROKEN[case]
    started_s = time.monotonic()
    name = broken.endpoint(broken.config(instance(broken.model(broken.upload(files), "clary/sklearn"))), wait=False)
    state = broken.settled(name, 60)
    assert state["EndpointStatus"] == "Failed", state
    assert why in state["FailureReason"]
    assert "did not pass the ping health check" in state["FailureReason"]
    assert len(state["FailureReason"]) <= 1024
    assert time.monotonic() - started_s < 30
    broken.delete(name)


def test_a_bad_archive_ends_failed_and_an_update_to_it_keeps_serving(broken: Clary, echo_uri: str) -> None:
    bucket = echo_uri.split("/")[2]
    broken.client("s3").put_object(Bucket=bucket, Key="bad.tar.gz", Body=b"this is no archive")
    bad = broken.config(instance(broken.model(f"s3://{bucket}/bad.tar.gz", "clary/sklearn")))
    name = broken.endpoint(bad, wait=False)
    assert "unpack" in broken.settled(name)["FailureReason"]
    broken.delete(name)
    good = two_workers(broken, echo_uri)
    with load(broken, good, 1) as steady:
        broken.client("sagemaker").update_endpoint(EndpointName=good, EndpointConfigName=bad)
        state = broken.settled(good)
    assert state["EndpointStatus"] == "InService"
    assert "unpack" in state["FailureReason"]
    assert steady.failed == []
    broken.delete(good)
