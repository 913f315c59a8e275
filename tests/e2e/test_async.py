"""Asynchronous inference with unmodified boto3: accepted, worked off, told; to zero and back."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import Clary, Trained, instance, wait_for

BUCKET = "async"


class Async:
    """Asynchronous endpoints on one clary."""

    def __init__(self, clary: Clary) -> None:
        self.clary = clary
        clary.client("s3").create_bucket(Bucket=BUCKET)

    def config(self, model: str, concurrent: int = 0, **output: Any) -> str:
        name = f"c-{uuid.uuid4().hex[:10]}"
        asked: dict[str, Any] = {
            "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out", "S3FailurePath": f"s3://{BUCKET}/bad", **output}
        }
        if concurrent:
            asked["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": concurrent}
        self.clary.client("sagemaker").create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[instance(model)], AsyncInferenceConfig=asked
        )
        return name

    def put(self, body: bytes | str, content_type: str = "text/csv") -> str:
        key = f"in/{uuid.uuid4().hex}"
        self.clary.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body, ContentType=content_type)
        return f"s3://{BUCKET}/{key}"

    def invoke(self, endpoint: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.clary.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName=endpoint, **request
        )
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
        return answer

    def object(self, uri: str) -> tuple[bytes, str] | None:
        """(content, its type); None while it is not there."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            found = self.clary.client("s3").get_object(Bucket=bucket, Key=key)
        except self.clary.client("s3").exceptions.NoSuchKey:
            return None
        return found["Body"].read(), found["ContentType"]

    def outcome(self, uri: str, limit_s: float = 30) -> tuple[bytes, str]:
        found: tuple[bytes, str] = wait_for(lambda: self.object(uri), limit_s, uri)
        return found


@pytest.fixture(scope="module")
def work(clary: Clary) -> Async:
    return Async(clary)


@pytest.fixture(scope="module")
def forest_endpoint(work: Async, forest_uri: str) -> str:
    return work.clary.endpoint(work.config(work.clary.model(forest_uri, "clary/sklearn")))


@pytest.fixture(scope="module")
def echo(work: Async, echo_files: dict[str, str]) -> str:
    model = work.clary.model(work.clary.upload(dict(echo_files)), "clary/sklearn")
    return work.clary.endpoint(work.config(model, concurrent=2))


def test_predictions_are_the_librarys_own(work: Async, forest_endpoint: str, forest: Trained) -> None:
    rows = forest.csv(20)
    told = work.invoke(forest_endpoint, InputLocation=work.put(rows), Accept="text/csv")
    assert told["OutputLocation"] == f"s3://{BUCKET}/out/{told['InferenceId']}.out"
    assert told["FailureLocation"] == f"s3://{BUCKET}/bad/{told['InferenceId']}-error.out"
    body, kind = work.outcome(told["OutputLocation"])
    assert kind.startswith("text/csv")
    expected = forest.estimator.predict(forest.rows[:20])
    assert [float(line) for line in body.decode().split()] == [float(value) for value in expected]
    assert work.object(told["FailureLocation"]) is None


def test_an_inline_body_and_names_of_the_callers_choice(work: Async, echo: str) -> None:
    told = work.invoke(
        echo,
        Body=b"hello you",
        ContentType="text/plain",
        InferenceId="mine-1",
        Filename="answer.txt",
        S3OutputPathExtension="day/one",
    )
    assert told["InferenceId"] == "mine-1"
    assert told["OutputLocation"] == f"s3://{BUCKET}/out/day/one/answer.txt"
    assert work.outcome(told["OutputLocation"])[0] == b"hello you"


def test_a_large_input_passes(work: Async, echo: str) -> None:
    body = b"x" * (32 << 20)
    told = work.invoke(echo, InputLocation=work.put(body, "text/plain"))
    assert work.outcome(told["OutputLocation"], 60)[0] == body


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"Body": b"raise broken", "ContentType": "text/plain"}, "broken"),
        ({"InputLocation": f"s3://{BUCKET}/no/such/key"}, "cannot be read"),
        (
            {"Body": b"sleep 30", "ContentType": "text/plain", "InvocationTimeoutSeconds": 1},
            "no answer within 1 s (InvocationTimeoutSeconds)",
        ),
        ({"Body": b"die 3", "ContentType": "text/plain"}, "has ended 3 processes"),
    ],
)
def test_what_cannot_be_done_ends_in_the_failure_object(
    work: Async, echo: str, request_: dict[str, Any], reason: str
) -> None:
    told = work.invoke(echo, **request_)
    body, _ = work.outcome(told["FailureLocation"], 60)
    assert reason in body.decode()
    assert work.object(told["OutputLocation"]) is None


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, "needs an InputLocation"),
        ({"InputLocation": f"s3://{BUCKET}/x", "Body": b"x"}, "exclude each other"),
        ({"InputLocation": "https://example.com/x"}, "is not s3://BUCKET/KEY"),
        ({"Body": b"x" * 128_001}, "less than or equal to 128000"),
    ],
)
def test_requests_that_are_none_are_refused(work: Async, echo: str, request_: dict[str, Any], text: str) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        work.invoke(echo, **request_)
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_each_kind_of_endpoint_takes_its_own_invocations(work: Async, echo: str, forest_uri: str) -> None:
    with pytest.raises(ClientError, match="only takes InvokeEndpointAsync"):
        work.clary.invoke(echo, "x", "text/plain")
    real_time = work.clary.endpoint(work.clary.config(instance(work.clary.model(forest_uri, "clary/sklearn"))))
    with pytest.raises(ClientError, match="use InvokeEndpoint instead"):
        work.invoke(real_time, Body=b"x")
    with pytest.raises(ClientError, match="not found"):
        work.invoke("nobody", Body=b"x")
    work.clary.delete(real_time)


def test_describe_tells_the_configuration(work: Async, echo: str) -> None:
    found = work.clary.client("sagemaker").describe_endpoint(EndpointName=echo)["AsyncInferenceConfig"]
    assert found == {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
        "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/out", "S3FailurePath": f"s3://{BUCKET}/bad"},
    }


def test_what_is_over_its_time_expires_and_what_waits_for_a_deleted_endpoint_fails(
    work: Async, echo_files: dict[str, str]
) -> None:
    model = work.clary.model(work.clary.upload(dict(echo_files)), "clary/sklearn")
    name = work.clary.endpoint(work.config(model, concurrent=1))
    first = work.invoke(name, Body=b"sleep 2", ContentType="text/plain")
    behind = [work.invoke(name, Body=b"sleep 2", ContentType="text/plain") for _ in range(8)]
    work.clary.client("sagemaker").delete_endpoint(EndpointName=name)
    failed = 0
    for told in [first, *behind]:
        both = [told["OutputLocation"], told["FailureLocation"]]
        wait_for(lambda both=both: any(work.object(uri) for uri in both), 60, str(both))
        failed += work.object(told["FailureLocation"]) is not None
    assert failed >= 5
    assert b"deleted" in work.outcome(behind[-1]["FailureLocation"])[0]


def test_to_zero_and_back_by_the_backlog(work: Async, echo_files: dict[str, str]) -> None:
    model = work.clary.model(work.clary.upload(dict(echo_files)), "clary/sklearn")
    name = work.clary.endpoint(work.config(model, concurrent=1), tags={"clary:keep-alive-s": "0.5"})
    scaling = work.clary.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=3)
    found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[target["ResourceId"]])
    assert [(one["MinCapacity"], one["MaxCapacity"]) for one in found["ScalableTargets"]] == [(0, 3)]
    sagemaker = work.clary.client("sagemaker")

    def count() -> int:
        found: int = sagemaker.describe_endpoint(EndpointName=name)["ProductionVariants"][0]["CurrentInstanceCount"]
        return found

    wait_for(lambda: not work.clary.workers(name), 30, "the variant to sleep")
    assert count() == 0
    told = [work.invoke(name, Body=b"sleep 1.5", ContentType="text/plain") for _ in range(6)]
    wait_for(lambda: count() == 3, 30, "three instances")
    for one in told:
        assert work.outcome(one["OutputLocation"], 60)[0] == b"sleep 1.5"
    wait_for(lambda: not work.clary.workers(name), 30, "the variant to sleep again")
    assert count() == 0
    scaling.deregister_scalable_target(**target)
    wait_for(lambda: count() == 1, 30, "its one instance")
    with pytest.raises(ClientError) as caught:
        scaling.deregister_scalable_target(**target)
    assert caught.value.response["Error"]["Code"] == "ObjectNotFoundException"


def test_without_signatures_a_body_is_taken_as_with_them(
    start_clary: Callable[..., Clary], echo_files: dict[str, str]
) -> None:
    unsigned = Async(start_clary("--no-auth", CLARY_ASYNC_QUEUE_LIMIT="1"))
    model = unsigned.clary.model(unsigned.clary.upload(dict(echo_files)), "clary/sklearn")
    name = unsigned.clary.endpoint(unsigned.config(model, concurrent=1))
    connection = http.client.HTTPConnection("127.0.0.1", unsigned.clary.port, timeout=30)

    def post(body: bytes) -> tuple[int, str]:
        headers = {"X-Amzn-SageMaker-Content-Type": "text/plain"}
        connection.request("POST", f"/endpoints/{name}/async-invocations", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("X-Amzn-SageMaker-OutputLocation", "")

    status, output = post(b"sleep 2")
    assert status == 202
    assert post(b"one more")[0] == 503
    assert unsigned.outcome(output)[0] == b"sleep 2"
    connection.close()
    unsigned.clary.down()


def test_a_full_queue_says_so_before_it_reads_a_body(
    start_clary: Callable[..., Clary], echo_files: dict[str, str]
) -> None:
    small = Async(start_clary(CLARY_ASYNC_QUEUE_LIMIT="3"))
    model = small.clary.model(small.clary.upload(dict(echo_files)), "clary/sklearn")
    name = small.clary.endpoint(small.config(model, concurrent=1))
    told = [small.invoke(name, Body=b"sleep 3", ContentType="text/plain") for _ in range(3)]
    with pytest.raises(ClientError, match="async_queue_limit") as caught:
        small.invoke(name, Body=b"one more", ContentType="text/plain")
    assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    small.outcome(told[-1]["OutputLocation"])
    small.outcome(small.invoke(name, Body=b"x", ContentType="text/plain")["OutputLocation"])
    small.clary.down()
