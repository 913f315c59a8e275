"""An asynchronous endpoint that sleeps while its queue is empty: how soon the first item starts, how soon nothing is
left after the last one, and how many small items a second are accepted and worked off.

The model's script writes the times at which it was asked and answered into its answer, on the wall clock that
the client reads as well. A wake is timed from before the call of InvokeEndpointAsync, so it contains accepting it.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import artifacts
import load
import machine
import stand
from artifacts import Artifact
from report import Table, verdict
from scale import Scale

START_TARGET_S = 1.0
KEEP_ALIVE_S = 2.0  # the policy of the endpoint that wakes and sleeps: the tag clary:keep-alive-s
TICK_S = (
    1.0  # what the policy may be late by: the proxy looks for idle workers once a second, and ending one takes time
)
ASLEEP_S = 0.25  # between the end of the last process and the next wake
CLIENTS = 8
LIMIT_S = 60.0
WORKED_OFF_LIMIT_S = 300.0
OUTPUTS = "bench-async"
SCRIPT = """
import json
import os
import time

import joblib
import numpy

def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))

def transform_fn(model, body, content_type, accept):
    started_at = time.time()
    rows = numpy.array(json.loads(body)["instances"])
    found = model.predict(rows).tolist()
    return json.dumps({"predictions": found, "started_at": started_at, "ended_at": time.time()}), "application/json"
"""


@dataclass(frozen=True, slots=True)
class Wake:
    """Seconds from before the call: to its 202, to the item's start, to its visible output; and from the item's end
    until no worker was left."""

    accepted_s: float
    started_s: float
    visible_s: float
    gone_s: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second: accepted while clients sent, completed from the first call to the last output."""

    requests: int
    accepted_per_s: float
    completed_per_s: float


def table(scale: Scale) -> Table:
    """Wakes of one endpoint, then the rate of another one with an instance that stays."""
    with stand.running("--no-auth") as one:
        one.client("s3").create_bucket(Bucket=OUTPUTS)
        config = _config(one, _timed())
        sleeper = one.endpoint(config, keep_alive_s=f"{KEEP_ALIVE_S:g}")
        one.client("application-autoscaling").register_scalable_target(
            ServiceNamespace="sagemaker",
            ResourceId=f"endpoint/{sleeper}/variant/AllTraffic",
            ScalableDimension="sagemaker:variant:DesiredInstanceCount",
            MinCapacity=0,
            MaxCapacity=1,
        )
        wakes = []
        for number in range(scale.async_wakes):
            if number % 10 == 0:
                machine.say(f"asynchronous: wake {number + 1} of {scale.async_wakes}")
            wakes.append(_wake(one, sleeper))
        one.delete(sleeper)
        machine.say(f"asynchronous: {scale.async_requests} requests by {CLIENTS} clients")
        steady = one.endpoint(config)
        rate = _rate(one, steady, scale.async_requests)
    worst_start_s = max(wake.started_s for wake in wakes)
    worst_gone_s = max(wake.gone_s for wake in wakes)
    return Table(
        name="asynchronous",
        title="Asynchronous inference from zero and back",
        headers=("what", "count", "p50", "p99", "max"),
        rows=[
            _row("202 answered, s after the call", [wake.accepted_s for wake in wakes]),
            _row("no worker ran: item started, s after the call", [wake.started_s for wake in wakes]),
            _row("its output visible, s after the call", [wake.visible_s for wake in wakes]),
            _row("no worker left, s after the item's end", [wake.gone_s for wake in wakes]),
            (f"accepted/s, {CLIENTS} clients", f"{rate.requests:,}", f"{rate.accepted_per_s:,.0f}", "", ""),
            ("completed/s, the last output visible", f"{rate.requests:,}", f"{rate.completed_per_s:,.0f}", "", ""),
        ],
        notes=[
            f"First item of an endpoint at zero: latest start {verdict(worst_start_s, START_TARGET_S, True, 's')}.",
            f"Back to zero by the policy ({KEEP_ALIVE_S:g} s idle, and {TICK_S:g} s for the tick that sees it): "
            f"latest {verdict(worst_gone_s, KEEP_ALIVE_S + TICK_S, True, 's')}; "
            f"earliest {verdict(min(wake.gone_s for wake in wakes), KEEP_ALIVE_S, False, 's')}.",
            "Random forest of 100 trees behind a script; MinCapacity 0, MaxCapacity 1; the environment is built, its "
            "zygote is warm; an output is looked for every 10 ms, and so are workers. Nothing is pinned.",
            "The rate: inline bodies of one row over keep-alive connections, on one instance with one process and "
            "MaxConcurrentInvocationsPerInstance 4.",
        ],
        raw={"wakes": [asdict(wake) for wake in wakes], "rate": asdict(rate)},
    )


def _row(what: str, seconds: list[float]) -> tuple[str, ...]:
    ascending = sorted(seconds)
    return (what, f"{len(seconds):,}", *(f"{load.quantile(ascending, share):.3f}" for share in (0.5, 0.99, 1.0)))


def _timed() -> Artifact:
    forest = artifacts.sklearn_model("forest")
    files = {**forest.files, "code/inference.py": SCRIPT.encode()}
    return Artifact("timed", "forest, timed", forest.image, files, forest.body, "application/json")


def _config(one: stand.Stand, artifact: Artifact) -> str:
    name = f"c-{uuid.uuid4().hex[:10]}"
    model = one.model(artifact, {"SAGEMAKER_MODEL_SERVER_WORKERS": "1"})
    one.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        ],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": f"s3://{OUTPUTS}/out", "S3FailurePath": f"s3://{OUTPUTS}/bad"},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 4},
        },
    )
    return name


def _wake(one: stand.Stand, endpoint: str) -> Wake:
    machine.wait_until(lambda: not one.workers(endpoint), LIMIT_S, f"{endpoint} to sleep")
    time.sleep(ASLEEP_S)
    called_at = time.time()
    told = one.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint, Body=artifacts.as_json(1), ContentType="application/json", InferenceId=uuid.uuid4().hex
    )
    accepted_at = time.time()
    answer = machine.wait_until(lambda: _outcome(one, told), LIMIT_S, told["OutputLocation"], 0.01)
    visible_at = time.time()
    machine.wait_until(lambda: not one.workers(endpoint), LIMIT_S, f"{endpoint} to sleep again", 0.01)
    gone_at = time.time()
    return Wake(
        accepted_at - called_at,
        answer["started_at"] - called_at,
        visible_at - called_at,
        gone_at - answer["ended_at"],
    )


def _outcome(one: stand.Stand, told: dict[str, Any]) -> dict[str, Any] | None:
    """What the model answered, once it is there. Raises: RuntimeError for a failure."""
    s3 = one.client("s3")
    for member in ("OutputLocation", "FailureLocation"):
        bucket, _, key = told[member].removeprefix("s3://").partition("/")
        try:
            body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            continue
        if member == "FailureLocation":
            raise RuntimeError(f"the item failed: {body[-300:]!r}")
        answer: dict[str, Any] = json.loads(body)
        return answer
    return None


def _rate(one: stand.Stand, endpoint: str, count: int) -> Rate:
    """All requests by all clients, each with a connection of its own that stays open."""
    before = _listed(one, "out/")
    began_s = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        parts = [count // CLIENTS + (number < count % CLIENTS) for number in range(CLIENTS)]
        list(clients.map(lambda part: _send(one.port, endpoint, part), parts))
    accepted_s = time.perf_counter() - began_s

    def worked_off() -> bool:
        if failed := _listed(one, "bad/"):
            raise RuntimeError(f"{failed} of {count} items failed")
        return _listed(one, "out/") - before >= count

    machine.wait_until(worked_off, WORKED_OFF_LIMIT_S, f"{count} outputs", 0.1)
    return Rate(count, count / accepted_s, count / (time.perf_counter() - began_s))


def _send(port: int, endpoint: str, count: int) -> None:
    """So many requests, one after the other. Raises: RuntimeError quoting what was no 202."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        for _ in range(count):
            connection.request(
                "POST",
                f"/endpoints/{endpoint}/async-invocations",
                artifacts.as_json(1),
                {"Content-Type": "application/json", "X-Amzn-SageMaker-Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 202:
                raise RuntimeError(f"status {answer.status}: {body[-300:]!r}")
    finally:
        connection.close()


def _listed(one: stand.Stand, prefix: str) -> int:
    pages = one.client("s3").get_paginator("list_objects_v2").paginate(Bucket=OUTPUTS, Prefix=prefix)
    return sum(int(page["KeyCount"]) for page in pages)
