"""Models of several containers with unmodified boto3: pipelines and direct mode, on real models and real processes."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable
from typing import Any

import joblib
import numpy
import pytest
import xgboost
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, instance, wait_for
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

# Says what it was given; does in the container that is named what the body asks for.
STEP = """
import os, sys, time

NAME = os.environ["NAME"]

def model_fn(model_dir):
    if os.environ.get("BROKEN"):
        raise RuntimeError("no model today")
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
    if word == "large":
        return str(len(text)), "application/x-" + NAME
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
def pipeline(clary: Clary, uri: str) -> str:
    return deploy(clary, model(clary, *(step(uri, name) for name in "abc")))


def worker_of(clary: Clary, endpoint: str, container: str) -> dict[str, Any]:
    """The one ready worker of a container."""

    def find() -> Any:
        return [w for w in clary.ready(endpoint) if w["fleet"].split("/")[2] == f"AllTraffic+{container}"]

    found: dict[str, Any] = wait_for(find, 30, f"a ready worker of {container}")[0]
    return found


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
    clary.delete(endpoint)
    assert not clary.workers(endpoint)


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
