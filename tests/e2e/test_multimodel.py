"""Multi-model endpoints with unmodified boto3: loaded when asked for, evicted by bytes, added and removed by object."""

from __future__ import annotations

import io
import json
import signal
import tarfile
import uuid
from typing import Any

import joblib
import numpy
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import ROLE, Clary, Trained, instance, signal_to, wait_for
from sklearn.linear_model import LinearRegression

BUCKET = "many"


def packed(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


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

    def endpoint(self, instance_type: str = "ml.m5.large", **container: Any) -> str:
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
        return self.clary.endpoint(self.clary.config({**instance(name), "InstanceType": instance_type}))

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
    signal_to(many.clary.ready(endpoint)[0]["pid"], signal.SIGKILL)

    def answers() -> bool:
        try:
            return float(many.invoke(endpoint, "tenant-1/model.tar.gz")) == pytest.approx(2.0)
        except ClientError:
            return False

    wait_for(answers, 30, "the model to be loaded again")


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
    """Models of 700 MB each, twice what an instance of 4 GiB holds: all answer, and the worker lives."""
    big = Many(many.clary)
    script = b"""
import numpy

def model_fn(model_dir):
    return numpy.ones(87_500_000)

def transform_fn(model, body, content_type, accept):
    return f"{model.nbytes}", "text/csv"
"""
    for number in range(10):
        big.put(f"{number}.tar.gz", {"code/inference.py": script})
    name = big.endpoint("ml.c5.large")
    pid = many.clary.ready(name)[0]["pid"]
    for target in [*range(10), 9, 0]:
        assert big.invoke(name, f"{target}.tar.gz") == "700000000"
    assert many.clary.ready(name)[0]["pid"] == pid
    held = {row["pid"]: row["models"] for row in json.loads(many.clary.run("ps", "--json").stdout) if "models" in row}
    assert 3 <= held[pid] <= 5
    many.clary.delete(name)


def test_without_cache_each_call_loads_and_lets_go(many: Many) -> None:
    name = many.endpoint(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    for number in (1, 2, 1):
        assert float(many.invoke(name, f"tenant-{number}/model.tar.gz")) == pytest.approx(2.0 * number)
    many.clary.delete(name)


def test_others_take_no_target(many: Many, forest_uri: str) -> None:
    single = many.clary.endpoint(many.clary.config(instance(many.clary.model(forest_uri, "clary/sklearn"))))
    with pytest.raises(ClientError, match="is not a multi-model endpoint and does not support target model header"):
        many.invoke(single, "x.tar.gz")
    many.clary.delete(single)
