"""Models of several containers with unmodified boto3: pipelines and direct mode, on real models and real processes."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
import xgboost
from botocore.exceptions import ClientError, ReadTimeoutError
from conftest import ROLE, Clary, instance, serverless, signal_to, wait_for
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

# Says what it was given; does in the container that is named what the body asks for.
STEP = """
import os, sys, time

NAME = os.environ["NAME"]

def model_fn(model_dir):
    if os.environ.get("BROKEN"):
        raise RuntimeError("no model today")
    time.sleep(float(os.environ.get("LOADS_FOR", 0)))
    return None

def transform_fn(model, body, content_type, accept, context):
    text = body if isinstance(body, str) else body.decode()
    print("asked", NAME, flush=True)
    word, name, rest = (text.split(":", 2) + ["", ""])[:3]
    if name == NAME:
        if word == "raise":
            raise ValueError("not " + NAME)
        if word == "die":
            os._exit(3)
        if word == "sleep":
            time.sleep(float(rest.partition(">")[0]))
        if word == "large":
            return b"x" * int(rest.partition(">")[0]), "application/x-" + NAME
        if word == "pieces":
            return ("piece%d " % n for n in range(3)), "application/x-" + NAME
    attributes = context.get_request_header(0, "X-Amzn-SageMaker-Custom-Attributes") or ""
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", attributes + NAME)
    return "%s>%s(%s %s %s)" % (text, NAME, content_type, accept, attributes), "application/x-" + NAME
"""
SCALER = """
import os
import joblib

def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "scaler.joblib"))

def predict_fn(data, model):
    return model.transform(data)
"""


def step(uri: str, name: str, hostname: bool = True, **environment: str) -> dict[str, Any]:
    told = {"NAME": name, "SAGEMAKER_MODEL_SERVER_WORKERS": "1", **environment}
    container = {"Image": "clary/sklearn", "ModelDataUrl": uri, "Environment": told}
    return {**container, "ContainerHostname": name} if hostname else container


def model(clary: Clary, *containers: dict[str, Any], mode: str = "") -> str:
    name = f"m-{uuid.uuid4().hex[:10]}"
    execution = {"InferenceExecutionConfig": {"Mode": mode}} if mode else {}
    clary.client("sagemaker").create_model(
        ModelName=name, ExecutionRoleArn=ROLE, Containers=list(containers), **execution
    )
    return name


def deploy(clary: Clary, name: str, tags: dict[str, str] | None = None, **variant: Any) -> str:
    return clary.endpoint(clary.config(instance(name, **variant)), tags=tags)


@pytest.fixture(scope="module")
def uri(clary: Clary) -> str:
    return clary.upload({"code/inference.py": STEP})


@pytest.fixture(scope="module")
def captured(clary: Clary, uri: str) -> tuple[str, str]:
    """An endpoint that captures, and its answer to one call: made early, because delivery takes its time."""
    clary.client("s3").create_bucket(Bucket="captured")
    config = f"c-{uuid.uuid4().hex[:10]}"
    clary.client("sagemaker").create_endpoint_config(
        EndpointConfigName=config,
        ProductionVariants=[instance(model(clary, step(uri, "a"), step(uri, "b")))],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://captured/all",
            "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv", "application/x-b"]},
        },
    )
    endpoint = clary.endpoint(config)
    return endpoint, clary.invoke(endpoint, "1,2", "text/csv").decode()


@pytest.fixture(scope="module")
def pipeline(clary: Clary, uri: str, captured: tuple[str, str]) -> str:
    return deploy(clary, model(clary, *(step(uri, name) for name in "abc")))


def worker_of(clary: Clary, endpoint: str, container: str) -> dict[str, Any]:
    """The one ready worker of a container."""

    def find() -> Any:
        return [w for w in clary.ready(endpoint) if w["fleet"].split("/")[2] == f"AllTraffic+{container}"]

    found: dict[str, Any] = wait_for(find, 30, f"a ready worker of {container}")[0]
    return found


def control_groups(pid: int, endpoint: str) -> set[Path]:
    """The folders of the endpoint's control groups that a process is in."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return {Path("/sys/fs/cgroup") / names / path.lstrip("/") for _, names, path in lines if f"~{endpoint}~" in path}


class Load:
    """Threads that ask until they are told to stop; what they got."""

    def __init__(self, ask: Callable[[], Any], threads: int = 4) -> None:
        self.answers: list[Any] = []
        self.errors: list[ClientError] = []
        self._ask = ask
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(self._ask())
            except ClientError as error:
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.answers) > 20, 60, "answers under load")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()


# -- pipelines -----------------------------------------------------------------------------------------


def test_a_pipeline_predicts_as_the_libraries_do(clary: Clary) -> None:
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype("float32")  # as the scikit-learn container reads text
    scaler = StandardScaler().fit(rows)
    booster = xgboost.train(
        {"objective": "binary:logistic", "seed": 7}, xgboost.DMatrix(scaler.transform(rows), labels)
    )
    file = io.BytesIO()
    joblib.dump(scaler, file)
    first = clary.upload({"scaler.joblib": file.getvalue(), "code/inference.py": SCALER})
    second = clary.upload({"xgboost-model": bytes(booster.save_raw("ubj"))})
    endpoint = deploy(
        clary,
        model(
            clary,
            {
                "Image": "clary/sklearn",
                "ModelDataUrl": first,
                "Environment": {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"},
            },
            {"Image": "clary/xgboost", "ModelDataUrl": second},
        ),
    )
    body = "\n".join(",".join(repr(float(x)) for x in row) for row in rows[:50])
    found = clary.invoke(endpoint, body, Accept="text/csv").decode().replace("\n", ",").strip(",")
    expected = booster.predict(xgboost.DMatrix(scaler.transform(rows[:50])))
    numpy.testing.assert_allclose([float(x) for x in found.split(",")], expected, rtol=1e-6)
    images = clary.client("sagemaker").describe_endpoint(EndpointName=endpoint)["ProductionVariants"][0]
    assert [image["SpecifiedImage"] for image in images["DeployedImages"]] == ["clary/sklearn", "clary/xgboost"]
    fleets = {worker["fleet"].split("/")[2] for worker in clary.ready(endpoint)}
    assert fleets == {"AllTraffic+container-1", "AllTraffic+container-2"}
    groups = control_groups(clary.ready(endpoint)[0]["pid"], endpoint)
    assert bool(groups) == bool(clary.isolation()["cgroup_version"])
    clary.delete(endpoint)
    assert not clary.workers(endpoint)
    wait_for(lambda: not any(group.exists() for group in groups), 20, "its control groups to go")


def test_each_container_gets_the_answer_of_the_one_before(clary: Clary, pipeline: str) -> None:
    answer = clary.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=pipeline, Body="x", ContentType="text/plain", Accept="text/x-mine", CustomAttributes="me"
    )
    assert answer["Body"].read().decode() == (
        "x>a(text/plain application/json me)>b(application/x-a application/json mea)"
        ">c(application/x-b text/x-mine meab)"
    )
    assert answer["ContentType"] == "application/x-c"
    assert answer["CustomAttributes"] == "meabc"
    assert answer["InvokedProductionVariant"] == "AllTraffic"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_an_error_ends_the_chain_with_the_containers_name(clary: Clary, pipeline: str, name: str) -> None:
    with pytest.raises(ClientError) as caught:
        clary.invoke(pipeline, f"raise:{name}:", "text/plain")
    told = caught.value.response
    assert told["Error"]["Code"] == "ModelError"
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert told["OriginalStatusCode"] == 500
    assert f"not {name}" in told["OriginalMessage"]
    assert told["Error"]["Message"].startswith(f'Received server error (500) from {name} with message "')
    assert told["LogStreamArn"].endswith(f"/{worker_of(clary, pipeline, name)['worker']}/{name}")
    assert clary.invoke(pipeline, "x", "text/plain").startswith(b"x>a")


def test_large_bodies_pass_between_containers(clary: Clary, pipeline: str) -> None:
    assert clary.invoke(pipeline, "large:a:3000000", "text/plain").startswith(b"xxxx")
    assert len(clary.invoke(pipeline, "large:c:3000000", "text/plain")) == 3_000_000
    with pytest.raises(ClientError, match=r"from b with message .*exceeds 26214400 bytes"):
        clary.invoke(pipeline, "large:b:26214401", "text/plain")


def test_the_last_container_streams(clary: Clary, pipeline: str) -> None:
    answer = clary.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=pipeline, Body="pieces:c:", ContentType="text/plain"
    )
    pieces = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert b"".join(pieces) == b"piece0 piece1 piece2 "
    assert answer["ContentType"] == "application/x-c"


def test_a_client_that_leaves_frees_every_slot(clary: Clary, pipeline: str) -> None:
    impatient = clary.client("sagemaker-runtime", read_timeout=1)
    with pytest.raises(ReadTimeoutError):
        impatient.invoke_endpoint(EndpointName=pipeline, Body="sleep:b:3", ContentType="text/plain")

    def inside() -> int:
        fleets = json.loads(clary.run("status", "--json").stdout)["fleets"]
        return sum(one["inside"] for fleet, one in fleets.items() if fleet.split("/")[1] == pipeline)

    wait_for(lambda: inside() == 0, 10, "the slots to be free")
    assert clary.invoke(pipeline, "x", "text/plain").startswith(b"x>a")


def test_a_killed_container_is_repaired_under_load(clary: Clary, pipeline: str) -> None:
    before = worker_of(clary, pipeline, "b")
    with Load(lambda: clary.invoke(pipeline, "x", "text/plain")) as load:
        signal_to(before["pid"], signal.SIGKILL)
        wait_for(lambda: worker_of(clary, pipeline, "b")["pid"] != before["pid"], 30, "its successor")
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 20, 30, "answers of the successor")
    assert all(answer.startswith(b"x>a(") and b">c(" in answer for answer in load.answers)
    for error in load.errors:  # those that the killed process had read
        assert error.response["Error"]["Code"] == "ModelError"
        assert " from b " in error.response["Error"]["Message"]
    assert len(load.errors) <= 8


def test_logs_and_the_command_line_name_the_container(clary: Clary, pipeline: str) -> None:
    clary.invoke(pipeline, "x", "text/plain")
    group = f"/aws/sagemaker/Endpoints/{pipeline}"

    def streams() -> set[str]:
        found = clary.client("logs").describe_log_streams(logGroupName=group)["logStreams"]
        return {stream["logStreamName"] for stream in found}

    wanted = {f"AllTraffic/{worker_of(clary, pipeline, name)['worker']}/{name}" for name in "abc"}
    wait_for(lambda: wanted <= streams(), 20, "the containers' log streams")
    rows = [row for row in json.loads(clary.run("ps", "--json").stdout) if row.get("endpoint") == pipeline]
    assert {(row["variant"], row["container"]) for row in rows} == {("AllTraffic", name) for name in "abc"}
    wait_for(lambda: "/b asked b" in clary.run("logs", pipeline).stdout, 20, "the container in clary logs")


def test_every_container_has_walls_of_its_own_and_they_share_the_instances_limits(clary: Clary, pipeline: str) -> None:
    walls = clary.isolation()
    if not walls["own_uid"] or not walls["cgroup_version"]:
        pytest.skip("this host has no uid or no control group for each worker")
    pids = [worker_of(clary, pipeline, name)["pid"] for name in "abc"]
    uids = {Path(f"/proc/{pid}/status").read_text().partition("Uid:")[2].split()[0] for pid in pids}
    roots = {os.stat(f"/proc/{pid}/ns/mnt").st_ino for pid in pids}
    assert len(uids) == len(roots) == 3
    groups = [control_groups(pid, pipeline) for pid in pids]
    assert groups[0] == groups[1] == groups[2]
    assert {group.name for group in groups[0]} == {groups[0].pop().name}
    assert all("+" not in group.name for group in groups[1])


def test_a_container_that_cannot_start_is_named(clary: Clary, uri: str) -> None:
    name = model(clary, step(uri, "a"), step(uri, "second", BROKEN="1"))
    endpoint = clary.endpoint(clary.config(instance(name)), wait=False)
    state = clary.settled(endpoint)
    assert state["EndpointStatus"] == "Failed"
    assert state["FailureReason"].startswith(
        "The second container for production variant AllTraffic did not pass the ping health check."
    )
    assert "no model today" in state["FailureReason"]
    clary.delete(endpoint)
    assert not clary.workers(endpoint)


def test_an_update_under_load_loses_no_request(clary: Clary, uri: str, forest_uri: str) -> None:
    endpoint = deploy(clary, model(clary, step(uri, "a"), step(uri, "b")))
    sagemaker = clary.client("sagemaker")
    with Load(lambda: clary.invoke(endpoint, "5.1,3.5,1.4,0.2", "text/csv")) as load:
        for target in (
            model(clary, step(uri, "c"), step(uri, "b"), step(uri, "a")),
            clary.model(forest_uri, "clary/sklearn"),
            model(clary, step(uri, "b"), step(uri, "a")),
        ):
            config = clary.config(instance(target))
            sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=config)
            state = clary.settled(endpoint)
            assert state["EndpointConfigName"] == config, state
            count = len(load.answers)
            wait_for(lambda count=count: len(load.answers) > count + 10, 30, "answers of the new fleet")
    assert load.errors == []
    generations = wait_for(
        lambda: (found := {w["fleet"].rpartition("/")[2] for w in clary.workers(endpoint)}) and len(found) == 1,
        30,
        "one",
    )
    assert generations
    clary.delete(endpoint)


def test_all_containers_sleep_wake_together_and_cost_one_instance(clary: Clary, uri: str) -> None:
    tags = {"clary:scale-to-zero": "true", "clary:keep-alive-s": "0.5"}
    endpoint = deploy(clary, model(clary, *(step(uri, name, LOADS_FOR="1") for name in "abcd")), tags)
    clary.invoke(endpoint, "x", "text/plain")
    for _ in range(2):  # the second time comes soon after the first
        wait_for(lambda: not clary.workers(endpoint), 30, "all containers to sleep")
        assert clary.invoke(endpoint, "x", "text/plain").count(b">") == 4
    journal = [json.loads(line) for line in (clary.data / "journal" / "workers.jsonl").read_text().splitlines()]
    mine = [event for event in journal if event.get("fleet", "").split("/")[1:2] == [endpoint]]
    started = [event["at_ns"] for event in mine if event["event"] == "started"][-4:]
    first_ready = min(event["at_ns"] for event in mine if event["event"] == "ready" and event["at_ns"] > started[0])
    assert len(started) == 4
    assert max(started) < first_ready  # each loads for a second: none waited for another
    wait_for(lambda: not clary.workers(endpoint), 30, "all containers to sleep")
    clary.delete(endpoint)

    def billed() -> int:
        told = json.loads(clary.run("cost", "--json").stdout)["sums"]
        return sum(one["quantity"] for one in told if one["endpoint"] == endpoint)

    journal = [json.loads(line) for line in (clary.data / "journal" / "workers.jsonl").read_text().splitlines()]
    mine = [event for event in journal if event.get("fleet", "").split("/")[1:2] == [endpoint]]
    lived_ns = length([(one["at_ns"], end_of(mine, one)) for one in mine if one["event"] == "started"])
    wait_for(lambda: billed() == lived_ns, 20, f"a bill of {lived_ns} ns, one instance's time")
    assert json.loads(clary.run("cost", "--verify", "--json").stdout)["exact"] is True


def end_of(events: list[dict[str, Any]], started: dict[str, Any]) -> int:
    found = (one for one in events if one["event"] == "exited" and one["worker"] == started["worker"])
    return int(next(found)["at_ns"])


def length(spans: list[tuple[int, int]]) -> int:
    """Of the union of (start, end) spans."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


# -- direct mode ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def direct(clary: Clary, uri: str) -> str:
    return deploy(clary, model(clary, *(step(uri, name) for name in "abc"), mode="Direct"))


def test_the_caller_chooses_the_container(clary: Clary, direct: str) -> None:
    for name in "cab":
        told = clary.invoke(direct, "x", "text/plain", TargetContainerHostname=name, Accept="text/x-mine").decode()
        assert told == f"x>{name}(text/plain text/x-mine )"
    with pytest.raises(ClientError, match="from b with message") as caught:
        clary.invoke(direct, "raise:b:", "text/plain", TargetContainerHostname="b")
    assert caught.value.response["Error"]["Code"] == "ModelError"


def test_a_container_must_be_named_where_one_may_be(clary: Clary, direct: str, pipeline: str) -> None:
    cases = [
        (direct, {}, "TargetContainerHostname is required"),
        (direct, {"TargetContainerHostname": "z"}, "Container z is not present in endpoint .*; it has a, b, c"),
        (pipeline, {"TargetContainerHostname": "a"}, "only allowed for direct mode endpoints"),
        (direct, {"TargetContainerHostname": "a", "TargetModel": "m"}, "does not support target model header"),
        (pipeline, {"SessionId": "NEW_SESSION"}, "SessionId is not supported by pipelines"),
    ]
    for endpoint, options, text in cases:
        with pytest.raises(ClientError, match=text) as caught:
            clary.invoke(endpoint, "x", "text/plain", **options)
        assert caught.value.response["Error"]["Code"] == "ValidationError"


@pytest.mark.parametrize("mode", ["Serial", "Direct"])
def test_one_of_them_may_hold_many_models(clary: Clary, uri: str, mode: str) -> None:
    prefix = f"many-{uuid.uuid4().hex[:8]}"
    for name in ("one", "two"):
        made = clary.upload({"code/inference.py": STEP.replace('os.environ["NAME"]', repr(name))})
        bucket, key = made.removeprefix("s3://").split("/", 1)
        clary.client("s3").copy_object(Bucket=bucket, Key=f"{prefix}/{name}.tar.gz", CopySource=f"{bucket}/{key}")
    many = {**step(f"s3://models/{prefix}/", "many"), "Mode": "MultiModel"}
    endpoint = deploy(clary, model(clary, step(uri, "a"), many, mode=mode))
    chosen = {"TargetContainerHostname": "many"} if mode == "Direct" else {}
    for name in ("one", "two", "one"):
        told = clary.invoke(endpoint, "x", "text/plain", TargetModel=f"{name}.tar.gz", Accept="text/x-mine", **chosen)
        before = (
            ("x", "text/plain", "")
            if mode == "Direct"
            else ("x>a(text/plain application/json )", "application/x-a", "a")
        )
        assert told.decode() == "{}>{}({} text/x-mine {})".format(before[0], name, *before[1:])
    with pytest.raises(ClientError, match="is a multi-model endpoint"):
        clary.invoke(endpoint, "x", "text/plain", **chosen)
    clary.delete(endpoint)


# -- what is recorded ----------------------------------------------------------------------------------


def test_metrics_tell_the_whole_and_each_container(clary: Clary, pipeline: str, direct: str) -> None:
    for _ in range(3):
        clary.invoke(pipeline, "sleep:b:0.2", "text/plain")
        clary.invoke(direct, "sleep:b:0.2", "text/plain", TargetContainerHostname="b")
    cloudwatch = clary.client("cloudwatch")

    def sums(endpoint: str, metric: str, container: str = "") -> tuple[float, float]:
        dimensions = {"EndpointName": endpoint, "VariantName": "AllTraffic"}
        if container:
            dimensions["ContainerName"] = container
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName=metric,
            Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
            StartTime=datetime.now(UTC) - timedelta(hours=1),
            EndTime=datetime.now(UTC) + timedelta(minutes=2),
            Period=60,
            Statistics=["Sum", "SampleCount"],
        )["Datapoints"]
        return sum(point["Sum"] for point in points), sum(point["SampleCount"] for point in points)

    wait_for(lambda: sums(pipeline, "ContainerLatency", "b")[0] > 600_000, 20, "the time of container b")
    wait_for(lambda: sums(direct, "ContainerLatency", "b")[0] > 600_000, 20, "the time of container b")
    for endpoint in (pipeline, direct):
        assert sums(endpoint, "ModelLatency")[0] >= 600_000
        of_containers = sum(sums(endpoint, "ContainerLatency", name)[0] for name in "abc")
        assert sums(endpoint, "ModelLatency")[0] == pytest.approx(of_containers, rel=0.2)
    assert sums(pipeline, "ModelLatency")[1] == sums(pipeline, "Invocations")[0]
    assert sums(pipeline, "Invocations", "b")[1] == 0
    assert sums(direct, "Invocations", "b")[0] >= 3
    assert sums(direct, "Invocations")[0] >= sum(sums(direct, "Invocations", name)[0] for name in "abc")


def test_capture_keeps_the_callers_input_and_the_last_output(clary: Clary, captured: tuple[str, str]) -> None:
    endpoint, answer = captured
    s3 = clary.client("s3")

    def delivered() -> Any:
        found = s3.list_objects_v2(Bucket="captured", Prefix=f"all/{endpoint}/").get("Contents", [])
        return found and s3.get_object(Bucket="captured", Key=found[0]["Key"])["Body"].read()

    told = json.loads(wait_for(delivered, 60, "the captured call").splitlines()[0])["captureData"]
    assert told["endpointInput"]["data"] == "1,2"
    assert told["endpointInput"]["observedContentType"] == "text/csv"
    assert told["endpointOutput"]["data"] == answer
    assert told["endpointOutput"]["observedContentType"] == "application/x-b"
    clary.delete(endpoint)


def test_asynchronous_invocations_travel_the_pipeline(clary: Clary, uri: str) -> None:
    s3, sagemaker = clary.client("s3"), clary.client("sagemaker")
    s3.create_bucket(Bucket="queued")
    config = f"c-{uuid.uuid4().hex[:10]}"
    asked = {
        "EndpointConfigName": config,
        "ProductionVariants": [instance(model(clary, *(step(uri, name) for name in "abc")))],
        "AsyncInferenceConfig": {
            "OutputConfig": {"S3OutputPath": "s3://queued/out", "S3FailurePath": "s3://queued/bad"}
        },
    }
    sagemaker.create_endpoint_config(**asked)
    endpoint = clary.endpoint(config)

    def put(number: int, body: str) -> dict[str, Any]:
        s3.put_object(Bucket="queued", Key=f"in/{number}", Body=body.encode(), ContentType="text/plain")
        told: dict[str, Any] = clary.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName=endpoint, InputLocation=f"s3://queued/in/{number}", Accept="text/x-mine"
        )
        return told

    def read(location: str) -> Any:
        try:
            return s3.get_object(Bucket="queued", Key=location.removeprefix("s3://queued/"))
        except s3.exceptions.NoSuchKey:
            return None

    whole = [put(number, f"x{number}") for number in range(12)]
    large, bad = put(12, "large:a:3000000"), put(13, "raise:b:")
    for number, told in enumerate(whole):
        answer = wait_for(lambda told=told: read(told["OutputLocation"]), 30, "an output")
        assert answer["Body"].read().decode() == (
            f"x{number}>a(text/plain application/json )>b(application/x-a application/json a)"
            ">c(application/x-b text/x-mine ab)"
        )
        assert answer["ContentType"] == "application/x-c"
    found = wait_for(lambda: read(large["OutputLocation"]), 30, "the large output")["Body"].read()
    assert found.startswith(b"x" * 3_000_000 + b">b(")
    reason = wait_for(lambda: read(bad["FailureLocation"]), 30, "the failure")["Body"].read().decode()
    assert reason.startswith('Received server error (500) from b with message "')
    clary.delete(endpoint)
    each = model(clary, *(step(uri, name) for name in "ab"), mode="Direct")
    asked |= {"EndpointConfigName": config + "d", "ProductionVariants": [instance(each)]}
    with pytest.raises(ClientError, match="InvokeEndpointAsync has no TargetContainerHostname"):
        sagemaker.create_endpoint_config(**asked)


def test_a_transform_job_takes_each_batch_through_the_pipeline(clary: Clary, uri: str) -> None:
    s3, sagemaker = clary.client("s3"), clary.client("sagemaker")
    s3.create_bucket(Bucket="batches")
    lines = [f"{number},x" for number in range(40)]
    s3.put_object(Bucket="batches", Key="in/good.csv", Body="\n".join(lines).encode())

    def job(prefix: str, model_name: str, **more: Any) -> dict[str, Any]:
        name = f"t-{uuid.uuid4().hex[:10]}"
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://batches/{prefix}"}}
        sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=model_name,
            BatchStrategy="SingleRecord",
            TransformInput={"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
            TransformOutput={"S3OutputPath": f"s3://batches/{name}", "Accept": "text/x-mine", "AssembleWith": "Line"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
            **more,
        )

        def over() -> Any:
            told = sagemaker.describe_transform_job(TransformJobName=name)
            return told["TransformJobStatus"] != "InProgress" and told

        found: dict[str, Any] = wait_for(over, 60, f"{name} to end")
        return found

    name = model(clary, step(uri, "a"), step(uri, "b"))
    told = job("in/", name, Environment={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/x-between"})
    assert told["TransformJobStatus"] == "Completed", told
    output = s3.get_object(Bucket="batches", Key=f"{told['TransformJobName']}/good.csv.out")["Body"].read().decode()
    travelled = ">a(text/csv text/x-between )>b(application/x-a text/x-mine a)"
    assert output.splitlines() == [line + travelled for line in lines]
    s3.put_object(Bucket="batches", Key="bad/bad.csv", Body=b"1,x\nraise:b:\n3,x")
    told = job("bad/", name)
    assert told["TransformJobStatus"] == "Failed"
    assert "bad.csv line 2: container b answered 500" in told["FailureReason"]
    told = job("in/", model(clary, step(uri, "a"), step(uri, "b", BROKEN="1")))
    assert told["FailureReason"].startswith("AlgorithmError: The b container did not pass the ping health check.")
    wait_for(lambda: not clary.workers(f"transform-job:{told['TransformJobName']}"), 30, "its workers to go")
    with pytest.raises(ClientError, match="Mode Direct"):
        job("in/", model(clary, step(uri, "a"), step(uri, "b"), mode="Direct"))
    wait_for(lambda: json.loads(clary.run("cost", "--verify", "--json").stdout)["exact"], 20, "an exact bill")


# -- what is refused -----------------------------------------------------------------------------------


def test_what_makes_no_model_is_refused_by_name(clary: Clary, uri: str) -> None:
    cases: list[tuple[list[dict[str, Any]], str, str]] = [
        (
            [step(uri, "a", hostname=False), step(uri, "b", hostname=False)],
            "Direct",
            "Direct needs a ContainerHostname",
        ),
        ([step(uri, "a"), step(uri, "a")], "Direct", '"a" was non-unique'),
        ([step(uri, "a"), step(uri, "b", hostname=False)], "Serial", "for every one .* or for none"),
        (
            [step(uri, "a", BIG="x" * 1000), *(step(uri, f"b{n}", **big(16)) for n in range(2))],
            "",
            "over all containers",
        ),
        ([step(uri, "a")], "Direct", "at least two Containers"),
        ([], "", "A model needs a PrimaryContainer"),
    ]
    for containers, mode, text in cases:
        with pytest.raises(ClientError, match=text) as caught:
            model(clary, *containers, mode=mode)
        assert caught.value.response["Error"]["Code"] == "ValidationException"
    with pytest.raises(ClientError, match="either PrimaryContainer or Containers"):
        clary.client("sagemaker").create_model(
            ModelName="both", ExecutionRoleArn=ROLE, PrimaryContainer=step(uri, "a"), Containers=[step(uri, "b")]
        )


def big(kib: int) -> dict[str, str]:
    return {f"V{n}": "x" * 1021 for n in range(kib)}


def test_serverless_takes_no_pipeline(clary: Clary, uri: str) -> None:
    name = model(clary, step(uri, "a"), step(uri, "b"))
    with pytest.raises(ClientError, match="several containers is not supported for serverless"):
        clary.config(serverless(name))


def test_one_container_of_containers_is_a_primary_one(clary: Clary, uri: str) -> None:
    endpoint = deploy(clary, model(clary, step(uri, "only")))
    assert clary.invoke(endpoint, "x", "text/plain", Accept="text/plain") == b"x>only(text/plain text/plain )"
    assert [worker["fleet"].split("/")[2] for worker in clary.ready(endpoint)] == ["AllTraffic"]
    clary.delete(endpoint)
