"""What is remembered and how it is listed: updates that keep what ran, filters, pages, tags, repeated requests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, instance


@pytest.fixture(scope="module")
def model(clary: Clary, echo_files: dict[str, str]) -> str:
    return clary.model(clary.upload(dict(echo_files)), "clary/sklearn")


def test_an_update_may_keep_counts_and_weights(clary: Clary, model: str) -> None:
    sagemaker = clary.client("sagemaker")
    name = clary.endpoint(clary.config(instance(model)))
    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredWeight": 0.5, "DesiredInstanceCount": 2}],
    )

    def shown() -> tuple[float, int]:
        state = clary.settled(name)
        assert state["EndpointStatus"] == "InService"
        variant = state["ProductionVariants"][0]
        assert (variant["CurrentWeight"], variant["CurrentInstanceCount"]) == (
            variant["DesiredWeight"],
            variant["DesiredInstanceCount"],
        )
        return variant["CurrentWeight"], variant["CurrentInstanceCount"]

    assert shown() == (0.5, 2)
    next_config = clary.config(instance(model, weight=3.0, count=1))
    cases: list[tuple[dict[str, Any], tuple[float, int]]] = [
        ({"RetainAllVariantProperties": True}, (0.5, 2)),
        (
            {
                "RetainAllVariantProperties": True,
                "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
            },
            (3.0, 2),
        ),
        ({}, (3.0, 1)),
    ]
    for options, expected in cases:
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=next_config, **options)
        assert shown() == expected, options
    clary.delete(name)


@pytest.fixture(scope="module")
def listed(clary: Clary, model: str) -> Iterator[list[str]]:
    """Five endpoint configurations and two endpoints under one prefix, oldest first."""
    sagemaker, prefix = clary.client("sagemaker"), f"list-{uuid.uuid4().hex[:6]}"
    names = [f"{prefix}-{letter}" for letter in "cabed"]
    for name in names:
        sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[instance(model)])
    for name in names[:2]:
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        assert clary.settled(name)["EndpointStatus"] == "InService"
    yield names
    for name in names[:2]:
        clary.delete(name)


def test_lists_are_filtered_sorted_and_paged(clary: Clary, listed: list[str]) -> None:
    sagemaker = clary.client("sagemaker")
    prefix = listed[0].rpartition("-")[0]

    def configs(**options: Any) -> list[str]:
        found = sagemaker.list_endpoint_configs(NameContains=prefix, **options)["EndpointConfigs"]
        return [one["EndpointConfigName"] for one in found]

    assert configs() == listed[::-1]  # newest first
    assert configs(SortOrder="Ascending") == listed
    assert configs(SortBy="Name", SortOrder="Ascending") == sorted(listed)
    assert configs(MaxResults=2) == listed[:2:-1]
    pages = sagemaker.get_paginator("list_endpoint_configs").paginate(
        NameContains=prefix, SortBy="Name", PaginationConfig={"PageSize": 2}
    )
    sizes, found = [], []
    for page in pages:
        sizes.append(len(page["EndpointConfigs"]))
        found += [one["EndpointConfigName"] for one in page["EndpointConfigs"]]
    assert sizes == [2, 2, 1]
    assert found == sorted(listed, reverse=True)
    assert "NextToken" not in sagemaker.list_endpoint_configs(NameContains=prefix, MaxResults=5)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert configs(CreationTimeAfter=tomorrow) == []
    assert configs(CreationTimeBefore=tomorrow) == listed[::-1]


def test_endpoints_are_filtered_by_status(clary: Clary, listed: list[str]) -> None:
    sagemaker = clary.client("sagemaker")
    prefix = listed[0].rpartition("-")[0]

    def endpoints(**options: Any) -> list[str]:
        found = sagemaker.list_endpoints(NameContains=prefix, **options)["Endpoints"]
        return [one["EndpointName"] for one in found]

    assert endpoints() == listed[1::-1]
    assert endpoints(StatusEquals="InService", SortBy="Name", SortOrder="Ascending") == sorted(listed[:2])
    assert endpoints(StatusEquals="Failed") == []
    with pytest.raises(ClientError, match="enum value set"):
        endpoints(StatusEquals="Nonsense")


def test_tags_are_added_replaced_and_taken_off(clary: Clary, model: str) -> None:
    sagemaker = clary.client("sagemaker")
    arn = sagemaker.describe_model(ModelName=model)["ModelArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "team", "Value": "a"}, {"Key": "stage", "Value": "dev"}])
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "stage", "Value": "prod"}])
    held = {tag["Key"]: tag["Value"] for tag in sagemaker.list_tags(ResourceArn=arn)["Tags"]}
    assert held == {"team": "a", "stage": "prod"}
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["team", "absent"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "stage", "Value": "prod"}]
    with pytest.raises(ClientError, match="-absent"):
        sagemaker.list_tags(ResourceArn=arn + "-absent")


def test_a_retried_create_answers_alike_and_another_is_refused(clary: Clary, model: str) -> None:
    """A client that lost the answer sends the same invocation id again; a second call has an id of its own."""
    config, name = clary.config(instance(model)), f"e-{uuid.uuid4().hex[:8]}"
    sagemaker = clary._client("sagemaker", "us-east-1")
    fixed = str(uuid.uuid4())

    def same_id(request: Any, **_: Any) -> None:
        request.headers["amz-sdk-invocation-id"] = fixed

    sagemaker.meta.events.register("before-send.sagemaker.CreateEndpoint", same_id)
    first = sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    again = sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert again["EndpointArn"] == first["EndpointArn"]
    with pytest.raises(ClientError, match="Cannot create already existing endpoint"):
        clary.client("sagemaker").create_endpoint(EndpointName=name, EndpointConfigName=config)
    assert clary.settled(name)["EndpointStatus"] == "InService"
    clary.delete(name)


def test_configurations_and_models_may_go_while_their_endpoint_serves(clary: Clary, model: str) -> None:
    sagemaker = clary.client("sagemaker")
    description = sagemaker.describe_model(ModelName=model)["PrimaryContainer"]
    own = f"m-{uuid.uuid4().hex[:8]}"
    sagemaker.create_model(ModelName=own, ExecutionRoleArn=ROLE, PrimaryContainer=description)
    config = clary.config(instance(own))
    name = clary.endpoint(config)
    sagemaker.delete_model(ModelName=own)
    sagemaker.delete_endpoint_config(EndpointConfigName=config)
    assert clary.invoke(name, "still here", "text/plain") == b"still here"
    clary.delete(name)
