"""Asynchronous inference under kill -9 (row C5): each accepted id has exactly one output or failure object.

CLARY_TEST_REQUESTS and CLARY_TEST_KILLS make it more than the suite's; CLARY_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import Clary, leftovers, signal_to, wait_for
from test_async import BUCKET, Async

import clary

REQUESTS = int(os.environ.get("CLARY_TEST_REQUESTS", "500"))
KILLS = int(os.environ.get("CLARY_TEST_KILLS", "5"))
SOURCE = Path(clary.__file__).parent / "controllers" / "asynchronous.py"
STEPS = sorted(re.findall(r'failpoint\("([^"]+)"\)', SOURCE.read_text()))


def kill(one: Clary, what: str) -> None:
    """kill -9 of a service, of one worker, or of everything at once."""
    facts = one.supervisor(op="list")
    services = {service["name"]: service["pid"] for service in facts["services"]}
    workers = [worker["pid"] for worker in facts["workers"]]
    victims = {"worker": workers[:1], "everything": [facts["pid"], *services.values(), *workers]}
    for pid in victims.get(what, [services.get(what, 0)]):
        try:
            if pid:
                signal_to(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is just being replaced
    if what == "everything":
        wait_for(lambda: not leftovers(one.data), 10, "every process to hear of it")
        one.up()


class Submitters:
    """Threads that send until they have their share of acknowledgements; an unanswered request is sent anew."""

    def __init__(self, work: Async, endpoint: str, count: int, threads: int = 4) -> None:
        self.accepted: list[str] = []
        self._work, self._endpoint = work, endpoint
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send, args=(count // threads, number)) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, count: int, number: int) -> None:
        client = self._work.clary._client("sagemaker-runtime", "us-east-1")
        for index in range(count):
            while True:
                inference_id = f"{number}-{index}-{uuid.uuid4().hex[:6]}"
                body = f"raise {inference_id}" if index % 10 == 7 else f"echo {inference_id}"
                try:
                    client.invoke_endpoint_async(
                        EndpointName=self._endpoint, Body=body, ContentType="text/plain", InferenceId=inference_id
                    )
                except (ClientError, BotoCoreError):
                    time.sleep(0.05)
                    continue
                with self._lock:
                    self.accepted.append(inference_id)
                break

    def join(self) -> list[str]:
        for thread in self._threads:
            thread.join()
        return self.accepted


def keys(work: Async, prefix: str) -> set[str]:
    pages = work.clary.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {entry["Key"].rpartition("/")[2] for page in pages for entry in page.get("Contents", ())}


def audit(work: Async, accepted: list[str], limit_s: float) -> Counter[str]:
    """Exactly one outcome each, the right one, with the right content."""

    def whole() -> bool:
        found = keys(work, "out/") | keys(work, "bad/")
        return all(f"{one}.out" in found or f"{one}-error.out" in found for one in accepted)

    wait_for(whole, limit_s, f"{len(accepted)} outcomes")
    outputs, failures = keys(work, "out/"), keys(work, "bad/")
    counts: Counter[str] = Counter()
    for one in accepted:
        good, bad = f"{one}.out" in outputs, f"{one}-error.out" in failures
        assert good != bad, f"{one}: output {good}, failure {bad}"
        counts["output" if good else "failure"] += 1
    s3 = work.clary.client("s3")
    for one in random.sample(accepted, min(50, len(accepted))):
        if f"{one}.out" in outputs:
            assert s3.get_object(Bucket=BUCKET, Key=f"out/{one}.out")["Body"].read() == f"echo {one}".encode()
        else:
            assert one in s3.get_object(Bucket=BUCKET, Key=f"bad/{one}-error.out")["Body"].read().decode()
    return counts


@pytest.mark.timeout(200 + 10 * KILLS + REQUESTS // 10)
def test_c5_each_accepted_id_has_one_outcome_whatever_is_killed(
    start_clary: Callable[..., Clary], echo_files: dict[str, str]
) -> None:
    seed = int(os.environ.get("CLARY_TEST_SEED", random.randrange(1 << 32)))
    dice = random.Random(seed)
    print("seed", seed)
    work = Async(start_clary())
    model = work.clary.model(work.clary.upload(dict(echo_files)), "clary/sklearn")
    name = work.clary.endpoint(work.config(model, concurrent=4))
    submitters = Submitters(work, name, REQUESTS)
    kinds = ["worker", "control", "proxy", "worker", "everything"]
    for number in range(KILLS):
        time.sleep(dice.uniform(0.2, 1.0))
        kill(work.clary, kinds[number % len(kinds)])
    accepted = submitters.join()
    wait_for(work.clary.answers, 30, "the API")
    counts = audit(work, accepted, 120 + REQUESTS / 20)
    print(f"accepted={len(accepted)} kills={KILLS} {dict(counts)}")
    assert len(accepted) == REQUESTS // 4 * 4
    # A failure is the model's word, never the price of a kill: no request ended three processes by itself.
    assert counts["failure"] == sum(1 for one in accepted if int(one.split("-")[1]) % 10 == 7)
    work.clary.delete(name)


@pytest.mark.parametrize("step", STEPS)
def test_c5_killed_between_two_steps(
    start_clary: Callable[..., Clary], echo_files: dict[str, str], tmp_path: Path, step: str
) -> None:
    armed = tmp_path / "armed"
    work = Async(start_clary(CLARY_FAILPOINT_FILE=str(armed)))
    model = work.clary.model(work.clary.upload(dict(echo_files)), "clary/sklearn")
    name = work.clary.endpoint(work.config(model))
    temporary = armed.with_suffix(".tmp")
    temporary.write_text(step)
    temporary.rename(armed)
    accepted = []
    for number in range(5):
        try:
            told = work.invoke(name, Body=f"echo {number}", ContentType="text/plain")
        except (ClientError, BotoCoreError):
            break  # control died over an earlier one: this one was not accepted
        accepted.append(told["OutputLocation"])
    wait_for(lambda: not armed.exists(), 20, step)
    wait_for(work.clary.answers, 30, "the API")
    assert accepted
    for number, uri in enumerate(accepted):
        assert work.outcome(uri)[0] == f"echo {number}".encode()
    work.clary.delete(name)
    work.clary.down()
