"""Thousands of models behind one endpoint: the first call of each, warm calls, what a resident one takes, and traffic
that asks for five times what memory holds.

Two endpoints of one worker each. The first holds all small models (logistic regressions) of which it is asked; the
second has models with ballast, together five times its worker's memory, asked for by Zipf's law. Nothing is pinned.
"""

from __future__ import annotations

import bisect
import io
import itertools
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import artifacts
import load
import machine
import stand
from peers import many
from report import Table, verdict
from scale import Scale

TARGET_PER_GIB = 300.0
TARGET_WARM_P99_MS = 10.0
TARGET_FIRST_P99_MS = 60.0
WARM_CONNECTIONS = 8
CALLERS = 4
ZIPF = 0.9  # the n-th most popular model gets a share of n ** -ZIPF
OVERCOMMIT = 5.0
BALLAST_MIB = 24
INSTANCE = "ml.c5.large"  # 4 GiB
METRICS_LATE_S = 3.0


@dataclass(frozen=True, slots=True)
class Calls:
    """Latencies of one kind of call, ascending, and what was no 200."""

    what: str
    times_ms: list[float]
    failed: int = 0
    first_error: str = ""

    def row(self) -> tuple[str, ...]:
        cells = [self.what, f"{len(self.times_ms):,}"]
        cells += [f"{load.quantile(self.times_ms, share):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        return (*cells, str(self.failed))


@dataclass(slots=True)
class Prefix:
    """An endpoint over a prefix of models."""

    one: stand.Stand
    endpoint: str
    targets: list[str]
    artifact: artifacts.Artifact

    def request(self, target: str) -> bytes:
        headers = {"Content-Type": self.artifact.content_type, "X-Amzn-SageMaker-Target-Model": target}
        host = f"127.0.0.1:{self.one.port}"
        return load.post(f"/endpoints/{self.endpoint}/invocations", self.artifact.body, host, headers)

    def workers(self) -> list[dict[str, Any]]:
        return self.one.workers(self.endpoint)

    def held(self) -> int:
        """Models in memory, as the proxy counts them."""
        fleets = self.one.proxy("facts")["fleets"]
        mine = [fleet["models"] for name, fleet in fleets.items() if name.split("/")[1] == self.endpoint]
        return sum(sum(one.values()) for one in mine)

    def call_all(self, what: str, targets: Sequence[str], callers: int) -> Calls:
        """Each target once, in this order, by so many callers at once."""
        return _calls(what, [self.request(target) for target in targets], self.one.port, callers)


def table(scale: Scale) -> Table:
    """Both endpoints."""
    with stand.running("--no-auth") as one:
        rows, facts = _resident(one, scale)
        zipf_rows, zipf_facts = _overcommitted(one, scale)
    rows += zipf_rows
    notes = [
        f"Resident small models: {verdict(facts['per_gib'], TARGET_PER_GIB, False, 'a GiB')} "
        f"({facts['held']:,.0f} held; the worker grew by {facts['grown_mib']:,.0f} MiB).",
        f"Warm calls: p99 {verdict(facts['warm_p99_ms'], TARGET_WARM_P99_MS, True, 'ms')}.",
        f"First calls of models that are not loaded, one after the other: p99 "
        f"{verdict(facts['first_p99_ms'], TARGET_FIRST_P99_MS, True, 'ms')}.",
        f"Overcommitted {OVERCOMMIT:g} times: {verdict(zipf_facts['deaths'], 0, True, 'workers that died')}; "
        f"{100 * zipf_facts['hits']:.0f} % of the calls found their model loaded.",
        f"{scale.models:,} small models (logistic regressions of 30 columns) are registered; callers open "
        f"a connection a call. Zipf: {zipf_facts['models']:.0f} models of {BALLAST_MIB} MiB each by n ** -{ZIPF}, "
        f"{CALLERS} callers, one worker with 4 GiB.",
    ]
    return Table(
        name="multimodel",
        title="Multi-model endpoints",
        headers=("calls", "count", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed"),
        rows=[row.row() for row in rows],
        notes=notes,
        raw={"calls": [asdict(row) for row in rows], "resident": facts, "zipf": zipf_facts},
    )


def _resident(one: stand.Stand, scale: Scale) -> tuple[list[Calls], dict[str, float]]:
    """Every model is called once, then some again and again."""
    artifact = artifacts.sklearn_model("logistic")
    machine.say(f"multimodel: registering {scale.models} models")
    found = _deployed(one, artifact, [(f"t{n % 100}/m{n}.tar.gz", _variation(n)) for n in range(scale.models)], {})
    one.ask_ok(found.request(found.targets[0]))
    (worker,) = found.workers()
    before_mib = machine.pss_mib([worker["pid"]])
    machine.say("multimodel: first calls, one after the other")
    alone = max(20, scale.models // 4)
    first = found.call_all("first, one after the other", found.targets[1:alone], 1)
    machine.say("multimodel: first calls, several at once")
    rest = found.call_all(f"first, {CALLERS} at once", found.targets[alone:], CALLERS)
    grown_mib = machine.pss_mib([worker["pid"]]) - before_mib
    held = found.held()
    machine.say(f"multimodel: warm calls of {held} models")
    some = random.Random(7).sample(found.targets, min(len(found.targets), 2000))
    warm_new = found.call_all("warm, a connection a call", some, 1)
    busy = [
        load.measure(
            load.Order(
                f"tcp:127.0.0.1:{one.port}",
                [found.request(target) for target in some[:WARM_CONNECTIONS]],
                WARM_CONNECTIONS,
                scale.seconds,
                period_s=0.02,
            )
        )
        for _ in range(scale.rounds)
    ]
    worst = max(busy, key=lambda outcome: outcome.p99_ms)
    machine.say(
        f"multimodel: warm p99 {worst.p99_ms:.1f} ms of {WARM_CONNECTIONS} connections with a call every 20 ms each"
    )
    one.delete(found.endpoint)
    return [first, rest, warm_new], {
        "held": float(held),
        "grown_mib": grown_mib,
        "per_gib": (held - 1) / max(grown_mib, 0.1) * 1024,
        "first_p99_ms": load.quantile(first.times_ms, 0.99),
        "warm_p99_ms": max(worst.p99_ms, load.quantile(warm_new.times_ms, 0.99)),
    }


def beside(scale: Scale) -> Table:
    """clary and servers that load models while they run, each pair with the same number of models."""
    counts = {"mlserver": scale.models // 100, "mms": max(5, scale.models // 200)}
    held = []
    for name, count in counts.items():
        with stand.running("--no-auth") as one:
            machine.say(f"multimodel: clary, {count} models")
            held.append(_held_by_clary(one, count))
        held.append(many.measure(name, count))
    return Table(
        name="multimodel_peers",
        title="Multi-model endpoints beside servers that load models while they run",
        headers=many.HEADERS,
        rows=[one.row() for one in held],
        notes=[
            "The logistic regression of 30 columns in variations. A first call is that of a model that is not loaded, "
            "one after the other: of the peers a call that loads and one that predicts, of clary the one invocation.",
            f"Warm calls: {many.CALLERS} callers, a connection a call, models at random. Memory: growth of the PSS of "
            "all processes of the server (clary's worker) from the first model to the last, over their number.",
            "Few models, because multi-model-server starts a Python process for each, and MLServer reads the settings "
            "of all its models with each load. Where so few fit into memory that the process held anyway, its models a "
            "GiB say little; the table of 10,000 does. Nothing is pinned.",
        ],
        raw=[asdict(one) for one in held],
    )


def _held_by_clary(one: stand.Stand, count: int) -> many.Held:
    """What `many.measure` tells of a peer."""
    artifact = artifacts.sklearn_model("logistic")
    files = [(f"{number}.tar.gz", _variation(number)) for number in range(count)]
    found = _deployed(one, artifact, files, {})

    def ask(target: str) -> float:
        return one.ask_ok(found.request(target))

    ask(found.targets[0])
    workers = [worker["pid"] for worker in found.workers()]
    before_mib = machine.pss_mib(workers)
    firsts = sorted(ask(target) for target in found.targets[1:])
    grown_mib = machine.pss_mib(workers) - before_mib
    warm = many.warm_calls(found.targets, ask)
    return many.Held("clary", count - 1, firsts, warm, grown_mib, len(workers))


def _overcommitted(one: stand.Stand, scale: Scale) -> tuple[list[Calls], dict[str, float]]:
    """Models of five times the memory, by Zipf's law."""
    import joblib
    import numpy
    from sklearn.linear_model import LinearRegression

    count = int(OVERCOMMIT * 4096 / BALLAST_MIB)
    model = LinearRegression().fit(numpy.zeros((2, 30)), numpy.array([0.0, 1.0]))
    model.ballast_ = numpy.ones(BALLAST_MIB << 17)
    file = io.BytesIO()
    joblib.dump(model, file, compress=("zlib", 1))
    files = [(f"{number}.tar.gz", file.getvalue()) for number in range(count)]
    machine.say(f"multimodel: registering {count} models of {BALLAST_MIB} MiB")
    artifact = artifacts.sklearn_model("logistic")
    found = _deployed(one, artifact, files, {})
    pids = {worker["pid"] for worker in found.workers()}
    shares = list(itertools.accumulate((rank + 1) ** -ZIPF for rank in range(count)))
    chance = random.Random(11)
    asked = [found.targets[bisect.bisect_left(shares, chance.random() * shares[-1])] for _ in range(scale.zipf_calls)]
    calls = found.call_all(f"Zipf, {OVERCOMMIT:g} times the memory, {CALLERS} callers", asked, CALLERS)
    deaths = len(pids - {worker["pid"] for worker in found.workers()})
    hits = _hits(one, found.endpoint)
    one.delete(found.endpoint)
    return [calls], {"models": float(count), "deaths": float(deaths), "hits": hits}


def _hits(one: stand.Stand, endpoint: str) -> float:
    """The share of the endpoint's calls whose model was loaded, by CloudWatch."""
    time.sleep(METRICS_LATE_S)
    now_s = time.time()
    told = one.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="ModelCacheHit",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "AllTraffic"}],
        StartTime=now_s - 7200,
        EndTime=now_s + 60,
        Period=86400,
        Statistics=["Sum", "SampleCount"],
    )["Datapoints"]
    return sum(point["Sum"] for point in told) / max(1.0, sum(point["SampleCount"] for point in told))


def _variation(number: int) -> bytes:
    """A logistic regression that answers like no other."""
    import joblib

    model = joblib.load(io.BytesIO(artifacts.sklearn_model("logistic").files["model.joblib"]))
    model.intercept_ = model.intercept_ + number / 1000
    file = io.BytesIO()
    joblib.dump(model, file)
    return file.getvalue()


def _deployed(
    one: stand.Stand,
    artifact: artifacts.Artifact,
    files: Sequence[tuple[str, bytes]],
    environment: Mapping[str, str],
) -> Prefix:
    """Puts each file as an archive below a prefix of its own; an endpoint over it that serves."""
    name = f"many-{uuid.uuid4().hex[:10]}"
    s3 = one.client("s3")
    s3.create_bucket(Bucket=stand.BUCKET)

    def put(entry: tuple[str, bytes]) -> None:
        archive = replace(artifact, files={"model.joblib": entry[1]}).archive()
        s3.put_object(Bucket=stand.BUCKET, Key=f"{name}/{entry[0]}", Body=archive)

    with ThreadPoolExecutor(CALLERS) as threads:
        list(threads.map(put, files))
    one.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=stand.ROLE,
        PrimaryContainer={
            "Image": artifact.image,
            "Mode": "MultiModel",
            "ModelDataUrl": f"s3://{stand.BUCKET}/{name}/",
            "Environment": {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", **environment},
        },
    )
    one.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": INSTANCE, "InitialInstanceCount": 1}
        ],
    )
    return Prefix(one, one.endpoint(name), [target for target, _ in files], artifact)


def _calls(what: str, requests: Sequence[bytes], port: int, callers: int) -> Calls:
    def ask(request: bytes) -> tuple[float, int, bytes]:
        return load.ask(port, request)

    with ThreadPoolExecutor(callers) as threads:
        answers = list(threads.map(ask, requests))
    bad = [answer for answer in answers if answer[1] != 200]
    first = repr(bad[0][2][-300:]) if bad else ""
    return Calls(what, sorted(took_ms for took_ms, status, _ in answers if status == 200), len(bad), first)
