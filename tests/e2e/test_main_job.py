"""The main job with unmodified boto3: a trained model becomes an endpoint, answers, is updated, sleeps, wakes, goes."""

from __future__ import annotations

import concurrent.futures
import time

import numpy as np
import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, Trained, instance, serverless, wait_for

SKLEARN = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"


def predictions(answer: bytes) -> list[float]:
    return [float(word) for word in answer.decode().replace(",", "\n").split()]


def test_a_model_answers_with_the_librarys_own_predictions(clary: Clary, forest: Trained, forest_uri: str) -> None:
    model = clary.model(forest_uri, "clary/sklearn")
    name = clary.endpoint(clary.config(instance(model)))
    found = predictions(clary.invoke(name, forest.csv(150)))
    assert found == forest.estimator.predict(forest.rows[:150]).tolist()
    clary.delete(name)
    assert clary.workers(name) == []
    with pytest.raises(ClientError, match=f"Endpoint {name} of account 123456789012 not found"):
        clary.invoke(name, "1,2,3,4")


def test_describe_tells_what_runs(clary: Clary, forest_uri: str) -> None:
    model = clary.model(forest_uri, "clary/sklearn")
    name = clary.endpoint(clary.config(instance(model)), tags={"team": "a"})
    told = clary.client("sagemaker").describe_endpoint(EndpointName=name)
    assert told["EndpointStatus"] == "InService"
    variant = told["ProductionVariants"][0]
    assert variant["DeployedImages"][0]["SpecifiedImage"] == "clary/sklearn"
    assert (variant["CurrentWeight"], variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]) == (1.0, 1, 1)
    tags = clary.client("sagemaker").list_tags(ResourceArn=told["EndpointArn"])["Tags"]
    assert tags == [{"Key": "team", "Value": "a"}]
    clary.delete(name)


def test_serverless_goes_to_zero_and_wakes_for_the_request(clary: Clary, forest: Trained, forest_uri: str) -> None:
    model = clary.model(forest_uri, "clary/sklearn")
    name = clary.endpoint(clary.config(serverless(model)), tags={"clary:keep-alive-s": "0.5"})
    expected = forest.estimator.predict(forest.rows[:5]).tolist()
    assert predictions(clary.invoke(name, forest.csv())) == expected
    wait_for(lambda: not clary.workers(name), 10, "the idle worker to leave")
    assert predictions(clary.invoke(name, forest.csv())) == expected
    assert len(clary.workers(name)) == 1
    clary.run("park", name)
    wait_for(lambda: not clary.workers(name), 5, "the parked worker to leave")
    clary.delete(name)


def test_a_worker_parked_while_it_serves_leaves_after_its_answer(clary: Clary, echo_files: dict[str, str]) -> None:
    model = clary.model(clary.upload(dict(echo_files)), "clary/sklearn")
    name = clary.endpoint(clary.config(serverless(model)), tags={"clary:keep-alive-s": "600"})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(clary.invoke, name, "sleep 1", "text/plain")
        wait_for(lambda: clary.workers(name), 10, "a worker")
        time.sleep(0.3)
        clary.run("park", name)
        assert asked.result() == b"sleep 1"
    wait_for(lambda: not clary.workers(name), 5, "the parked worker to leave")
    clary.delete(name)


def test_a_real_time_variant_sleeps_when_its_tag_says_so(clary: Clary, forest: Trained, forest_uri: str) -> None:
    model = clary.model(forest_uri, "clary/sklearn")
    tags = {"clary:scale-to-zero": "true", "clary:keep-alive-s": "0.3"}
    name = clary.endpoint(clary.config(instance(model)), tags=tags)
    wait_for(lambda: not clary.workers(name), 10, "the idle workers to leave")
    assert predictions(clary.invoke(name, forest.csv(1))) == [0.0]
    clary.delete(name)


def test_serverless_refuses_at_exactly_max_concurrency(clary: Clary, echo_files: dict[str, str]) -> None:
    model = clary.model(clary.upload(dict(echo_files)), "clary/sklearn")
    name = clary.endpoint(clary.config(serverless(model, concurrency=2)))

    def one(_: int) -> str:
        try:
            return clary.invoke(name, "sleep 1", "text/plain").decode()
        except ClientError as error:
            return str(error.response["Error"]["Code"])

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(one, range(6)))
    assert answers == ["ThrottlingException"] * 4 + ["sleep 1"] * 2
    clary.delete(name)


def test_update_endpoint_loses_no_request(clary: Clary, echo_files: dict[str, str]) -> None:
    uri = clary.upload(dict(echo_files))
    configs = [clary.config(instance(clary.model(uri, "clary/sklearn"))) for _ in range(2)]
    name = clary.endpoint(configs[0])
    sagemaker = clary.client("sagemaker")
    runtime = clary.client("sagemaker-runtime")
    failed: list[str] = []
    served = [0]
    stop = time.monotonic() + 60

    def ask() -> None:
        while time.monotonic() < stop:
            try:
                runtime.invoke_endpoint(EndpointName=name, Body=b"x", ContentType="text/plain")["Body"].read()
                served[0] += 1
            except ClientError as error:
                failed.append(str(error))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for turn in range(6):
            sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=configs[(turn + 1) % 2])
            state = clary.settled(name)
            assert state["EndpointConfigName"] == configs[(turn + 1) % 2]
        stop = 0
        for future in asking:
            future.result()
    assert failed == []
    assert served[0] > 0
    clary.delete(name)


def test_weights_split_requests_and_target_variant_overrides(clary: Clary, echo_files: dict[str, str]) -> None:
    uri = clary.upload(dict(echo_files))
    a, b = (clary.model(uri, "clary/sklearn") for _ in range(2))
    name = clary.endpoint(clary.config(instance(a, "A", weight=1), instance(b, "B", weight=0)))
    runtime = clary.client("sagemaker-runtime")

    def variant(**options: str) -> str:
        answer = runtime.invoke_endpoint(EndpointName=name, Body=b"x", ContentType="text/plain", **options)
        return str(answer["InvokedProductionVariant"])

    assert {variant() for _ in range(20)} == {"A"}
    assert variant(TargetVariant="B") == "B"
    clary.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[
            {"VariantName": "A", "DesiredWeight": 1},
            {"VariantName": "B", "DesiredWeight": 1},
        ],
    )
    assert clary.settled(name)["ProductionVariants"][1]["CurrentWeight"] == 1.0
    assert {variant() for _ in range(60)} == {"A", "B"}
    with pytest.raises(ClientError, match="Variant C is not present"):
        variant(TargetVariant="C")
    clary.delete(name)


def test_script_errors_are_model_errors_with_the_original_status(clary: Clary, echo_files: dict[str, str]) -> None:
    name = clary.endpoint(clary.config(instance(clary.model(clary.upload(dict(echo_files)), "clary/sklearn"))))
    with pytest.raises(ClientError) as caught:
        clary.invoke(name, "raise too hot", "text/plain")
    answer = caught.value.response
    assert answer["Error"]["Code"] == "ModelError"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert answer["OriginalStatusCode"] == 500
    assert "too hot" in answer["OriginalMessage"]
    assert clary.invoke(name, "again", "text/plain") == b"again"
    clary.delete(name)


def test_regions_partition_names(clary: Clary, forest_uri: str) -> None:
    tokyo = clary.client("sagemaker", region="ap-northeast-1")
    here = clary.client("sagemaker")
    for client in (tokyo, here):
        client.create_model(
            ModelName="twin", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": SKLEARN, "ModelDataUrl": forest_uri}
        )
    assert ":ap-northeast-1:" in tokyo.describe_model(ModelName="twin")["ModelArn"]
    tokyo.delete_model(ModelName="twin")
    assert here.describe_model(ModelName="twin")["ModelName"] == "twin"
    here.delete_model(ModelName="twin")


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (lambda c: c.describe_endpoint(EndpointName="nope"), "ValidationException", "Could not find endpoint"),
        (lambda c: c.delete_model(ModelName="nope"), "ValidationException", "Could not find model"),
        (
            lambda c: c.create_endpoint(EndpointName="x", EndpointConfigName="nope"),
            "ValidationException",
            "Could not find endpoint configuration",
        ),
        (lambda c: c.create_model(ModelName="-bad-"), "ValidationException", "regular expression pattern"),
        (lambda c: c.list_clusters(), "UnsupportedOperation", "ListClusters"),
    ],
)
def test_refusals_speak_awss_words(clary: Clary, call: object, code: str, text: str) -> None:
    client = clary.client("sagemaker")
    with pytest.raises(ClientError) as caught:
        call(client)  # type: ignore[operator]
    assert caught.value.response["Error"]["Code"] == code
    assert text in caught.value.response["Error"]["Message"]


def test_npy_in_and_out(clary: Clary, forest: Trained, forest_uri: str) -> None:
    import io

    name = clary.endpoint(clary.config(instance(clary.model(forest_uri, "clary/sklearn"))))
    body = io.BytesIO()
    np.save(body, forest.rows[:7])
    answer = clary.invoke(name, body.getvalue(), "application/x-npy", Accept="application/x-npy")
    assert np.load(io.BytesIO(answer)).tolist() == forest.estimator.predict(forest.rows[:7]).tolist()
    clary.delete(name)
