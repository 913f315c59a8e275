"""Own images as containers: pushed to clary's registry, named by AWS's URI, served by a real engine."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, instance, signal_to, wait_for
from container_engine import ContainerEngine, entry_point, install, python_layer, start
from registry_client import RegistryClient, layer_of

ACCOUNT = "123456789012"
REPOSITORY = "team/reverser"
SERVER = Path(__file__).parent / "scripts" / "container_server.py"
MULTI_MODEL = {"com.amazonaws.sagemaker.capabilities.multi-models": "true"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    problem = install()
    if problem:
        pytest.skip(f"NO CONTAINER WAS RUN: {problem}")
    try:
        found = start(tmp_path_factory.mktemp("engine"))
    except RuntimeError as error:
        pytest.skip(f"NO CONTAINER WAS RUN: {error}")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def clary(engine: ContainerEngine, start_clary: Callable[..., Clary]) -> Clary:
    return start_clary(CLARY_DOCKER=f"unix://{engine.socket}")


def password(clary: Clary) -> str:
    token = clary.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
    return base64.b64decode(token).decode().partition(":")[2]


@pytest.fixture(scope="module")
def image(clary: Clary) -> str:
    """AWS's name of an image that was pushed; returned by tag, kept by digest in DeployedImages."""
    clary.client("ecr").create_repository(repositoryName=REPOSITORY)
    config = {"Entrypoint": entry_point(), "Labels": MULTI_MODEL, "Env": ["FROM_IMAGE=yes"]}
    layer = python_layer(SERVER.read_text())
    RegistryClient(clary.port, password(clary)).push_image(REPOSITORY, "1.0", [layer], config)
    return f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/{REPOSITORY}:1.0"


def serving(engine: ContainerEngine, endpoint: str) -> list[dict[str, Any]]:
    """The containers of an endpoint that run."""
    return [
        one
        for one in engine.containers()
        if f"/{endpoint}/" in one["Config"]["Labels"].get("clary.fleet", "") and one["State"]["Running"]
    ]


def gone(engine: ContainerEngine, endpoint: str) -> bool:
    return not [one for one in engine.containers() if f"/{endpoint}/" in one["Config"]["Labels"].get("clary.fleet", "")]


def answered(clary: Clary, endpoint: str, body: str) -> bytes | None:
    try:
        return clary.invoke(endpoint, body, "text/plain")
    except clary.client("sagemaker-runtime").exceptions.ClientError:
        return None


def test_an_image_is_pushed_deployed_invoked_and_deleted(clary: Clary, engine: ContainerEngine, image: str) -> None:
    model = clary.model(clary.upload({"weights.bin": b"w"}), image, {"FROM_MODEL": "yes", "FROM_IMAGE": "overridden"})
    name = clary.endpoint(clary.config(instance(model)))
    assert clary.invoke(name, "hello world", "text/plain") == b"dlrow olleh"
    told = clary.client("sagemaker").describe_endpoint(EndpointName=name)
    deployed = told["ProductionVariants"][0]["DeployedImages"][0]
    digest = clary.client("ecr").describe_images(repositoryName=REPOSITORY)["imageDetails"][0]["imageDigest"]
    assert deployed["SpecifiedImage"] == image
    assert deployed["ResolvedImage"] == f"{image.rpartition(':')[0]}@{digest}"

    walls = json.loads(clary.invoke(name, "walls", "text/plain"))
    assert walls["argv"] == ["serve"]
    assert walls["files"] == ["weights.bin"]
    assert walls["uid"] >= 52000, "what is root in the image is the endpoint's own uid here"
    assert int(walls["capabilities"], 16) == 0
    assert walls["no_new_privs"].strip() == "1"
    assert walls["interfaces"] == ["lo"]
    assert walls["writable"] == ["/tmp", "/run"]
    environ = walls["environ"]
    assert (environ["FROM_MODEL"], environ["FROM_IMAGE"]) == ("yes", "overridden")
    assert environ["SAGEMAKER_BIND_TO_PORT"] == "8080"
    assert environ["AWS_REGION"] == "us-east-1"
    limits = serving(engine, name)[0]["HostConfig"]
    assert limits["Memory"] > 0
    assert limits["PidsLimit"] > 0

    rows = json.loads(clary.run("ps", "--json").stdout)
    row = next(row for row in rows if row.get("endpoint") == name)
    assert row["start"] == "container"
    clary.delete(name)
    wait_for(lambda: gone(engine, name), 60, "the container to go")


def test_the_image_goes_by_other_names(clary: Clary, image: str) -> None:
    digest = clary.client("ecr").describe_images(repositoryName=REPOSITORY)["imageDetails"][0]["imageDigest"]
    for name in (f"localhost:{clary.port}/{REPOSITORY}:1.0", f"{image.rpartition(':')[0]}@{digest}", image):
        told = clary.run("image", "explain", name).stdout
        assert "a container" in told
        assert digest in told.replace("\n", "")
    refused = " ".join(clary.run("image", "explain", f"{image.rpartition(':')[0]}:2.0").stdout.split())
    assert f"own registry ({REPOSITORY} in us-east-1 has no 2.0)" in refused
    assert "holds no such image" in refused
    doctor = json.loads(clary.run("doctor", "--json").stdout)
    found = next(check for check in doctor["checks"] if check["what"] == "container engine")
    assert found["state"] == "ok", found


def test_two_containers_share_the_work_and_a_killed_one_is_replaced(
    clary: Clary, engine: ContainerEngine, image: str
) -> None:
    name = clary.endpoint(clary.config(instance(clary.model(clary.upload({"w": b""}), image), count=2)))
    both = wait_for(lambda: found if len(found := serving(engine, name)) == 2 else None, 60, "two containers")
    before = {one["Id"] for one in both}
    signal_to(both[0]["State"]["Pid"], signal.SIGKILL)
    wait_for(
        lambda: len(now := {one["Id"] for one in serving(engine, name)}) == 2 and now != before, 60, "another container"
    )
    wait_for(lambda: len([w for w in clary.workers(name) if w["state"] == "ready"]) == 2, 60, "two ready workers")
    assert clary.invoke(name, "ab", "text/plain") == b"ba"

    held = {one["Name"].removeprefix("/clary-"): one["Id"] for one in serving(engine, name)}
    worker = clary.ready(name)[0]
    signal_to(worker["pid"], signal.SIGKILL)  # the program that holds it, not the container
    wait_for(
        lambda: held[worker["worker"]] not in {one["Id"] for one in engine.containers()}, 60, "its container to go, too"
    )
    wait_for(lambda: len(serving(engine, name)) == 2, 60, "another container")
    clary.delete(name)
    wait_for(lambda: gone(engine, name), 60, "the containers to go")


def test_a_container_that_ends_at_once_tells_why(clary: Clary, engine: ContainerEngine, image: str) -> None:
    model = clary.model(clary.upload({"w": b""}), image, {"FAIL": "3"})
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    state = clary.settled(name)
    assert state["EndpointStatus"] == "Failed"
    assert "exit code 3" in state["FailureReason"]
    assert "the weights are missing" in state["FailureReason"]
    clary.delete(name)
    wait_for(lambda: gone(engine, name), 60, "the containers to go")


def test_memory_ends_a_container_with_its_reason(clary: Clary, engine: ContainerEngine, image: str) -> None:
    config = {"MemorySizeInMB": 1024, "MaxConcurrency": 1}
    model = clary.model(clary.upload({"w": b""}), image)
    name = clary.endpoint(clary.config({"VariantName": "AllTraffic", "ModelName": model, "ServerlessConfig": config}))
    assert serving(engine, name)[0]["HostConfig"]["Memory"] == 1024 << 20
    worker = clary.ready(name)[0]["worker"]
    assert answered(clary, name, "leak") is None

    def reasons() -> list[str]:
        lines = (clary.data / "journal" / "workers.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [one["reason"] for one in events if one["event"] == "exited" and one["worker"] == worker]

    assert wait_for(reasons, 60, "the end of the worker") == ["OutOfMemory"]
    wait_for(lambda: answered(clary, name, "abc") == b"cba", 60, "another container")
    clary.delete(name)


def test_many_models_in_one_container(clary: Clary, engine: ContainerEngine, image: str) -> None:
    s3 = clary.client("s3")
    prefix = f"many-{uuid.uuid4().hex[:6]}"
    for number in range(3):
        bucket, _, key = clary.upload({"weights.txt": f"model {number} "}).removeprefix("s3://").partition("/")
        s3.copy_object(Bucket=bucket, Key=f"{prefix}/{number}.tar.gz", CopySource={"Bucket": bucket, "Key": key})
    model = f"m-{uuid.uuid4().hex[:8]}"
    clary.client("sagemaker").create_model(
        ModelName=model,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": image, "Mode": "MultiModel", "ModelDataUrl": f"s3://models/{prefix}/"},
    )
    name = clary.endpoint(clary.config(instance(model)))
    for number in (0, 1, 2, 0):
        told = clary.invoke(name, "says", "text/plain", TargetModel=f"{number}.tar.gz")
        assert told == b"model %d says" % number
    clary.delete(name)


def test_a_transform_job_runs_in_containers(clary: Clary, engine: ContainerEngine, image: str) -> None:
    s3, sagemaker = clary.client("s3"), clary.client("sagemaker")
    model = clary.model(clary.upload({"w": b""}), image)
    prefix = f"in-{uuid.uuid4().hex[:6]}"
    s3.put_object(Bucket="models", Key=f"{prefix}/a.csv", Body=b"abc\ndef\n")
    job = f"job-{uuid.uuid4().hex[:8]}"
    sagemaker.create_transform_job(
        TransformJobName=job,
        ModelName=model,
        BatchStrategy="SingleRecord",
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://models/{prefix}/"}},
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": f"s3://models/out-{prefix}", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = sagemaker.describe_transform_job(TransformJobName=job)
        return None if state["TransformJobStatus"] == "InProgress" else state

    state = wait_for(ended, 120, "the job to end")
    assert state["TransformJobStatus"] == "Completed", state
    out = s3.get_object(Bucket="models", Key=f"out-{prefix}/a.csv.out")["Body"].read()
    assert out == b"cba\nfed\n"
    wait_for(
        lambda: not [one for one in engine.containers() if job in one["Config"]["Labels"].get("clary.fleet", "")],
        60,
        "the job's containers to go",
    )


def test_an_image_may_bring_its_model_along(clary: Clary, engine: ContainerEngine, image: str) -> None:
    model = f"m-{uuid.uuid4().hex[:8]}"
    clary.client("sagemaker").create_model(
        ModelName=model, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": f"localhost:{clary.port}/{REPOSITORY}:1.0"}
    )
    name = clary.endpoint(clary.config(instance(model)))
    assert clary.invoke(name, "ab", "text/plain") == b"ba"
    clary.delete(name)


def test_an_image_that_is_nowhere_is_refused_with_all_that_was_tried(clary: Clary, image: str) -> None:
    data = clary.upload({"w": b""})
    with pytest.raises(ClientError) as refused:
        clary.model(data, f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/no/such:1")
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert "own registry (no repository no/such in us-east-1)" in refused.value.response["Error"]["Message"]


def test_an_image_that_goes_between_model_and_endpoint_fails_the_endpoint(
    clary: Clary, engine: ContainerEngine
) -> None:
    """What CreateModel found may have gone when a deployment needs it: the reason is the same."""
    ecr = clary.client("ecr")
    ecr.create_repository(repositoryName="short-lived")
    RegistryClient(clary.port, password(clary)).push_image("short-lived", "1", [layer_of({"a": b"b"})], {})
    model = clary.model(clary.upload({"w": b""}), f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/short-lived:1")
    ecr.delete_repository(repositoryName="short-lived", force=True)
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    state = clary.settled(name)
    assert state["EndpointStatus"] == "Failed"
    assert "own registry (no repository short-lived in us-east-1)" in state["FailureReason"]
    clary.delete(name)


def test_the_docker_command_logs_in_pulls_tags_and_pushes(
    clary: Clary, engine: ContainerEngine, image: str, tmp_path: Path
) -> None:
    if shutil.which("docker") is None:  # asked now: the engine's package may have brought it
        pytest.skip("no docker command on this machine: its login and push are NOT tested")

    def docker(*words: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["docker", "--config", str(tmp_path), "-H", f"unix://{engine.socket}", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    host = f"localhost:{clary.port}"
    docker("login", "--username", "AWS", "--password-stdin", host, stdin=password(clary))
    docker("pull", f"{host}/{REPOSITORY}:1.0")
    docker("tag", f"{host}/{REPOSITORY}:1.0", f"{host}/{REPOSITORY}:pushed-by-docker")
    docker("push", f"{host}/{REPOSITORY}:pushed-by-docker")
    ids = clary.client("ecr").list_images(repositoryName=REPOSITORY)["imageIds"]
    assert "pushed-by-docker" in {one.get("imageTag") for one in ids}
    docker("tag", f"{host}/{REPOSITORY}:1.0", "reverser:of-the-engine")
    name = clary.endpoint(clary.config(instance(clary.model(clary.upload({"w": b""}), "reverser:of-the-engine"))))
    assert clary.invoke(name, "ab", "text/plain") == b"ba"
    clary.delete(name)


def test_nothing_outlives_a_killed_supervisor(
    engine: ContainerEngine, start_clary: Callable[..., Clary], clary: Clary, image: str
) -> None:
    """Its own clary: the guardian removes at once; what even that could not, the next start does."""
    mine = start_clary(CLARY_DOCKER=f"unix://{engine.socket}")
    mine.client("ecr").create_repository(repositoryName=REPOSITORY)
    theirs, ours = RegistryClient(clary.port, password(clary)), RegistryClient(mine.port, password(mine))
    manifest = theirs.ask("GET", f"/v2/{REPOSITORY}/manifests/1.0")
    for one in [json.loads(manifest.body)["config"], *json.loads(manifest.body)["layers"]]:
        ours.push_blob(REPOSITORY, theirs.ask("GET", f"/v2/{REPOSITORY}/blobs/{one['digest']}").body)
    ours.push_manifest(REPOSITORY, "1.0", manifest.body, manifest.headers["Content-Type"])
    name = mine.endpoint(mine.config(instance(mine.model(mine.upload({"w": b""}), image))))
    held = serving(engine, name)[0]
    guardians = _guardians(mine.ready(name)[0]["pid"])
    supervisor = mine.supervisor(op="list")["pid"]

    for guardian in guardians:  # even without them
        signal_to(guardian, signal.SIGKILL)
    signal_to(supervisor, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{supervisor}").exists(), 30, "the supervisor's end")
    time.sleep(1.0)
    mine.up()
    wait_for(lambda: held["Id"] not in {one["Id"] for one in engine.containers()}, 60, "the sweep")
    wait_for(lambda: answered(mine, name, "ab") == b"ba", 60, "the endpoint to serve again")

    assert held["Id"] not in {one["Id"] for one in engine.containers()}
    held = serving(engine, name)[0]
    supervisor = mine.supervisor(op="list")["pid"]
    signal_to(supervisor, signal.SIGKILL)
    wait_for(lambda: held["Id"] not in {one["Id"] for one in engine.containers()}, 60, "the guardian's work")
    assert serving(engine, name) == []
    mine.up()
    mine.delete(name)
    wait_for(lambda: gone(engine, name), 30, "its containers to go")
    assert serving(engine, name) == []


def _guardians(worker_pid: int) -> list[int]:
    """The children of a program that holds a container."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == worker_pid:
            found.append(int(folder.name))
    return found
