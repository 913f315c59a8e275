"""`clary deploy`, `clary invoke`, `clary park`: a model on the network in one line, asked in one, silenced in one."""

from __future__ import annotations

import io
import re
import sys
import tarfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from clary.cli.client import Clients, explain
from clary.cli.environment import ROLE
from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, errors, fail, print_json

IMAGES = {
    (".joblib", ".pkl", ".pickle", ".skops"): "clary/sklearn",
    (".json", ".ubj", ".xgb", ".model", ".bin"): "clary/xgboost",
    (".txt", ".lgb"): "clary/lightgbm",
    (".onnx",): "clary/onnxruntime",
    (".pt", ".pth", ".ts"): "clary/pytorch",
}
WAIT_LIMIT_S = 3600.0

RegionOption = Annotated[str | None, typer.Option("--region", help="Region of the endpoint.", show_default="us-east-1")]


def deploy(
    model: Annotated[str, typer.Argument(help="A model file, a model.tar.gz, or its s3:// URI.")],
    name: Annotated[str | None, typer.Option(help="The endpoint's name.", show_default="from the file")] = None,
    image: Annotated[str | None, typer.Option(help="The image.", show_default="from the file's suffix")] = None,
    serverless: Annotated[bool, typer.Option("--serverless", help="Nothing runs while nobody asks.")] = False,
    memory: Annotated[int, typer.Option(help="Serverless: MemorySizeInMB.")] = 2048,
    concurrency: Annotated[int, typer.Option(help="Serverless: MaxConcurrency.")] = 5,
    instance_type: Annotated[str, typer.Option(help="Instance type that is billed.")] = "ml.m5.large",
    region: RegionOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deploy a model: upload it, create model, configuration and endpoint (or update it), wait until it serves."""
    clients = Clients(Local(data_dir(data)), region)
    chosen = image or _image_for(model)
    endpoint = name or _name_for(model)
    try:
        uri = model if model.startswith("s3://") else _upload(clients, Path(model), endpoint)
        started_s = time.monotonic()
        told = _deploy(clients, endpoint, chosen, uri, _variant(serverless, memory, concurrency, instance_type))
        state = _wait(clients, endpoint, quiet=as_json)
    except (ClientError, BotoCoreError) as error:
        explain(error)
    told |= {"EndpointStatus": state["EndpointStatus"], "seconds": round(time.monotonic() - started_s, 2)}
    if state["EndpointStatus"] != "InService" or state.get("FailureReason"):
        fail(f"{endpoint} is {state['EndpointStatus']}: {state.get('FailureReason', 'no reason given')}")
    if as_json:
        print_json(told)
        return
    console().print(f"[bold]{endpoint}[/bold] is InService after {told['seconds']} s; ask it with", highlight=False)
    console().print(f"  clary invoke {endpoint} --body '...' --content-type text/csv", highlight=False)


def _image_for(model: str) -> str:
    for suffixes, image in IMAGES.items():
        if model.lower().endswith(suffixes):
            return image
    return fail(f"cannot tell the framework from {model!r}; name it with --image, e.g. --image clary/sklearn", 2)


def _name_for(model: str) -> str:
    stem = re.sub(r"\.tar\.gz$|\.\w+$", "", model.rstrip("/").rpartition("/")[2])
    return re.sub(r"[^a-zA-Z0-9]+", "-", stem).strip("-")[:63] or "model"


def _variant(serverless: bool, memory: int, concurrency: int, instance_type: str) -> dict[str, Any]:
    if serverless:
        return {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}}
    return {"InstanceType": instance_type, "InitialInstanceCount": 1}


def _upload(clients: Clients, path: Path, endpoint: str) -> str:
    if not path.is_file():
        fail(f"{path} is not a file", 2)
    bucket = f"sagemaker-{clients.region}-{clients.account}"
    place = {"CreateBucketConfiguration": {"LocationConstraint": clients.region}}
    try:
        clients("s3").head_bucket(Bucket=bucket)
    except ClientError:
        clients("s3").create_bucket(Bucket=bucket, **({} if clients.region == "us-east-1" else place))
    key = f"clary-deploy/{endpoint}/{int(time.time())}/model.tar.gz"
    if path.name.endswith((".tar.gz", ".tgz")):
        with path.open("rb") as file:
            clients("s3").put_object(Bucket=bucket, Key=key, Body=file)
    else:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(path, arcname=path.name)
        clients("s3").put_object(Bucket=bucket, Key=key, Body=packed.getvalue())
    return f"s3://{bucket}/{key}"


def _deploy(clients: Clients, endpoint: str, image: str, uri: str, variant: dict[str, Any]) -> dict[str, Any]:
    sagemaker = clients("sagemaker")
    version = f"{endpoint[:48]}-{int(time.time())}"
    sagemaker.create_model(
        ModelName=version,
        ExecutionRoleArn=f"arn:aws:iam::{clients.account}:role/{ROLE}",
        PrimaryContainer={"Image": image, "ModelDataUrl": uri},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=version,
        ProductionVariants=[{"VariantName": "AllTraffic", "ModelName": version, **variant}],
    )
    try:
        sagemaker.describe_endpoint(EndpointName=endpoint)
        answer = sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=version)
    except ClientError as error:
        if not str(error).rpartition(": ")[2].startswith("Could not find endpoint"):
            raise
        answer = sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=version)
    return {"EndpointName": endpoint, "EndpointArn": answer["EndpointArn"], "ModelName": version, "ModelDataUrl": uri}


def _wait(clients: Clients, endpoint: str, quiet: bool) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_LIMIT_S
    with errors().status(f"{endpoint}: starting ...") if not quiet else _Silence() as shown:
        while True:
            state: dict[str, Any] = clients("sagemaker").describe_endpoint(EndpointName=endpoint)
            if state["EndpointStatus"] not in ("Creating", "Updating") or time.monotonic() > deadline:
                return state
            shown.update(f"{endpoint}: {state['EndpointStatus']} ...")
            time.sleep(0.25)


class _Silence:
    """A progress display that shows nothing."""

    def __enter__(self) -> _Silence:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, _text: str) -> None:
        return None


def invoke(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    body: Annotated[str | None, typer.Option(help="The request; @FILE reads a file, - standard input.")] = "-",
    content_type: Annotated[str, typer.Option(help="Its content type.")] = "text/csv",
    accept: Annotated[str | None, typer.Option(help="The wanted content type of the answer.")] = None,
    variant: Annotated[str | None, typer.Option(help="TargetVariant.")] = None,
    region: RegionOption = None,
    data: DataOption = None,
) -> None:
    """Send one request to an endpoint and print the answer; the time it took goes to standard error."""
    clients = Clients(Local(data_dir(data)), region)
    options = {"Accept": accept, "TargetVariant": variant}
    payload = _payload(body or "-")
    try:
        started_s = time.monotonic()
        answer = clients("sagemaker-runtime").invoke_endpoint(
            EndpointName=endpoint,
            ContentType=content_type,
            Body=payload,
            **{name: value for name, value in options.items() if value},
        )
        found = answer["Body"].read()
    except (ClientError, BotoCoreError) as error:
        explain(error)
    elapsed_ms = (time.monotonic() - started_s) * 1000
    sys.stdout.buffer.write(found)
    if found and not found.endswith(b"\n") and sys.stdout.isatty():
        sys.stdout.write("\n")
    errors().print(
        f"[dim]{answer['ContentType']} from {answer.get('InvokedProductionVariant')} in {elapsed_ms:.1f} ms[/dim]",
        highlight=False,
    )


def _payload(body: str) -> bytes:
    if body == "-":
        return sys.stdin.buffer.read()
    if body.startswith("@"):
        try:
            return Path(body[1:]).read_bytes()
        except OSError as error:
            fail(f"{body[1:]}: {error.strerror}", 2)
    return body.encode()


def park(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    region: RegionOption = None,
    data: DataOption = None,
) -> None:
    """Let an endpoint's workers go, each when it is idle; the next request wakes it. Real time needs a tag."""
    local = Local(data_dir(data))
    chosen = region or local.settings().region
    fleets = local.proxy("facts")["fleets"]
    if not any(one["endpoint"] == endpoint and fleet.startswith(f"{chosen}/") for fleet, one in fleets.items()):
        fail(f"no endpoint {endpoint} is routed to in {chosen}; `clary status` lists them")
    stopped = local.proxy("park", region=chosen, endpoint=endpoint)["stopped"]
    if stopped:
        console().print(f"{endpoint}: {stopped} idle worker(s) are leaving")
    else:
        console().print(
            f"{endpoint}: nobody is idle. Workers that serve a request leave after it; a real-time endpoint sleeps "
            "only with the tag clary:scale-to-zero=true",
            highlight=False,
        )
