"""awscli, unmodified, with what `clary env` prints: files in and out, a deployment, its answer, its log, its rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROLE, Clary, Trained, wait_for

# Exit codes of version 1: a service's refusal, and arguments that it cannot read (version 2 has 254 and 252).
REFUSED, MISUSED = 255, 2
AWS = str(Path(sys.executable).with_name("aws"))


@pytest.fixture(scope="module")
def aws(clary: Clary, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("home")
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "AWS_PAGER": "", **clary.environment()}

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [AWS, *arguments], env={**environ, **changed}, cwd=home, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="module")
def done(aws: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """A command that must end well; its JSON, or its text."""

    def run(*arguments: str, **changed: str) -> Any:
        ended = aws(*arguments, **changed)
        assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
        return json.loads(ended.stdout) if ended.stdout[:1] in ("{", "[") else ended.stdout

    return run


def test_s3_files_go_in_and_come_out(
    done: Callable[..., Any], aws: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    bucket = f"cli-{uuid.uuid4().hex[:8]}"
    there = tmp_path / "there"
    (there / "deep").mkdir(parents=True)
    (there / "small.txt").write_text("small")
    (there / "deep" / "big.bin").write_bytes(os.urandom(17 << 20))  # above 8 MB: parts up, ranges down
    assert "make_bucket" in done("s3", "mb", f"s3://{bucket}")
    assert bucket in done("s3", "ls")
    done("s3", "sync", "--quiet", str(there), f"s3://{bucket}/a")
    assert done("s3", "sync", str(there), f"s3://{bucket}/a") == ""  # nothing left to do
    listed = done("s3", "ls", "--recursive", f"s3://{bucket}/a")
    assert [line.split()[2:] for line in listed.splitlines()] == [
        [str(17 << 20), "a/deep/big.bin"],
        ["5", "a/small.txt"],
    ]
    back = tmp_path / "back"
    done("s3", "cp", "--quiet", "--recursive", f"s3://{bucket}/a", str(back))
    assert (back / "deep" / "big.bin").read_bytes() == (there / "deep" / "big.bin").read_bytes()
    assert done("s3", "cp", f"s3://{bucket}/a/small.txt", "-") == "small"
    done("s3", "mv", "--quiet", f"s3://{bucket}/a/small.txt", f"s3://{bucket}/b.txt")
    with urllib.request.urlopen(done("s3", "presign", f"s3://{bucket}/b.txt").strip()) as answer:
        assert answer.read() == b"small"
    late = done("s3", "presign", f"s3://{bucket}/b.txt").strip()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(late[:-4] + "0000")
    assert refused.value.code == 403
    (there / "small.txt").unlink()
    done("s3", "sync", "--quiet", "--delete", str(there), f"s3://{bucket}/a")
    missing = aws("s3", "cp", f"s3://{bucket}/nothing", "-")
    assert missing.returncode == 1
    assert "Not Found" in missing.stderr
    full = aws("s3", "rb", f"s3://{bucket}")
    assert full.returncode == 1
    assert "BucketNotEmpty" in full.stderr
    assert "remove_bucket" in done("s3", "rb", "--force", f"s3://{bucket}")
    gone = aws("s3", "ls", f"s3://{bucket}")
    assert gone.returncode == REFUSED
    assert "NoSuchBucket" in gone.stderr


def test_a_model_is_deployed_asked_and_removed(
    clary: Clary, forest: Trained, done: Callable[..., Any], tmp_path: Path
) -> None:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    script = f"import joblib\ndef model_fn(folder):\n    print('loading {name}')\n"
    script += "    return joblib.load(folder + '/model.joblib')\n"
    uri = clary.upload({**forest.files, "code/inference.py": script})
    container = json.dumps({"Image": "clary/sklearn", "ModelDataUrl": uri})
    model = done("sagemaker", "create-model", "--model-name", name, "--primary-container", container,
                 "--execution-role-arn", ROLE)  # fmt: skip
    assert model["ModelArn"].endswith(f":model/{name}")
    variant = f"VariantName=AllTraffic,ModelName={name},InstanceType=ml.m5.large,InitialInstanceCount=1"
    done("sagemaker", "create-endpoint-config", "--endpoint-config-name", name, "--production-variants", variant)
    done("sagemaker", "create-endpoint", "--endpoint-name", name, "--endpoint-config-name", name,
         "--tags", "Key=team,Value=cli")  # fmt: skip
    clary.settled(name)  # the command's waiter looks every 30 s, and this may be the first endpoint of its framework
    assert done("sagemaker", "wait", "endpoint-in-service", "--endpoint-name", name) == ""
    (tmp_path / "rows.csv").write_text(forest.csv(9))
    out = tmp_path / "answer.txt"
    told = done("sagemaker-runtime", "invoke-endpoint", "--endpoint-name", name, "--content-type", "text/csv",
                "--body", f"fileb://{tmp_path / 'rows.csv'}", str(out))  # fmt: skip
    assert told["InvokedProductionVariant"] == "AllTraffic"
    assert [float(x) for x in out.read_text().split()] == forest.estimator.predict(forest.rows[:9]).tolist()
    group = f"/aws/sagemaker/Endpoints/{name}"
    listed = ("logs", "describe-log-groups", "--log-group-name-prefix", group, "--query", "logGroups")
    wait_for(lambda: done(*listed), 20, "the log group")
    stream = done("logs", "describe-log-streams", "--log-group-name", group)["logStreams"][0]["logStreamName"]
    assert stream.startswith("AllTraffic/")
    events = done("logs", "get-log-events", "--log-group-name", group, "--log-stream-name", stream)["events"]
    assert f"loading {name}" in [event["message"] for event in events]
    query = "Endpoints[0].[EndpointName,EndpointStatus]"
    listed = done("sagemaker", "list-endpoints", "--name-contains", name, "--query", query, "--output", "text")
    assert listed.split() == [name, "InService"]
    for command, flag in (
        ("delete-endpoint", "--endpoint-name"),
        ("delete-endpoint-config", "--endpoint-config-name"),
        ("delete-model", "--model-name"),
    ):
        assert done("sagemaker", command, flag, name) == ""
    assert done("sagemaker", "wait", "endpoint-deleted", "--endpoint-name", name) == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sagemaker", "describe-endpoint", "--endpoint-name", "nope"), REFUSED, "(ValidationException)"),
        (("sagemaker", "describe-endpoint", "--endpoint-name", "nope"), REFUSED, 'Could not find endpoint "arn:aws:'),
        (("sagemaker", "create-model", "--model-name", "x"), REFUSED, "A model needs a PrimaryContainer"),
        (("sagemaker", "list-clusters"), REFUSED, "ListClusters"),
        (("sagemaker", "describe-endpoint"), MISUSED, "--endpoint-name"),
        (("iam", "get-role", "--role-name", "nope"), REFUSED, "(NoSuchEntity)"),
        (
            ("sagemaker-runtime", "invoke-endpoint", "--endpoint-name", "nope", "--body", "MQ==", "/dev/null"),
            REFUSED,
            "Endpoint nope of account 123456789012 not found",
        ),
    ],
)
def test_refusals_come_with_awss_exit_codes_and_words(
    aws: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], code: int, words: str
) -> None:
    ended = aws(*arguments)
    assert ended.returncode == code, ended
    assert words in ended.stderr


def test_who_am_i_and_what_may_i(
    aws: Callable[..., subprocess.CompletedProcess[str]], done: Callable[..., Any]
) -> None:
    assert done("sts", "get-caller-identity")["Arn"] == "arn:aws:iam::123456789012:user/clary-admin"
    assert done("iam", "get-role", "--role-name", "clary-execution-role")["Role"]["Arn"] == ROLE
    user = f"cli-{uuid.uuid4().hex[:8]}"
    done("iam", "create-user", "--user-name", user)
    done("iam", "attach-user-policy", "--user-name", user, "--policy-arn",
         "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")  # fmt: skip
    key = done("iam", "create-access-key", "--user-name", user)["AccessKey"]
    theirs = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    assert done("sts", "get-caller-identity", **theirs)["Arn"].endswith(f":user/{user}")
    done("s3", "ls", **theirs)
    refused = aws("s3", "mb", f"s3://{user}", **theirs)
    assert refused.returncode == 1
    assert "AccessDenied" in refused.stderr
    refused = aws("sagemaker", "list-models", **theirs)
    assert refused.returncode == REFUSED
    assert "(AccessDeniedException)" in refused.stderr
    wrong = aws("sts", "get-caller-identity", **(theirs | {"AWS_SECRET_ACCESS_KEY": "x"}))
    assert wrong.returncode == REFUSED
    assert "(SignatureDoesNotMatch)" in wrong.stderr
    unknown = aws("s3", "ls", **(theirs | {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN123456789"}))
    assert unknown.returncode == REFUSED
    assert "clary env" in unknown.stderr


def test_cloudwatch_keeps_numbers(done: Callable[..., Any]) -> None:
    place = f"cli-{uuid.uuid4().hex[:8]}"
    done("cloudwatch", "put-metric-data", "--namespace", place, "--metric-name", "Score", "--value", "0.5")
    found = wait_for(lambda: done("cloudwatch", "list-metrics", "--namespace", place)["Metrics"], 20, "the metric")
    assert [metric["MetricName"] for metric in found] == ["Score"]
