"""`clary demo`: the main job on real data, from training to the bill, on a clary of its own that is gone afterwards."""

from __future__ import annotations

import io
import socket
import statistics
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from clary.cli import daemon
from clary.cli.costs import costs, quantity, usd
from clary.cli.environment import ROLE, admin_key
from clary.cli.local import Local, wait_until
from clary.cli.output import JsonOption, console, errors, fail, print_json, print_table
from clary.settings import default_data_dir, load

WARM_REQUESTS = 200
COLD_STARTS = 5
KEEP_ALIVE_S = 0.5


@dataclass(slots=True)
class Trained:
    """A fitted model, its artifact, and rows it has never seen."""

    title: str
    image: str
    archive: bytes
    rows: list[list[float]]
    labels: list[int]
    local_accuracy: float


@dataclass(slots=True)
class Told:
    """What the demo found out about one endpoint."""

    model: str
    mode: str
    accuracy: float = 0.0
    local_accuracy: float = 0.0
    in_service_s: float = 0.0
    warm_p50_ms: float = 0.0
    warm_p99_ms: float = 0.0
    cold_start_ms: list[float] = field(default_factory=list)


def demo(
    data: Annotated[Path | None, typer.Option(help="Data folder of the demo's own clary.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Train two real models, deploy one real-time and one serverless, ask them, and read the bill."""
    try:
        import boto3
        import joblib
        import sklearn
        import xgboost
    except ModuleNotFoundError as error:
        fail(f"the demo trains real models and needs {error.name}: pip install 'clary[demo]'")
    folder = data.absolute() if data is not None else default_data_dir() / "demo"
    versions = f"scikit-learn {sklearn.__version__}, xgboost {xgboost.__version__}"
    with _step(f"training on scikit-learn's breast cancer set ({versions})", as_json):
        trained = _train(joblib, sklearn, xgboost)
    with _running(folder, as_json) as local:
        clients = _clients(boto3, local)
        prefix = f"demo-{uuid.uuid4().hex[:6]}"
        told = []
        for model, mode in zip(trained, ("real-time", "serverless"), strict=True):
            told.append(_story(clients, local, model, mode, f"{prefix}-{mode}", as_json))
        bill = _bill(local, prefix)
        with _step("deleting both endpoints", as_json):
            for mode in ("real-time", "serverless"):
                clients["sagemaker"].delete_endpoint(EndpointName=f"{prefix}-{mode}")
            gone = wait_until(lambda: not local.supervisor("list")["workers"], 40, 0.05)
            if not gone:
                fail(f"workers were left running; see {local.layout.logs}")
    _show(told, bill, as_json)


@contextmanager
def _step(text: str, quiet: bool) -> Iterator[None]:
    started_s = time.monotonic()
    if quiet:
        yield
        return
    with errors().status(f"{text} ..."):
        yield
    errors().print(f"[green]✓[/green] {text} [dim]{time.monotonic() - started_s:.1f} s[/dim]", highlight=False)


def _train(joblib: Any, sklearn: Any, xgboost: Any) -> list[Trained]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    rows, labels = load_breast_cancer(return_X_y=True)
    seen, held, seen_labels, held_labels = train_test_split(rows, labels, test_size=0.3, random_state=7)
    forest = RandomForestClassifier(100, random_state=7, n_jobs=1).fit(seen, seen_labels)
    file = io.BytesIO()
    joblib.dump(forest, file)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": 7},
        xgboost.DMatrix(seen, seen_labels),
        num_boost_round=60,
    )
    guesses = booster.predict(xgboost.DMatrix(held)) > 0.5
    common = (held.tolist(), held_labels.tolist())
    return [
        Trained(
            "XGBoost, 60 trees",
            f"clary/xgboost:{xgboost.__version__}",
            _archive("xgboost-model", bytes(booster.save_raw("ubj"))),
            *common,
            float((guesses == held_labels).mean()),
        ),
        Trained(
            "random forest, 100 trees",
            f"clary/sklearn:{sklearn.__version__}",
            _archive("model.joblib", file.getvalue()),
            *common,
            float(forest.score(held, held_labels)),
        ),
    ]


def _archive(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@contextmanager
def _running(folder: Path, quiet: bool) -> Iterator[Local]:
    local = Local(folder)
    if local.supervisor_pid():
        fail(f"a demo runs on {folder} already; `clary down --data {folder}` stops it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = load(folder, {"port": port})
    with _step("starting clary", quiet):
        process = daemon.start(local, settings)
        if not wait_until(lambda: process.poll() is not None or local.answers(settings), 30) or process.poll():
            fail(f"clary did not start; see {local.layout.logs}")
    try:
        yield local
    finally:
        with _step("stopping clary", quiet):
            if pid := local.supervisor_pid():
                daemon.stop(local, pid)
            process.wait(10)


def _clients(boto3: Any, local: Local) -> dict[str, Any]:
    key = admin_key(local)
    options = {
        "endpoint_url": local.url(),
        "region_name": "us-east-1",
        "aws_access_key_id": key.access_key_id,
        "aws_secret_access_key": key.secret,
    }
    return {name: boto3.client(name, **options) for name in ("s3", "sagemaker", "sagemaker-runtime")}


def _story(clients: dict[str, Any], local: Local, model: Trained, mode: str, name: str, quiet: bool) -> Told:
    """Upload, model, configuration, endpoint, waiter, invocations: what any SageMaker script does."""
    told = Told(model.title, mode, local_accuracy=model.local_accuracy)
    bucket, key = "demo-models", f"{name}/model.tar.gz"
    clients["s3"].create_bucket(Bucket=bucket)
    clients["s3"].put_object(Bucket=bucket, Key=key, Body=model.archive)
    sagemaker = clients["sagemaker"]
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=f"arn:aws:iam::123456789012:role/{ROLE}",
        PrimaryContainer={"Image": model.image, "ModelDataUrl": f"s3://{bucket}/{key}"},
    )
    variant: dict[str, Any] = {"VariantName": "AllTraffic", "ModelName": name}
    if mode == "serverless":
        variant["ServerlessConfig"] = {"MemorySizeInMB": 2048, "MaxConcurrency": 5}
    else:
        variant |= {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    with _step(f"{mode}: {model.title} to InService (environments are built the first time)", quiet):
        started_s = time.monotonic()
        sagemaker.create_endpoint(
            EndpointName=name,
            EndpointConfigName=name,
            Tags=[{"Key": "clary:keep-alive-s", "Value": str(KEEP_ALIVE_S)}],
        )
        waiter = sagemaker.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 600})
        told.in_service_s = time.monotonic() - started_s
    with _step(f"{mode}: asking with {len(model.rows)} held-out rows", quiet):
        told.accuracy = _accuracy(clients, name, model)
        took_ms = sorted(_ask_ms(clients, name, model.rows[i % len(model.rows)]) for i in range(WARM_REQUESTS))
        told.warm_p50_ms, told.warm_p99_ms = statistics.median(took_ms), took_ms[int(0.99 * WARM_REQUESTS)]
    if mode == "serverless":
        with _step(f"{mode}: {COLD_STARTS} times to zero and back", quiet):
            for _ in range(COLD_STARTS):
                if not wait_until(lambda: not _workers(local, name), 20):
                    fail(f"{name} did not go to zero in 20 s")
                told.cold_start_ms.append(_ask_ms(clients, name, model.rows[0]))
    return told


def _workers(local: Local, name: str) -> list[Any]:
    return [w for w in local.supervisor("list")["workers"] if w["fleet"].split("/")[1] == name]


def _csv(rows: list[list[float]]) -> str:
    return "\n".join(",".join(map(repr, row)) for row in rows)


def _accuracy(clients: dict[str, Any], name: str, model: Trained) -> float:
    answer = clients["sagemaker-runtime"].invoke_endpoint(
        EndpointName=name, ContentType="text/csv", Body=_csv(model.rows)
    )
    found = [float(word) > 0.5 for word in answer["Body"].read().decode().replace(",", "\n").split()]
    return sum(guess == bool(label) for guess, label in zip(found, model.labels, strict=True)) / len(model.labels)


def _ask_ms(clients: dict[str, Any], name: str, row: list[float]) -> float:
    started_s = time.perf_counter()
    clients["sagemaker-runtime"].invoke_endpoint(EndpointName=name, ContentType="text/csv", Body=_csv([row]))[
        "Body"
    ].read()
    return (time.perf_counter() - started_s) * 1000


def _bill(local: Local, prefix: str) -> dict[str, Any]:
    """The ledger of this run's endpoints, checked against the raw usage."""
    told = costs(local)
    told["sums"] = [one for one in told["sums"] if one["endpoint"].startswith(prefix)]
    if not local.control("verify")["exact"]:
        fail("the ledger does not agree with the raw usage; `clary cost --verify` tells where")
    return told


def _show(told: list[Told], bill: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json({"endpoints": [{f: getattr(t, f) for f in t.__slots__} for t in told], "bill": bill})
        return
    for one in told:
        if abs(one.accuracy - one.local_accuracy) > 1e-9:
            fail(f"{one.model}: the endpoint scored {one.accuracy}, the model itself {one.local_accuracy}")
    print_table(
        "",
        ("MODEL", "MODE", "ACCURACY", "IN SERVICE", "WARM p50", "WARM p99", "COLD START (worst)"),
        [
            (
                one.model,
                one.mode,
                f"{one.accuracy:.3f} (the library's own)",
                f"{one.in_service_s:.2f} s",
                f"{one.warm_p50_ms:.2f} ms",
                f"{one.warm_p99_ms:.2f} ms",
                f"{statistics.median(one.cold_start_ms):.0f} ms ({max(one.cold_start_ms):.0f})"
                if one.cold_start_ms
                else "-",
            )
            for one in told
        ],
    )
    print_table(
        "",
        ("BILL SO FAR", "KIND", "QUANTITY", "COST"),
        [
            (
                one["endpoint"],
                one["instance_type"] or one["meter"],
                quantity(one["meter"], one["quantity"]),
                usd(one["nanousd"]),
            )
            for one in bill["sums"]
        ],
    )
    console().print(f"[dim]{bill['prices']}; ledger and raw usage agree to the nano-USD[/dim]", highlight=False)
    console().print("nothing is left running")
