"""Batch transform under kill -9: only what was missing is made again, nothing partial shows, bytes are the same."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import Clary, Trained, leftovers, signal_to, wait_for
from test_transform import Bench

# Every request takes a moment, so that there is time to be killed in.
SLOW = """
import time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    time.sleep(0.01)
    return (body if isinstance(body, str) else body.decode())[::-1], accept
"""
LINES = 500
BODY = "".join(f"record {n}\n" for n in range(LINES))
EXPECTED = "".join(f"record {n}"[::-1] + "\n" for n in range(LINES)).encode()


@pytest.fixture(scope="module")
def hurt(start_clary: Callable[..., Clary], forest: Trained) -> Bench:
    """A clary of our own, to hurt."""
    bench = Bench(start_clary(), forest)
    bench.slow = bench.clary.model(bench.clary.upload({"code/inference.py": SLOW}), "clary/sklearn")  # type: ignore[attr-defined]
    return bench


def start(bench: Bench, prefix: str) -> str:
    bench.put(f"{prefix}/in", **{"a.txt": BODY, "b.txt": "x\n"})
    return bench.create(
        prefix,
        bench.slow,  # type: ignore[attr-defined]
        BatchStrategy="SingleRecord",
        MaxConcurrentTransforms=2,
        TransformInput={"ContentType": "text/plain"},
    )


def engine_of(clary: Clary) -> int:
    """The pid of the engine that works, 0 while there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"clary.transform" in words and str(clary.data).encode() in words:
            return int(folder.name)
    return 0


def checkpoint(clary: Clary) -> bool:
    return any((clary.data / "transforms").glob("*/part/*.state"))


def went_on(clary: Clary, name: str) -> list[str]:
    events = clary.client("logs").filter_log_events(
        logGroupName="/aws/sagemaker/TransformJobs", logStreamNamePrefix=f"{name}/data-log"
    )
    return [one["message"] for one in events["events"] if "goes on after" in one["message"]]


def test_engine_worker_and_control_may_die(hurt: Bench) -> None:
    clary = hurt.clary
    name = start(hurt, "parts")
    wait_for(lambda: checkpoint(clary), 60, "a checkpoint")
    signal_to(wait_for(lambda: engine_of(clary), 10, "the engine"), signal.SIGKILL)
    signal_to(clary.ready(f"transform-job:{name}")[0]["pid"], signal.SIGKILL)
    pid = clary.service_pid("control")
    signal_to(pid, signal.SIGKILL)
    wait_for(lambda: clary.service_pid("control") not in (0, pid), 10, "control's successor")
    wait_for(clary.answers, 20, "the API")
    assert "a.txt.out" not in hurt.outputs("parts")
    told = hurt.ended(name)
    assert told["TransformJobStatus"] == "Completed", told
    assert hurt.outputs("parts") == {"a.txt.out": EXPECTED, "b.txt.out": b"x\n"}
    wait_for(lambda: went_on(clary, name), 20, "the log to tell that the second engine went on")


def test_a_worker_killed_alone_costs_no_record(hurt: Bench) -> None:
    name = start(hurt, "worker")
    wait_for(lambda: checkpoint(hurt.clary), 60, "a checkpoint")
    signal_to(hurt.clary.ready(f"transform-job:{name}")[0]["pid"], signal.SIGKILL)
    assert hurt.ended(name)["TransformJobStatus"] == "Completed"
    assert hurt.outputs("worker") == {"a.txt.out": EXPECTED, "b.txt.out": b"x\n"}


def test_everything_may_die(hurt: Bench) -> None:
    clary = hurt.clary
    name = start(hurt, "all")
    hurt.s3.put_object(Bucket=hurt.bucket, Key="all/in/a.txt", Body=b"another body since then")
    for _ in range(2):
        wait_for(lambda: checkpoint(clary), 60, "a checkpoint")
        signal_to(clary.supervisor(op="list")["pid"], signal.SIGKILL)
        wait_for(lambda: not leftovers(clary.data), 10, "every process to hear of it")
        clary.up()
    assert hurt.ended(name)["TransformJobStatus"] == "Completed"
    assert hurt.outputs("all") == {"a.txt.out": EXPECTED, "b.txt.out": b"x\n"}


def died(clary: Clary) -> bool:
    """Whether control or an engine has died since the last start."""
    restarts = {s["name"]: s["restarts"] for s in clary.supervisor(op="list")["services"]}
    log = (clary.data / "logs" / "control.log").read_text()
    return restarts["control"] > 0 or "event=engine_died" in log.rpartition("event=ready")[2]


@pytest.mark.parametrize("point", ["after_finish", "after_publish"])
def test_a_death_between_two_steps_is_survived(hurt: Bench, point: str) -> None:
    clary = hurt.clary
    hurt.put(f"{point}/in", **{"a.txt": "one\ntwo\n", "b.txt": ""})
    clary.down()
    clary.environ["CLARY_FAILPOINT"] = f"transform.{point}"
    clary.up()
    # Control may die while it holds the answer: what was asked for is recorded all the same.
    with contextlib.suppress(ClientError, BotoCoreError):
        hurt.create(point, hurt.slow, TransformInput={"ContentType": "text/plain"})  # type: ignore[attr-defined]
    wait_for(lambda: died(clary), 30, f"a death at {point}")
    clary.down()
    del clary.environ["CLARY_FAILPOINT"]
    clary.up()
    newest = hurt.sagemaker.list_transform_jobs(MaxResults=1)["TransformJobSummaries"][0]
    assert hurt.ended(newest["TransformJobName"])["TransformJobStatus"] == "Completed"
    assert hurt.outputs(point) == {"a.txt.out": b"owt\neno\n", "b.txt.out": b""}
    wait_for(lambda: not list((clary.data / "transforms").iterdir()), 20, "every folder to go")
