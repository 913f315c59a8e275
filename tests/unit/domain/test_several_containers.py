"""Models of several containers as values: which may stand together, what their parts, fleets and routes are."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from clary.domain.containers import ExecutionMode, Member, check, handed_on, headers_for, names
from clary.domain.endpoint import Container, Deployment, Desired, Observed, Prepared, Variant, prepared_of
from clary.domain.errors import Invalid
from clary.domain.fleet_name import FleetName, account_of, parse_fleet_name
from clary.domain.rollout import FleetSize, FleetView, Verdict, failure_text, route, size, verdict
from clary.domain.routing import RouteTable, parse_table
from clary.store.codec import decode, encode

SERIAL, DIRECT = ExecutionMode.SERIAL, ExecutionMode.DIRECT
ONE = Variant("v", "m", Container("clary/sklearn"), instance_type="ml.m5.large", instance_count=2)
TWO = replace(
    ONE,
    container=Container("clary/sklearn", hostname="scale"),
    further=(Container("clary/xgboost", hostname="predict", multi_model=True),),
)
DEPLOYMENT = Deployment(7, "c", (TWO, replace(ONE, name="w")))
SIZES = {"v+scale": FleetSize(1, 4, 2), "v+predict": FleetSize(1, 2, 1), "w": FleetSize(1, 1, 1)}


@pytest.mark.parametrize(
    ("members", "mode", "rule"),
    [
        ([Member()], SERIAL, ""),
        ([Member(), Member()], SERIAL, ""),
        ([Member("a"), Member("b", multi_model=True)], SERIAL, ""),
        ([Member("a", multi_model=True), Member("b", multi_model=True)], DIRECT, ""),
        ([Member(f"c{number}") for number in range(15)], DIRECT, ""),
        ([Member("a", environment_bytes=16_384), Member("b", environment_bytes=16_384)], SERIAL, ""),
        ([Member("a", environment_bytes=16_384), Member("b", environment_bytes=16_385)], SERIAL, "Environment"),
        ([Member(f"c{number}") for number in range(16)], SERIAL, "Containers"),
        ([Member("a")], DIRECT, "InferenceExecutionConfig"),
        ([Member("a"), Member()], DIRECT, "ContainerHostname"),
        ([Member("a"), Member()], SERIAL, "ContainerHostname"),
        ([Member("a"), Member("a")], DIRECT, "ContainerHostname"),
        ([Member("a"), Member("a")], SERIAL, "ContainerHostname"),
        ([Member("a", multi_model=True), Member("b", multi_model=True)], SERIAL, "Mode"),
    ],
)
def test_what_may_stand_together(members: list[Member], mode: ExecutionMode, rule: str) -> None:
    if not rule:
        check(members, mode)
        return
    with pytest.raises(Invalid) as caught:
        check(members, mode)
    assert caught.value.what == rule


def test_containers_without_hostnames_are_called_by_their_place() -> None:
    assert names(["", "", ""]) == ("container-1", "container-2", "container-3")
    assert names(["b", "a"]) == ("b", "a")


def test_what_a_container_is_sent() -> None:
    asked = [("content-type", "text/csv"), ("accept", "text/plain"), ("x-amzn-sagemaker-custom-attributes", "me")]
    assert headers_for(asked, last=True) == asked
    assert ("accept", "text/plain") not in headers_for(asked, last=False)
    silent = handed_on(asked, "", "")
    assert silent == [("accept", "text/plain"), ("x-amzn-sagemaker-custom-attributes", "me")]
    told = dict(handed_on(asked, "application/json", "it"))
    assert told == {
        "accept": "text/plain",
        "content-type": "application/json",
        "x-amzn-sagemaker-custom-attributes": "it",
    }


def test_a_containers_fleet_is_a_part_of_its_variants_account() -> None:
    name = parse_fleet_name("us-east-1/e/v+scale/7")
    assert name == FleetName("us-east-1", "e", "v", "7", "scale")
    assert str(name) == "us-east-1/e/v+scale/7"
    assert account_of(str(name)) == "us-east-1/e/v/7"
    assert account_of("us-east-1/transform-job:j/:transform+a/9") == "us-east-1/transform-job:j/:transform/9"
    assert account_of("us-east-1/e/v/7") == "us-east-1/e/v/7"


def test_parts_are_what_has_a_fleet() -> None:
    assert ONE.parts == (ONE,)
    assert [part.name for part in DEPLOYMENT.parts] == ["v+scale", "v+predict", "w"]
    assert [part.production_variant for part in DEPLOYMENT.parts] == ["v", "v", "w"]
    assert [part.container.image for part in TWO.parts] == ["clary/sklearn", "clary/xgboost"]
    assert DEPLOYMENT.fleet("r", "e", TWO.parts[1].name) == "r/e/v+predict/7"
    prepared = Prepared("python", (), "xgboost", "", "/m")
    assert prepared_of(Observed(prepared={"7/v+predict": prepared}), DEPLOYMENT, "v+predict") == prepared


def test_what_was_stored_before_there_were_several_still_reads() -> None:
    stored = json.loads(json.dumps(encode(Deployment(1, "c", (ONE,)))))
    for member in ("further", "mode"):
        del stored["variants"][0][member]
    assert decode(Deployment, stored) == Deployment(1, "c", (ONE,))
    whole = decode(Deployment, json.loads(json.dumps(encode(DEPLOYMENT))))
    assert whole == DEPLOYMENT


def test_ready_is_when_all_containers_are() -> None:
    desired = Desired(DEPLOYMENT, scale_to_zero=True)
    assert size(TWO.parts[0], desired, 1, in_service=True) == size(ONE, desired, 1, in_service=True)
    views = {"v+scale": FleetView(ready=2), "v+predict": FleetView(ready=1), "w": FleetView(ready=1)}
    assert verdict(SIZES, views) == (Verdict.READY, "")
    assert verdict(SIZES, {**views, "v+predict": FleetView()}) == (Verdict.WAIT, "")
    assert verdict(SIZES, {**views, "v+predict": FleetView(failures=2)}) == (Verdict.FAILED, "v+predict")


def test_the_failed_container_is_named() -> None:
    assert failure_text("v+predict", "x", (), "").startswith(
        "The predict container for production variant v did not pass the ping health check."
    )
    assert failure_text(":transform+predict", "x", (), "").startswith("The predict container did not pass")
    assert failure_text("v", "x", (), "").startswith("The primary container for production variant v did")


@pytest.mark.parametrize("mode", ExecutionMode)
def test_a_route_holds_one_for_each_container(mode: ExecutionMode) -> None:
    deployment = Deployment(7, "c", (replace(TWO, mode=mode),))
    made = route("r", "1", "e", Desired(deployment), deployment, SIZES)
    (variant,) = made.variants
    assert (variant.fleet, variant.direct) == ("r/e/v/7", mode is DIRECT)
    assert [(one.fleet, one.name, one.container) for one in variant.routes] == [
        ("r/e/v+scale/7", "v", "scale"),
        ("r/e/v+predict/7", "v", "predict"),
    ]
    assert [one.max_workers for one in variant.containers] == [4, 2]
    assert variant.multi_model is (mode is SERIAL)  # who calls a pipeline names the model, whichever container has it
    assert [one.multi_model for one in variant.containers] == [False, True]
    table = RouteTable(3, {("r", "e"): made})
    assert table.fleets() == {"r/e/v+scale/7", "r/e/v+predict/7"}
    assert parse_table(json.loads(json.dumps(table.as_dict()))) == table
