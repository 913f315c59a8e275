"""Batch transform with unmodified boto3: real models, real objects, outputs compared with the library's own answers."""

from __future__ import annotations

import gzip
import io
import json
import struct
import time
import uuid
from typing import Any

import numpy as np
import pytest
import xgboost
from botocore.exceptions import ClientError
from conftest import Clary, Trained, wait_for

ENDED = ("Completed", "Failed", "Stopped")
ECHO = """
import json, os, time

def model_fn(model_dir):
    return {name: value for name, value in os.environ.items() if name.startswith("SAGEMAKER_")}

def transform_fn(model, body, content_type, accept):
    raw = body.encode() if isinstance(body, str) else bytes(body)
    if raw.startswith(b"sleep"):
        time.sleep(float(raw.split()[1]))
    if b"bad" in raw:
        raise ValueError("this record is bad")
    if raw == b"environment":
        return json.dumps(model), accept
    if raw == b"size":
        return str(len(raw)), accept
    if content_type == "application/x-measured":
        return "%d" % len(raw), accept
    return raw, accept
"""


class Bench:
    """A bucket, two models, and jobs in few words."""

    def __init__(self, clary: Clary, forest: Trained) -> None:
        self.clary = clary
        self.forest = forest
        self.sagemaker = clary.client("sagemaker")
        self.s3 = clary.client("s3")
        self.bucket = f"batch-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.model = clary.model(clary.upload(dict(forest.files)), "clary/sklearn")
        self.echo = clary.model(clary.upload({"code/inference.py": ECHO}), "clary/sklearn")

    def put(self, prefix: str, **objects: bytes | str) -> None:
        for name, body in objects.items():
            self.s3.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=body)

    def outputs(self, prefix: str) -> dict[str, bytes]:
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{prefix}/out/").get("Contents", [])
        return {
            one["Key"].removeprefix(f"{prefix}/out/"): self.s3.get_object(Bucket=self.bucket, Key=one["Key"])[
                "Body"
            ].read()
            for one in listed
        }

    def create(self, prefix: str, model: str, **members: Any) -> str:
        name = f"t-{uuid.uuid4().hex[:10]}"
        taken = {"ContentType": "text/csv", "SplitType": "Line", **members.pop("TransformInput", {})}
        source = taken.pop("source", {"S3DataType": "S3Prefix", "S3Uri": f"s3://{self.bucket}/{prefix}/in/"})
        given = {"AssembleWith": "Line", **members.pop("TransformOutput", {})}
        self.sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=model,
            TransformInput={"DataSource": {"S3DataSource": source}, **taken},
            TransformOutput={"S3OutputPath": f"s3://{self.bucket}/{prefix}/out", **given},
            TransformResources={
                "InstanceType": "ml.m5.large",
                "InstanceCount": 1,
                **members.pop("TransformResources", {}),
            },
            **members,
        )
        return name

    def ended(self, name: str, limit_s: float = 120) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            told: dict[str, Any] = self.sagemaker.describe_transform_job(TransformJobName=name)
            return told if told["TransformJobStatus"] in ENDED else None

        found: dict[str, Any] = wait_for(look, limit_s, f"the end of {name}")
        return found

    def run(self, prefix: str, model: str, **members: Any) -> dict[str, bytes]:
        """The outputs of a job that completes."""
        told = self.ended(self.create(prefix, model, **members))
        assert told["TransformJobStatus"] == "Completed", told
        return self.outputs(prefix)


@pytest.fixture(scope="module")
def bench(clary: Clary, forest: Trained) -> Bench:
    return Bench(clary, forest)


def rows(matrix: Any) -> str:
    return "".join(",".join(repr(float(x)) for x in row) + "\n" for row in matrix)


def numbers(body: bytes) -> list[float]:
    return [float(word) for word in body.split()]


def test_a_csv_becomes_the_librarys_predictions(bench: Bench) -> None:
    bench.put("one/in", **{"iris.csv": rows(bench.forest.rows), "deep/er.csv": rows(bench.forest.rows[:7])})
    found = bench.run("one", bench.model)
    expected = bench.forest.estimator.predict(bench.forest.rows).tolist()
    assert sorted(found) == ["deep/er.csv.out", "iris.csv.out"]
    assert numbers(found["iris.csv.out"]) == expected
    assert numbers(found["deep/er.csv.out"]) == expected[:7]


def test_xgboost_in_many_requests_and_the_waiter(bench: Bench) -> None:
    matrix = np.random.default_rng(5).normal(size=(40_000, 6))
    booster = xgboost.train({"max_depth": 3}, xgboost.DMatrix(matrix, label=matrix.sum(axis=1)), 10)
    model = bench.clary.model(bench.clary.upload({"xgboost-model": bytes(booster.save_raw("ubj"))}), "clary/xgboost")
    bench.put("xgb/in", **{"big.csv": rows(matrix)})
    name = bench.create("xgb", model, MaxPayloadInMB=1, MaxConcurrentTransforms=4, BatchStrategy="MultiRecord")
    bench.sagemaker.get_waiter("transform_job_completed_or_stopped").wait(
        TransformJobName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )
    found = np.array(numbers(bench.outputs("xgb")["big.csv.out"]), dtype=np.float32)
    np.testing.assert_array_equal(found, booster.predict(xgboost.DMatrix(matrix)))
    told = bench.ended(name)
    assert told["TransformStartTime"] <= told["TransformEndTime"]
    assert told["TransformInput"]["CompressionType"] == "None"
    assert told["TransformResources"] == {"InstanceType": "ml.m5.large", "InstanceCount": 1}
