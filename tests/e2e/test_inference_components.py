"""Inference components with unmodified boto3: several models on one endpoint's instances, copies, room, to zero."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm
import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, Trained, signal_to, wait_for

GIB = 1024


class Components:
    """Inference components on one clary."""

    def __init__(self, clary: Clary) -> None:
        self.clary = clary
        self.api = clary.client("sagemaker")

    def config(self, count: int = 1, kind: str = "ml.m5.large", **extra: Any) -> str:
        name = f"c-{uuid.uuid4().hex[:10]}"
        variant = {"VariantName": "host", "InstanceType": kind, "InitialInstanceCount": count, **extra}
        self.api.create_endpoint_config(EndpointConfigName=name, ExecutionRoleArn=ROLE, ProductionVariants=[variant])
        return name

    def endpoint(self, count: int = 1, **extra: Any) -> str:
        return self.clary.endpoint(self.config(count, **extra))

    def create(
        self,
        endpoint: str,
        model: str,
        copies: int = 1,
        memory: int = GIB,
        tags: dict[str, str] | None = None,
        **needs: Any,
    ) -> str:
        name = f"ic-{uuid.uuid4().hex[:10]}"
        self.api.create_inference_component(
            InferenceComponentName=name,
            EndpointName=endpoint,
            VariantName="host",
            Specification={
                "ModelName": model,
                "ComputeResourceRequirements": {"MinMemoryRequiredInMb": memory, **needs},
            },
            RuntimeConfig={"CopyCount": copies},
            Tags=[{"Key": key, "Value": value} for key, value in (tags or {}).items()],
        )
        return name

    def describe(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.describe_inference_component(InferenceComponentName=name)
        return found

    def settled(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.describe(name)
            return None if found["InferenceComponentStatus"] in ("Creating", "Updating") else found

        found: dict[str, Any] = wait_for(look, 60, f"{name} to settle")
        return found

    def in_service(self, name: str) -> dict[str, Any]:
        found = self.settled(name)
        assert found["InferenceComponentStatus"] == "InService", found
        assert "FailureReason" not in found
        return found

    def gone(self, name: str) -> bool:
        listed = self.api.list_inference_components(NameContains=name)["InferenceComponents"]
        return not listed and not self.workers(name)

    def workers(self, name: str) -> list[dict[str, Any]]:
        return self.clary.workers(f"inference-component:{name}")

    def invoke(self, endpoint: str, component: str, body: bytes | str, content_type: str = "text/csv") -> bytes:
        return self.clary.invoke(endpoint, body, content_type, InferenceComponentName=component)


@pytest.fixture
def components(clary: Clary) -> Components:
    return Components(clary)


@pytest.fixture
def echo(clary: Clary, echo_files: dict[str, str]) -> str:
    return clary.model(clary.upload(dict(echo_files)), "clary/sklearn")


def floats(answer: bytes) -> list[float]:
    return [float(word) for word in answer.decode().replace(",", "\n").split()]


def verified(clary: Clary) -> None:
    told = clary.run("cost", "--verify", "--json", check=False)
    assert json.loads(told.stdout)["exact"], told.stdout


def test_two_models_share_an_instance_that_is_billed_once(
    components: Components, clary: Clary, forest: Trained
) -> None:
    endpoint = components.endpoint()
    bst = lightgbm.train(
        {"objective": "regression", "verbose": -1}, lightgbm.Dataset(forest.rows, forest.rows[:, 0]), 5
    )
    trees = components.create(
        endpoint, clary.model(clary.upload(forest.files), "clary/sklearn"), NumberOfCpuCoresRequired=0.5
    )
    boosted = components.create(
        endpoint,
        clary.model(clary.upload({"model.txt": bst.model_to_string()}), "clary/lightgbm"),
        NumberOfCpuCoresRequired=1.5,
    )
    told = components.in_service(trees)
    components.in_service(boosted)
    assert told["EndpointName"] == endpoint
    assert told["VariantName"] == "host"
    assert told["RuntimeConfig"] == {"DesiredCopyCount": 1, "CurrentCopyCount": 1}
    assert told["Specification"]["ComputeResourceRequirements"] == {
        "NumberOfCpuCoresRequired": 0.5,
        "MinMemoryRequiredInMb": GIB,
    }
    for _ in range(3):
        answer = floats(components.invoke(endpoint, trees, forest.csv()))
        assert answer == forest.estimator.predict(forest.rows[:5]).tolist()
        assert floats(components.invoke(endpoint, boosted, forest.csv())) == bst.predict(forest.rows[:5]).tolist()
    described = clary.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    assert [one["VariantName"] for one in described["ProductionVariants"]] == ["host"]
    assert described["ProductionVariants"][0]["CurrentInstanceCount"] == 1
    listed = clary.client("sagemaker").list_inference_components(EndpointNameEquals=endpoint)["InferenceComponents"]
    assert {one["InferenceComponentName"] for one in listed} == {trees, boosted}
    for victim in components.workers(trees):
        signal_to(victim["pid"], signal.SIGKILL)
    assert len(floats(components.invoke(endpoint, trees, forest.csv()))) == 5
    clary.delete(endpoint)  # and its components with it
    wait_for(lambda: components.gone(trees) and components.gone(boosted), 30, "the components to go")
    verified(clary)
    sums = [
        one
        for one in json.loads(clary.run("cost", "--json").stdout)["sums"]
        if one["endpoint"] in (endpoint, f"inference-component:{trees}", f"inference-component:{boosted}")
    ]
    assert [one["endpoint"] for one in sums] == [endpoint], "two components cost what one instance costs"


def test_requests_must_name_a_component_that_is_there(components: Components, clary: Clary, echo: str) -> None:
    endpoint = components.endpoint()
    name = components.create(endpoint, echo)
    components.in_service(name)
    assert components.invoke(endpoint, name, "x", "text/plain") == b"x"
    components.invoke(endpoint, name, "print 1", "text/plain")
    logs, group = clary.client("logs"), f"/aws/sagemaker/InferenceComponents/{name}"
    found = wait_for(lambda: logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"], 20, "its log group")
    assert [one["logGroupName"] for one in found] == [group]
    for options, text in (
        ({}, "Inference Component Name header is required"),
        ({"InferenceComponentName": "other"}, "other"),
        ({"InferenceComponentName": name, "TargetVariant": "another"}, "another"),
        ({"InferenceComponentName": name, "TargetModel": "m.tar.gz"}, "target model header"),
    ):
        with pytest.raises(ClientError, match=text) as refused:
            clary.invoke(endpoint, "x", "text/plain", **options)
        assert refused.value.response["Error"]["Code"] == "ValidationError"
    plain = clary.endpoint(
        clary.config({"VariantName": "v", "ModelName": echo, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1})
    )
    with pytest.raises(ClientError, match="has no inference components"):
        components.invoke(plain, name, "x")
    with pytest.raises(ClientError, match="models of its own"):
        components.create(plain, echo)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        components.create("nowhere", echo)
    with pytest.raises(ClientError, match="Could not find model"):
        components.create(endpoint, "nothing")
    with pytest.raises(ClientError, match="already existing inference component"):
        clary.client("sagemaker").create_inference_component(
            InferenceComponentName=name,
            EndpointName=endpoint,
            Specification={"ModelName": echo, "ComputeResourceRequirements": {"MinMemoryRequiredInMb": 128}},
            RuntimeConfig={"CopyCount": 1},
        )
    clary.delete(plain)
    clary.delete(endpoint)


def test_what_does_not_fit_is_refused_with_figures_and_the_rest_goes_on(
    components: Components, clary: Clary, echo: str
) -> None:
    endpoint = components.endpoint(count=2)  # of 8 GiB each
    big = components.create(endpoint, echo, copies=2, memory=5 * GIB)
    components.in_service(big)
    assert {one["instance"] for one in components.workers(big)} == {0, 1}
    small = components.create(endpoint, echo, memory=4 * GIB)
    failed = components.settled(small)
    assert failed["InferenceComponentStatus"] == "Failed"
    assert "There is not enough hardware resources" in failed["FailureReason"]
    assert "3072 MB are the most that is free" in failed["FailureReason"]
    api = clary.client("sagemaker")
    api.update_inference_component_runtime_config(InferenceComponentName=big, DesiredRuntimeConfig={"CopyCount": 1})
    assert components.in_service(big)["RuntimeConfig"]["DesiredCopyCount"] == 1
    wait_for(lambda: len({w["instance"] for w in components.workers(big)}) == 1, 20, "one copy to go")
    api.delete_inference_component(InferenceComponentName=small)
    wait_for(lambda: components.gone(small), 20, "the failed one to go")
    small = components.create(endpoint, echo, memory=4 * GIB)
    components.in_service(small)
    assert components.invoke(endpoint, small, "x", "text/plain") == b"x"
    api.update_inference_component_runtime_config(InferenceComponentName=big, DesiredRuntimeConfig={"CopyCount": 3})
    refused = components.settled(big)
    assert "Copy 2 requires 5120 MB" in refused["FailureReason"]
    assert components.invoke(endpoint, big, "x", "text/plain") == b"x"
    clary.delete(endpoint)


def test_zero_copies_refuse_and_a_scalable_target_holds_the_request(
    components: Components, clary: Clary, echo: str
) -> None:
    endpoint = components.endpoint()
    name = components.create(endpoint, echo, copies=0)
    components.in_service(name)
    assert components.workers(name) == []
    with pytest.raises(ClientError, match="Inference Component has no capacity to process this request"):
        components.invoke(endpoint, name, "x", "text/plain")
    scaling = clary.client("application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"inference-component/{name}",
        "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=0, MaxCapacity=2)
    found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[target["ResourceId"]])
    assert [(one["MinCapacity"], one["MaxCapacity"]) for one in found["ScalableTargets"]] == [(0, 2)]
    wait_for(lambda: _answers(components, endpoint, name), 10, "a request that wakes a copy")
    assert components.describe(name)["RuntimeConfig"]["CurrentCopyCount"] >= 1
    clary.run("park", endpoint)
    wait_for(lambda: not components.workers(name), 20, "zero copies")
    assert components.describe(name)["RuntimeConfig"] == {"DesiredCopyCount": 0, "CurrentCopyCount": 0}
    assert components.invoke(endpoint, name, "again", "text/plain") == b"again"
    scaling.deregister_scalable_target(**target)
    clary.delete(endpoint)
    verified(clary)


def _answers(components: Components, endpoint: str, name: str) -> bool:
    try:
        return components.invoke(endpoint, name, "x", "text/plain") == b"x"
    except ClientError as error:
        if "no capacity" not in str(error):  # the proxy may have yet to hear of the target
            raise
        return False


def test_sleeping_copies_reserve_nothing(components: Components, clary: Clary, echo: str) -> None:
    endpoint = components.endpoint()
    names = [
        components.create(
            endpoint, echo, memory=5 * GIB, tags={"clary:scale-to-zero": "true", "clary:keep-alive-s": "1"}
        )
        for _ in range(3)
    ]
    for name in names:
        components.in_service(name)
    wait_for(lambda: not any(components.workers(name) for name in names), 30, "all of them to sleep")
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda name: components.invoke(endpoint, name, name, "text/plain"), names))
    assert answers == [name.encode() for name in names]
    clary.delete(endpoint)


@pytest.fixture
def asked(components: Components) -> Iterator[Any]:
    """Starts asking a component without pause; the block's end tells how often, and what failed."""
    stop, served, failed, threads = threading.Event(), [0], [], []

    def start(endpoint: str, name: str) -> None:
        def ask() -> None:
            while not stop.is_set():
                try:
                    assert components.invoke(endpoint, name, "x", "text/plain") == b"x"
                    served[0] += 1
                except (ClientError, AssertionError) as error:
                    failed.append(repr(error))

        threads.append(threading.Thread(target=ask))
        threads[-1].start()

    def end() -> tuple[int, list[str]]:
        stop.set()
        for thread in threads:
            thread.join(30)
        return served[0], failed

    yield start, end
    end()


def test_updates_of_component_and_host_lose_no_request(
    components: Components, clary: Clary, echo: str, asked: Any
) -> None:
    start, end = asked
    endpoint = components.endpoint()
    name = components.create(endpoint, echo)
    components.in_service(name)
    start(endpoint, name)
    api = clary.client("sagemaker")
    before = {one["fleet"] for one in components.workers(name)}
    api.update_inference_component(
        InferenceComponentName=name,
        Specification={"ComputeResourceRequirements": {"MinMemoryRequiredInMb": 2048}},
        RuntimeConfig={"CopyCount": 2},
    )
    told = components.in_service(name)
    assert told["Specification"]["ModelName"] == echo
    assert told["Specification"]["ComputeResourceRequirements"] == {"MinMemoryRequiredInMb": 2048}
    assert told["RuntimeConfig"]["CurrentCopyCount"] == 2
    wait_for(lambda: before.isdisjoint(one["fleet"] for one in components.workers(name)), 30, "the old copies to go")
    before = {one["fleet"] for one in components.workers(name)}
    api.update_endpoint(EndpointName=endpoint, EndpointConfigName=components.config(kind="ml.m5.xlarge"))
    wait_for(
        lambda: before.isdisjoint(one["fleet"] for one in components.workers(name)) and components.workers(name),
        60,
        "the copies to be on the new instances",
    )
    components.in_service(name)
    served, failed = end()
    assert failed == []
    assert served > 0
    clary.delete(endpoint)
    verified(clary)
    kinds = [
        one
        for one in json.loads(clary.run("cost", "--by", "variant", "--json").stdout)["sums"]
        if one["endpoint"] == endpoint
    ]
    assert {one["instance_type"] for one in kinds} == {"ml.m5.large", "ml.m5.xlarge"}


def test_managed_scaling_opens_an_instance_for_a_copy_that_needs_it(
    components: Components, clary: Clary, echo: str
) -> None:
    scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2}
    endpoint = components.endpoint(ManagedInstanceScaling=scaling)
    api = clary.client("sagemaker")

    def instances() -> int:
        (variant,) = api.describe_endpoint(EndpointName=endpoint)["ProductionVariants"]
        return int(variant["CurrentInstanceCount"])

    assert instances() == 0
    names = [components.create(endpoint, echo, memory=6 * GIB) for _ in range(2)]
    for name in names:
        components.in_service(name)
    assert instances() == 2
    api.delete_inference_component(InferenceComponentName=names[0])
    wait_for(lambda: components.gone(names[0]), 20, "it to go")
    assert instances() == 1
    clary.delete(endpoint)


def test_a_broken_model_fails_its_component_and_no_other(components: Components, clary: Clary, echo: str) -> None:
    endpoint = components.endpoint()
    good = components.create(endpoint, echo)
    broken = clary.model(
        clary.upload({"code/inference.py": "raise RuntimeError('broken on purpose')"}), "clary/sklearn"
    )
    bad = components.create(endpoint, broken)
    failed = components.settled(bad)
    assert failed["InferenceComponentStatus"] == "Failed"
    assert "broken on purpose" in failed["FailureReason"]
    components.in_service(good)
    assert components.invoke(endpoint, good, "x", "text/plain") == b"x"
    with pytest.raises(ClientError, match="not in service"):
        components.invoke(endpoint, bad, "x", "text/plain")
    clary.delete(endpoint)
    wait_for(lambda: components.gone(bad) and components.gone(good), 30, "all components to go")
