"""Multi-model endpoints with unmodified boto3: loaded when asked for, evicted by bytes, added and removed by object."""

from __future__ import annotations

import io
import json
import signal
import uuid
from typing import Any

import boto3
import joblib
import numpy
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import ROLE, Clary, Trained, instance, packed, signal_to, wait_for
from sklearn.linear_model import LinearRegression

BUCKET = "many"


def linear(slope: float) -> bytes:
    model = LinearRegression().fit(numpy.array([[0.0], [1.0]]), numpy.array([0.0, slope]))
    file = io.BytesIO()
    joblib.dump(model, file)
    return file.getvalue()


class Many:
    """A prefix of models and an endpoint over it."""

    def __init__(self, clary: Clary, image: str = "clary/sklearn", environment: dict[str, str] | None = None) -> None:
        self.clary = clary
        self.prefix = f"{uuid.uuid4().hex[:8]}/"
        self.environment = environment or {}
        self.image = image
        clary.client("s3").create_bucket(Bucket=BUCKET)

    def put(self, target: str, files: dict[str, bytes]) -> None:
        self.clary.client("s3").put_object(Bucket=BUCKET, Key=self.prefix + target, Body=packed(files))

    def model(self, **container: Any) -> str:
        name = f"m-{uuid.uuid4().hex[:10]}"
        self.clary.client("sagemaker").create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": self.image,
                "Mode": "MultiModel",
                "ModelDataUrl": f"s3://{BUCKET}/{self.prefix}",
                "Environment": {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", **self.environment},
                **container,
            },
        )
        return name

    def endpoint(self, instance_type: str = "ml.m5.large", **container: Any) -> str:
        variant = {**instance(self.model(**container)), "InstanceType": instance_type}
        return self.clary.endpoint(self.clary.config(variant))

    def invoke(self, endpoint: str, target: str, body: bytes | str = "2\n", **options: Any) -> str:
        return self.clary.invoke(endpoint, body, TargetModel=target, Accept="text/csv", **options).decode()


@pytest.fixture(scope="module")
def many(clary: Clary) -> Many:
    found = Many(clary)
    for number in range(6):
        found.put(f"tenant-{number}/model.tar.gz", {"model.joblib": linear(float(number))})
    return found


@pytest.fixture(scope="module")
def endpoint(many: Many) -> str:
    return many.endpoint()


def test_each_target_answers_as_itself(many: Many, endpoint: str) -> None:
    for _ in range(2):
        for number in range(6):
            assert float(many.invoke(endpoint, f"tenant-{number}/model.tar.gz")) == pytest.approx(2.0 * number)
    facts = many.clary.supervisor(op="list")["workers"]
    assert len([worker for worker in facts if worker["fleet"].split("/")[1] == endpoint]) == 1


def test_a_forest_predicts_as_the_library_does(many: Many, endpoint: str, forest: Trained) -> None:
    file = io.BytesIO()
    joblib.dump(forest.estimator, file)
    many.put("forest.tar.gz", {"model.joblib": file.getvalue()})
    found = [float(line) for line in many.invoke(endpoint, "forest.tar.gz", forest.csv(10)).split()]
    assert found == [float(value) for value in forest.estimator.predict(forest.rows[:10])]


def test_targets_come_go_and_are_refused(many: Many, endpoint: str) -> None:
    with pytest.raises(ClientError, match="Failed to download") as caught:
        many.invoke(endpoint, "new.tar.gz")
    assert caught.value.response["Error"]["Code"] == "ValidationError"
    many.put("new.tar.gz", {"model.joblib": linear(10.0)})
    assert float(many.invoke(endpoint, "new.tar.gz")) == pytest.approx(20.0)
    with pytest.raises(ClientError, match="no path below"):
        many.invoke(endpoint, "../elsewhere.tar.gz")
    with pytest.raises(ClientError, match="TargetModel names the model"):
        many.clary.invoke(endpoint, "1\n")


def test_a_broken_model_is_told_and_breaks_nobody_else(many: Many, endpoint: str) -> None:
    many.put("broken.tar.gz", {"model.joblib": b"this is no pickle"})
    many.put("script.tar.gz", {"code/inference.py": b"def model_fn(d):\n    raise ValueError('not today')\n"})
    for target, text in (("broken.tar.gz", "cannot be unpickled"), ("script.tar.gz", "not today")):
        with pytest.raises(ClientError, match=text) as caught:
            many.invoke(endpoint, target)
        assert caught.value.response["Error"]["Code"] == "ModelError"
    many.clary.client("s3").put_object(Bucket=BUCKET, Key=many.prefix + "no.tar.gz", Body=b"no archive")
    with pytest.raises(ClientError, match="Could not unpack"):
        many.invoke(endpoint, "no.tar.gz")
    assert float(many.invoke(endpoint, "tenant-3/model.tar.gz")) == pytest.approx(6.0)


def test_scripts_with_modules_of_the_same_name_stay_apart(many: Many, endpoint: str) -> None:
    script = b"""
import words

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    import words as again
    return words.WORD + again.WORD, "text/csv"
"""
    for word in ("one", "two"):
        many.put(f"{word}.tar.gz", {"code/inference.py": script, "code/words.py": f"WORD = {word!r}\n".encode()})
    for _ in range(2):
        assert many.invoke(endpoint, "one.tar.gz") == "oneone"
        assert many.invoke(endpoint, "two.tar.gz") == "twotwo"


def test_a_dead_worker_takes_its_models_and_they_come_back(many: Many, endpoint: str) -> None:
    many.invoke(endpoint, "tenant-1/model.tar.gz")
    victim = many.clary.ready(endpoint)[0]["pid"]
    signal_to(victim, signal.SIGKILL)

    def answers() -> bool:
        try:
            return float(many.invoke(endpoint, "tenant-1/model.tar.gz")) == pytest.approx(2.0)
        except ClientError:
            return False

    wait_for(answers, 30, "the model to be loaded again")
    assert victim not in [one["pid"] for one in many.clary.ready(endpoint)]
    assert float(many.invoke(endpoint, "tenant-1/model.tar.gz")) == pytest.approx(2.0)


def test_a_new_proxy_finds_what_is_loaded(many: Many, endpoint: str) -> None:
    many.invoke(endpoint, "tenant-1/model.tar.gz")
    (worker,) = many.clary.ready(endpoint)
    signal_to(many.clary.service_pid("proxy"), signal.SIGKILL)

    def answers() -> bool:
        try:
            return float(many.invoke(endpoint, "tenant-1/model.tar.gz")) == pytest.approx(2.0)
        except (ClientError, BotoCoreError):
            return False  # the connection that was open to the proxy before it

    wait_for(answers, 20, "the front door")
    assert [one["pid"] for one in many.clary.ready(endpoint)] == [worker["pid"]]


def test_the_least_used_go_before_memory_runs_out(many: Many) -> None:
    """Eight workers of half a GiB each, and models of 180 MB, more than they hold: all answer, and no worker dies."""
    big = Many(many.clary, environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "8"})
    script = b"""
import numpy

def model_fn(model_dir):
    return numpy.ones(22_500_000)

def transform_fn(model, body, content_type, accept):
    return f"{model.nbytes}", "text/csv"
"""
    for number in range(18):
        big.put(f"{number}.tar.gz", {"code/inference.py": script})
    name = big.endpoint("ml.c5.large")
    pids = {worker["pid"] for worker in many.clary.ready(name)}
    for target in [*range(18), 17, 0]:
        assert big.invoke(name, f"{target}.tar.gz") == "180000000"
    assert {worker["pid"] for worker in many.clary.ready(name)} == pids
    held = [row["models"] for row in json.loads(many.clary.run("ps", "--json").stdout) if row.get("pid") in pids]
    assert len(held) == 8
    assert sum(held) < 18
    many.clary.delete(name)


def test_without_cache_each_call_loads_and_lets_go(many: Many) -> None:
    name = many.endpoint(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    for number in (1, 2, 1):
        assert float(many.invoke(name, f"tenant-{number}/model.tar.gz")) == pytest.approx(2.0 * number)
    for slope in (7.0, 8.0):  # so an object that is put anew is served at once
        many.put("changing.tar.gz", {"model.joblib": linear(slope)})
        assert float(many.invoke(name, "changing.tar.gz")) == pytest.approx(2.0 * slope)
    many.clary.delete(name)


def test_what_is_loaded_serves_without_control_and_the_rest_comes_with_it(many: Many, endpoint: str) -> None:
    many.put("late.tar.gz", {"model.joblib": linear(9.0)})
    assert float(many.invoke(endpoint, "tenant-2/model.tar.gz")) == pytest.approx(4.0)
    signal_to(many.clary.service_pid("control"), signal.SIGKILL)
    for _ in range(20):
        assert float(many.invoke(endpoint, "tenant-2/model.tar.gz")) == pytest.approx(4.0)

    refusals = set()

    def answers() -> bool:
        try:
            return float(many.invoke(endpoint, "late.tar.gz")) == pytest.approx(18.0)
        except ClientError as error:
            refusals.add(error.response["Error"]["Code"])
            return False

    wait_for(answers, 30, "control to fetch the model")
    assert refusals <= {"ServiceUnavailable"}


def test_others_take_no_target(many: Many, forest_uri: str) -> None:
    single = many.clary.endpoint(many.clary.config(instance(many.clary.model(forest_uri, "clary/sklearn"))))
    with pytest.raises(ClientError, match="is not a multi-model endpoint and does not support target model header"):
        many.invoke(single, "x.tar.gz")
    many.clary.delete(single)


def test_policies_may_name_the_models_that_somebody_asks_for(many: Many, endpoint: str) -> None:
    statement = {
        "Effect": "Allow",
        "Action": "sagemaker:InvokeEndpoint",
        "Resource": "*",
        "Condition": {"StringLike": {"sagemaker:TargetModel": "tenant-1/*"}},
    }
    iam, user = many.clary.client("iam"), f"tenant-{uuid.uuid4().hex[:8]}"
    iam.create_user(UserName=user)
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=user, PolicyName="one", PolicyDocument=document)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    tenant = boto3.client(
        "sagemaker-runtime",
        region_name="us-east-1",
        endpoint_url=many.clary.variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    asked = {"EndpointName": endpoint, "Body": "2\n", "ContentType": "text/csv", "Accept": "text/csv"}
    told = tenant.invoke_endpoint(TargetModel="tenant-1/model.tar.gz", **asked)["Body"].read()
    assert float(told) == pytest.approx(2.0)
    with pytest.raises(ClientError) as caught:
        tenant.invoke_endpoint(TargetModel="tenant-2/model.tar.gz", **asked)
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"


def test_what_takes_one_model_refuses_many(many: Many) -> None:
    sagemaker, name = many.clary.client("sagemaker"), f"r-{uuid.uuid4().hex[:10]}"
    model = many.model()
    with pytest.raises(ClientError, match="a transform job takes one model"):
        sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=model,
            TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/in"}}},
            TransformOutput={"S3OutputPath": f"s3://{BUCKET}/out"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )
    variant: dict[str, Any] = {"VariantName": "AllTraffic", "ModelName": model}
    with pytest.raises(ClientError, match="not supported for serverless"):
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[{**variant, "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1}}],
        )
    with pytest.raises(ClientError, match="InvokeEndpointAsync has no TargetModel"):
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[instance(model)],
            AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out"}},
        )


def test_a_shared_script_may_bring_packages_of_its_own(many: Many) -> None:
    script = """
import os
import humanize

def model_fn(model_dir):
    with open(os.path.join(model_dir, "number.txt")) as file:
        return int(file.read())

def transform_fn(model, body, content_type, accept):
    return humanize.intcomma(model), "text/csv"
"""
    source = many.clary.upload({"inference.py": script, "requirements.txt": "humanize==4.12.3\n"})
    own = Many(many.clary, environment={"SAGEMAKER_SUBMIT_DIRECTORY": source, "SAGEMAKER_PROGRAM": "inference.py"})
    name = own.endpoint()
    for number in (1000, 2000):  # they come when the worker is there already
        own.put(f"{number}.tar.gz", {"number.txt": str(number).encode()})
        assert own.invoke(name, f"{number}.tar.gz") == f"{number:,}"
    many.clary.delete(name)


SERVER = b"""#!/usr/bin/env python3
import http.server
import json
import os

MODELS = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/ping":
            self.answer(200)
        elif self.path == "/models":
            self.answer(200, json.dumps({"models": [{"modelName": name} for name in MODELS]}).encode())
        else:
            self.answer(200 if self.path.split("/")[2] in MODELS else 404)

    def do_DELETE(self):
        self.answer(200 if MODELS.pop(self.path.split("/")[2], None) else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/models":
            asked = json.loads(body)
            if asked["model_name"] in MODELS:
                self.answer(409)
            elif len(MODELS) == 2:
                self.answer(507)
            else:
                assert os.environ["SAGEMAKER_MULTI_MODEL"] == "true"
                with open(os.path.join(asked["url"], "word.txt")) as file:
                    MODELS[asked["model_name"]] = asked["url"], file.read()
                self.answer(200)
        else:
            model = MODELS.get(self.path.split("/")[2])
            target = self.headers["X-Amzn-SageMaker-Target-Model"]
            self.answer(*((200, f"{model[1]} {target} {len(MODELS)}".encode()) if model else (404,)))


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


def test_a_server_of_ones_own_speaks_the_api(many: Many) -> None:
    source = many.clary.upload({"serve": SERVER})
    own = Many(many.clary, "clary/command", {"SAGEMAKER_SUBMIT_DIRECTORY": source})
    words = ("one", "two", "six")
    for word in words:
        own.put(f"{word}.tar.gz", {"word.txt": word.encode()})
    name = own.endpoint()
    for count, word in ((1, "one"), (2, "two"), (2, "six"), (2, "one"), (2, "one")):
        assert own.invoke(name, f"{word}.tar.gz") == f"{word} {word}.tar.gz {count}"
    many.clary.delete(name)
