"""Batch transform with unmodified boto3: real models, real objects, outputs compared with the library's own answers."""

from __future__ import annotations

import gzip
import json
import re
import struct
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


# -- splits, strategies, assembling, inputs -------------------------------------------------------------


def test_quoted_line_ends_stay_inside_their_record(bench: Bench) -> None:
    body = b'a,"two\nlines"\nb,"one"\nc,"say ""hi"""\n'
    bench.put("quoted/in", **{"x.csv": body})
    for strategy in ("SingleRecord", "MultiRecord"):
        found = bench.run("quoted", bench.echo, BatchStrategy=strategy)
        assert found == {"x.csv.out": body}
    found = bench.run(
        "quoted",
        bench.echo,
        BatchStrategy="SingleRecord",
        TransformInput={"ContentType": "application/x-measured"},  # not CSV: every line feed ends a record
    )
    assert found == {"x.csv.out": b"6\n6\n7\n14\n"}


def test_whole_objects_gzip_and_no_assembling(bench: Bench) -> None:
    bench.put("whole/in", **{"a": b"line 1\nline 2", "b": b"", "c.gz": b"no gzip"})
    found = bench.run(
        "whole",
        bench.echo,
        TransformInput={"SplitType": "None", "ContentType": "text/plain"},
        TransformOutput={"AssembleWith": "None"},
    )
    assert found == {"a.out": b"line 1\nline 2", "b.out": b"", "c.gz.out": b"no gzip"}
    lines = "".join(f"{n}\n" for n in range(5000)).encode()
    packed = gzip.compress(lines[:7000]) + gzip.compress(lines[7000:])
    bench.put("packed/in", **{"n.csv.gz": packed})
    found = bench.run("packed", bench.echo, TransformInput={"CompressionType": "Gzip"})
    assert found == {"n.csv.gz.out": lines}
    told = bench.ended(bench.create("whole", bench.echo, TransformInput={"CompressionType": "Gzip"}))
    assert told["TransformJobStatus"] == "Failed"
    assert "2 of 3 objects failed" in told["FailureReason"]
    assert f"s3://{bench.bucket}/whole/in/a: it is no whole gzip" in told["FailureReason"]


def test_record_io_and_tf_record(bench: Bench) -> None:
    payloads = [b"x" * size for size in (1, 4, 30, 0, 7)]
    record_io = b"".join(struct.pack("<II", 0xCED7230A, len(one)) + one + b"\0" * (-len(one) % 4) for one in payloads)
    tf_record = b"".join(struct.pack("<QI", len(one), 0) + one + b"crc4" for one in payloads)
    bench.put("frames/in", r=record_io)
    bench.put("tf/in", r=tf_record)
    for prefix, split, body in (("frames", "RecordIO", record_io), ("tf", "TFRecord", tf_record)):
        taken = {"SplitType": split, "ContentType": "application/x-frames"}
        plain = {"AssembleWith": "None"}
        found = bench.run(prefix, bench.echo, BatchStrategy="MultiRecord", TransformInput=taken, TransformOutput=plain)
        assert found == {"r.out": body}
        found = bench.run(prefix, bench.echo, BatchStrategy="SingleRecord", TransformInput=taken, TransformOutput=plain)
        assert found == {"r.out": b"".join(payloads)}


def test_a_manifest_and_several_instances(bench: Bench) -> None:
    bench.put("listed/in", **{f"{n}.csv": f"{n}\n" for n in range(9)})
    manifest = [{"prefix": f"s3://{bench.bucket}/listed/in/"}, *(f"{n}.csv" for n in range(7))]
    bench.put("listed", **{"manifest.json": json.dumps(manifest)})
    found = bench.run(
        "listed",
        bench.echo,
        TransformInput={"source": {"S3DataType": "ManifestFile", "S3Uri": f"s3://{bench.bucket}/listed/manifest.json"}},
        TransformResources={"InstanceCount": 2},
    )
    assert found == {f"{n}.csv.out": f"{n}\n".encode() for n in range(7)}


def test_no_limit_sends_the_whole_object_in_chunks(bench: Bench) -> None:
    body = b"".join(b"%d\n" % n for n in range(1_000_000))
    bench.put("unlimited/in", **{"n.csv": body})
    found = bench.run("unlimited", bench.echo, MaxPayloadInMB=0, BatchStrategy="MultiRecord")
    assert found == {"n.csv.out": body}


def test_the_container_is_told_what_the_caller_set(bench: Bench) -> None:
    bench.put("told/in", x=b"environment")
    taken = {"SplitType": "None", "ContentType": "text/plain"}
    plain = bench.run("told", bench.echo, TransformInput=taken, Environment={"SAGEMAKER_MINE": "yes"})
    told = json.loads(plain["x.out"])
    assert told["SAGEMAKER_BATCH"] == "true"
    assert told["SAGEMAKER_MINE"] == "yes"
    assert not {"SAGEMAKER_MAX_PAYLOAD_IN_MB", "SAGEMAKER_BATCH_STRATEGY"} & told.keys()
    asked = {"MaxPayloadInMB": 3, "BatchStrategy": "SingleRecord", "MaxConcurrentTransforms": 2}
    told = json.loads(bench.run("told", bench.echo, TransformInput=taken, **asked)["x.out"])
    assert told["SAGEMAKER_MAX_PAYLOAD_IN_MB"] == "3"
    assert told["SAGEMAKER_BATCH_STRATEGY"] == "SINGLE_RECORD"
    assert told["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] == "2"


# -- filters and joins -----------------------------------------------------------------------------------


def test_an_id_is_kept_from_the_model_and_joined_to_its_prediction(bench: Bench) -> None:
    forest = bench.forest
    lines = [f'"id ""{n}""",' + line for n, line in enumerate(rows(forest.rows[:60]).splitlines())]
    bench.put("joined/in", **{"iris.csv": "\n".join(lines)})
    found = bench.run(
        "joined",
        bench.model,
        TransformOutput={"Accept": "text/csv"},
        DataProcessing={"InputFilter": "$[1:]", "OutputFilter": "$[0,-1]", "JoinSource": "Input"},
    )
    expected = forest.estimator.predict(forest.rows[:60]).tolist()
    got = [line.rpartition(",") for line in found["iris.csv.out"].decode().splitlines()]
    assert [one[0] for one in got] == [f'"id ""{n}"""' for n in range(60)]
    assert [float(one[2]) for one in got] == expected


def test_json_lines_are_joined_line_by_line(bench: Bench) -> None:
    forest = bench.forest
    lines = [json.dumps({"id": n, "features": row.tolist()}) for n, row in enumerate(forest.rows[:20])]
    bench.put("jsonl/in", **{"iris.jsonl": "\n".join(lines) + "\n"})
    found = bench.run(
        "jsonl",
        bench.model,
        TransformInput={"ContentType": "application/jsonlines"},
        DataProcessing={
            "InputFilter": "$.features",
            "JoinSource": "Input",
            "OutputFilter": "$['id','SageMakerOutput']",
        },
    )
    got = [json.loads(line) for line in found["iris.jsonl.out"].splitlines()]
    expected = forest.estimator.predict(forest.rows[:20]).tolist()
    assert got == [{"id": n, "SageMakerOutput": one} for n, one in enumerate(expected)]


# -- what goes wrong, lists, stops -----------------------------------------------------------------------


def test_a_bad_record_fails_the_job_and_names_object_and_line(bench: Bench) -> None:
    lines = [f"{n}\n" for n in range(1000)]
    lines[717] = "a bad one\n"
    bench.put("bad/in", **{"good.csv": "1\n2\n", "worse.csv": "".join(lines)})
    name = bench.create("bad", bench.echo, ModelClientConfig={"InvocationsMaxRetries": 0})
    told = bench.ended(name)
    assert told["TransformJobStatus"] == "Failed"
    assert "See job logs" in told["FailureReason"]
    assert f"s3://{bench.bucket}/bad/in/worse.csv line 718: the model answered 500" in told["FailureReason"]
    assert "this record is bad" in told["FailureReason"]
    assert bench.outputs("bad") == {"good.csv.out": b"1\n2\n"}

    def logged() -> bool:
        logs = bench.clary.client("logs")
        try:
            events = logs.filter_log_events(logGroupName="/aws/sagemaker/TransformJobs", logStreamNamePrefix=f"{name}/")
        except ClientError:
            return False
        return any("worse.csv line 718" in one["message"] for one in events["events"])

    wait_for(logged, 20, "the reason in the job's log")


def test_stop_keeps_what_is_whole_and_nothing_else(bench: Bench) -> None:
    bench.put("stop/in", **{"1.csv": "1\n", "2.csv": "sleep 60\n", "3.csv": "3\n"})
    name = bench.create("stop", bench.echo, MaxConcurrentTransforms=1)
    wait_for(lambda: bench.outputs("stop"), 60, "the first output")
    bench.sagemaker.stop_transform_job(TransformJobName=name)
    told = bench.ended(name, 30)
    assert told["TransformJobStatus"] == "Stopped"
    assert bench.outputs("stop") == {"1.csv.out": b"1\n"}
    with pytest.raises(ClientError, match="rejected because the transform job is in status Stopped"):
        bench.sagemaker.stop_transform_job(TransformJobName=name)
    fleet = f"transform-job:{name}"
    wait_for(lambda: not bench.clary.workers(fleet), 20, "its workers to leave")
    wait_for(lambda: not list((bench.clary.data / "transforms").iterdir()), 20, "its folder to go")


def test_jobs_are_listed_filtered_and_sorted_and_tagged(bench: Bench) -> None:
    bench.put("some/in", **{"x.csv": "1\n"})
    mark = uuid.uuid4().hex[:6]
    names = []
    for letter in "cab":
        name = f"{letter}-{mark}"
        bench.sagemaker.create_transform_job(
            TransformJobName=name,
            ModelName=bench.echo,
            TransformInput={
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"s3://{bench.bucket}/{'none' if letter == 'a' else 'some/in'}/",
                    }
                }
            },
            TransformOutput={"S3OutputPath": f"s3://{bench.bucket}/some/out"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
            Tags=[{"Key": "team", "Value": letter}],
        )
        names.append(name)
    states = {name[0]: bench.ended(name) for name in names}
    assert states["a"]["TransformJobStatus"] == "Failed"
    assert "No S3 objects found under S3 URL" in states["a"]["FailureReason"]

    def listed(**query: Any) -> list[str]:
        pages = bench.sagemaker.get_paginator("list_transform_jobs").paginate(NameContains=mark, MaxResults=2, **query)
        return [one["TransformJobName"][0] for page in pages for one in page["TransformJobSummaries"]]

    assert listed(SortBy="Name", SortOrder="Ascending") == ["a", "b", "c"]
    assert listed(SortBy="CreationTime", SortOrder="Ascending") == ["c", "a", "b"]
    assert listed() == ["b", "a", "c"]
    assert listed(SortBy="Status", SortOrder="Descending")[0] == "a"
    assert listed(StatusEquals="Failed") == ["a"]
    assert listed(CreationTimeAfter=states["b"]["CreationTime"]) == ["b"]
    tags = bench.sagemaker.list_tags(ResourceArn=states["b"]["TransformJobArn"])["Tags"]
    assert tags == [{"Key": "team", "Value": "b"}]
    with pytest.raises(ClientError, match="a transform job with this name already exists") as caught:
        bench.sagemaker.create_transform_job(
            TransformJobName=f"a-{mark}",
            ModelName=bench.echo,
            TransformInput={"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://x/y"}}},
            TransformOutput={"S3OutputPath": "s3://x/z"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"


def test_capture_leaves_manifests_of_inputs_and_outputs(bench: Bench) -> None:
    bench.put("captured/in", **{"a.csv": "1\n", "deep/b.csv": "2\n"})
    place = f"s3://{bench.bucket}/captured/seen/"
    bench.run("captured", bench.echo, DataCaptureConfig={"DestinationS3Uri": place})
    listed = bench.s3.list_objects_v2(Bucket=bench.bucket, Prefix="captured/seen/")["Contents"]
    found = {}
    for one in listed:
        kind, *hour, name = one["Key"].removeprefix("captured/seen/").split("/")
        assert re.fullmatch(r"\d{4}/\d\d/\d\d/\d\d", "/".join(hour))
        assert name.endswith(".json")
        found[kind] = json.loads(bench.s3.get_object(Bucket=bench.bucket, Key=one["Key"])["Body"].read())
    assert found == {
        "input": [{"prefix": f"s3://{bench.bucket}/captured/in/"}, "a.csv", "deep/b.csv"],
        "output": [{"prefix": f"s3://{bench.bucket}/captured/out/"}, "a.csv.out", "deep/b.csv.out"],
    }
    gone = bench.ended(bench.create("captured", bench.echo, DataCaptureConfig={"DestinationS3Uri": "s3://no-such/x"}))
    assert gone["TransformJobStatus"] == "Failed"
    assert "DestinationS3Uri does not exist" in gone["FailureReason"]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"MaxPayloadInMB": 101}, "larger than 100"),
        ({"MaxPayloadInMB": 60, "MaxConcurrentTransforms": 2}, "larger than 100"),
        ({"DataCaptureConfig": {"DestinationS3Uri": "s3://x/y", "KmsKeyId": "k"}}, "KmsKeyId is not supported"),
        ({"DataCaptureConfig": {"DestinationS3Uri": "https://x/y"}}, "only s3:// URIs"),
        (
            {"DataCaptureConfig": {"DestinationS3Uri": "s3://x/y", "GenerateInferenceId": True}},
            "GenerateInferenceId is not supported",
        ),
        ({"TransformOutput": {"KmsKeyId": "k"}}, "KmsKeyId is not supported"),
        ({"TransformResources": {"VolumeKmsKeyId": "k"}}, "VolumeKmsKeyId is not supported"),
        ({"TransformResources": {"InstanceType": "ml.m4.xlarge"}}, "price catalogue"),
        ({"DataProcessing": {"InputFilter": "$.a"}}, "CSV rows are arrays"),
        ({"DataProcessing": {"InputFilter": "nope"}}, "must begin with"),
        ({"DataProcessing": {"JoinSource": "Input"}, "TransformInput": {"ContentType": "image/png"}}, "ContentType of"),
        ({"DataProcessing": {"JoinSource": "Input"}, "TransformOutput": {"AssembleWith": "None"}}, "AssembleWith must"),
        ({"DataProcessing": {"JoinSource": "Input"}, "MaxPayloadInMB": 0}, "MaxPayloadInMB 0"),
        (
            {"TransformInput": {"source": {"S3DataType": "AugmentedManifestFile", "S3Uri": "s3://a/b"}}},
            "AugmentedManifestFile is not allowed",
        ),
        ({"model": "surely-not"}, "Could not find model"),
    ],
)
def test_what_does_not_go_together_is_refused(bench: Bench, members: dict[str, Any], why: str) -> None:
    members = dict(members)
    with pytest.raises(ClientError, match=why):
        bench.create("none", members.pop("model", bench.echo), **members)
    with pytest.raises(ClientError, match="Could not find requested job with name: nope"):
        bench.sagemaker.describe_transform_job(TransformJobName="nope")


def test_a_model_that_cannot_start_fails_the_job_with_its_reason(bench: Bench) -> None:
    script = "def model_fn(d):\n    raise RuntimeError('too cold')"
    broken = bench.clary.model(bench.clary.upload({"code/inference.py": script}), "clary/sklearn")
    bench.put("cold/in", **{"x.csv": "1\n"})
    told = bench.ended(bench.create("cold", broken))
    assert told["TransformJobStatus"] == "Failed"
    assert "did not pass the ping health check" in told["FailureReason"]
    assert "too cold" in told["FailureReason"]
    assert bench.outputs("cold") == {}


def test_jobs_costs_and_logs_are_told(bench: Bench) -> None:
    bench.put("shown/in", **{"x.csv": rows(bench.forest.rows)})
    name = bench.create("shown", bench.model)
    bench.ended(name)
    wait_for(lambda: not bench.clary.workers(f"transform-job:{name}"), 20, "its workers to leave")
    told = json.loads(bench.clary.run("jobs", "--json", "--last", "0").stdout)
    mine = next(one for one in told if one["job"] == name)
    assert (mine["status"], mine["objects"], mine["objects_done"], mine["records"]) == ("Completed", 1, 1, 150)
    assert name in bench.clary.run("jobs").stdout
    assert "no transform job runs" in bench.clary.run("jobs", "--running").stdout
    costs = json.loads(bench.clary.run("cost", "--json").stdout)["sums"]
    cost = next(one for one in costs if one["endpoint"] == f"transform-job:{name}")
    assert (cost["meter"], cost["instance_type"]) == ("instance", "ml.m5.large")
    assert cost["quantity"] == _lived_ns(bench.clary, name)
    assert cost["nanousd"] == cost["quantity"] * 115_000_000 // (3600 * 10**9)  # 0.115 USD an hour
    assert json.loads(bench.clary.run("cost", "--verify", "--json").stdout)["exact"]

    def logged() -> str:
        return bench.clary.run("logs", "--job", name, check=False).stdout

    wait_for(lambda: "MaxPayloadInMB=6, BatchStrategy=MULTI_RECORD" in logged(), 20, "the job's log")


def _lived_ns(clary: Clary, job: str) -> int:
    """How long the job's one instance lived by the supervisor's journal: first start to last exit."""
    lines = (clary.data / "journal" / "workers.jsonl").read_text().splitlines()
    mine = [one for one in map(json.loads, lines) if f"transform-job:{job}/" in one.get("fleet", "")]
    starts = [one["at_ns"] for one in mine if one["event"] == "started"]
    return max(int(one["at_ns"]) for one in mine if one["event"] == "exited") - min(starts)
