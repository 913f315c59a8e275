"""Endpoints as values: status is total, rollouts follow from facts, routes and sizes are what the config says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from clary.domain.endpoint import (
    Container,
    Deployment,
    Desired,
    EndpointStatus,
    Observed,
    Serverless,
    Variant,
    retain,
    status,
)
from clary.domain.rollout import (
    FleetSize,
    FleetView,
    Verdict,
    failure_text,
    rolling_out,
    route,
    running,
    size,
    verdict,
)
from clary.store.codec import decode, encode

INSTANCE = Variant("v", "m", Container("clary/sklearn"), instance_type="ml.m5.large", instance_count=2)
LESS = replace(INSTANCE, instance_type="", instance_count=0, serverless=Serverless(2048, 5, 1))
OLD, NEW = Deployment(1, "c1", (INSTANCE,)), Deployment(2, "c2", (INSTANCE,))


@pytest.mark.parametrize(
    ("desired", "observed", "expected"),
    [
        (Desired(OLD), Observed(), EndpointStatus.CREATING),
        (Desired(OLD), Observed(failed_number=1), EndpointStatus.FAILED),
        (Desired(OLD), Observed(serving=OLD, revision=0), EndpointStatus.IN_SERVICE),
        (Desired(NEW), Observed(serving=OLD, revision=0), EndpointStatus.UPDATING),
        (Desired(NEW), Observed(serving=OLD, failed_number=2), EndpointStatus.IN_SERVICE),
        (Desired(OLD, revision=3), Observed(serving=OLD, revision=2), EndpointStatus.UPDATING),
        # Counts that could not be: what served serves on, and a later wish is a wish again.
        (
            Desired(OLD, revision=3),
            Observed(serving=OLD, revision=2, failed_number=1, failed_revision=3),
            EndpointStatus.IN_SERVICE,
        ),
        (
            Desired(OLD, revision=4),
            Observed(serving=OLD, revision=2, failed_number=1, failed_revision=3),
            EndpointStatus.UPDATING,
        ),
        (Desired(OLD, deleted=True), Observed(serving=OLD), EndpointStatus.DELETING),
    ],
)
def test_status_follows_from_the_facts(desired: Desired, observed: Observed, expected: EndpointStatus) -> None:
    assert status(desired, observed) is expected


def test_status_and_running_are_total() -> None:
    for target, deleted, serving, routed, failed, revision in product(
        (OLD, NEW), (False, True), (None, OLD, NEW), (None, OLD, NEW), (0, 1, 2), (-1, 0, 1)
    ):
        desired = Desired(target, revision=1, deleted=deleted)
        observed = Observed(serving=serving, routed=routed, failed_number=failed, failed_revision=1, revision=revision)
        assert status(desired, observed) in EndpointStatus
        numbers = [deployment.number for deployment in running(desired, observed)]
        assert len(numbers) == len(set(numbers))
        assert deleted <= (numbers == [])
        if not deleted and failed != target.number:
            assert target.number in numbers
        if rolling_out(desired, observed):
            assert not deleted


def test_everything_survives_the_store() -> None:
    desired = Desired(replace(NEW, variants=(INSTANCE, LESS)), keep_alive_s=3.5)
    assert decode(Desired, encode(desired)) == desired
    observed = Observed(serving=OLD, retiring=(OLD, NEW), notes=("a",))
    assert decode(Observed, encode(observed)) == observed


@pytest.mark.parametrize(
    ("variant", "zero", "in_service", "expected"),
    [
        (INSTANCE, False, False, FleetSize(4, 4, 4, 2)),
        (INSTANCE, True, False, FleetSize(4, 4, 4, 2)),
        (INSTANCE, True, True, FleetSize(0, 4, 4, 2)),
        (LESS, False, False, FleetSize(1, 5, 1)),
        (LESS, False, True, FleetSize(1, 5, 1)),
        (replace(LESS, serverless=Serverless(1024, 7)), False, True, FleetSize(0, 7, 1)),
    ],
)
def test_sizes(variant: Variant, zero: bool, in_service: bool, expected: FleetSize) -> None:
    assert size(variant, Desired(OLD, scale_to_zero=zero), 2, in_service) == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (FleetView(), Verdict.WAIT),
        (FleetView(ready=1), Verdict.WAIT),
        (FleetView(ready=2), Verdict.READY),
        (FleetView(failures=1), Verdict.WAIT),
        (FleetView(failures=2), Verdict.FAILED),
        (FleetView(failures=1, hopeless=True), Verdict.FAILED),
        (FleetView(ready=2, failures=5), Verdict.READY),
    ],
)
def test_verdict(view: FleetView, expected: Verdict) -> None:
    assert verdict({"v": FleetSize(2, 2, 2)}, {"v": view})[0] is expected


def test_retain_keeps_counts_and_weights_of_same_names_only() -> None:
    old = Deployment(1, "c", (replace(INSTANCE, instance_count=5, weight=0.5),))
    new = Deployment(2, "d", (INSTANCE, replace(INSTANCE, name="w")))
    kept = retain(new, old, frozenset())
    assert [(v.instance_count, v.weight) for v in kept.variants] == [(5, 0.5), (2, 1.0)]
    excluded = retain(new, old, frozenset({"DesiredWeight"}))
    assert [(v.instance_count, v.weight) for v in excluded.variants] == [(5, 1.0), (2, 1.0)]


def test_a_serverless_route_holds_one_request_a_worker_and_sleeps() -> None:
    deployment = Deployment(7, "c", (LESS,))
    entry = route("r", "a", "e", Desired(deployment), deployment, {"v": FleetSize(1, 5, 1)})
    (variant,) = entry.variants
    assert (variant.fleet, variant.worker_concurrency, variant.max_concurrency) == ("r/e/v/7", 1, 5)
    assert variant.keep_alive is not None
    assert (variant.min_workers, variant.max_workers) == (1, 5)


def test_failure_text_fits_and_keeps_cause_and_hint() -> None:
    text = failure_text("v", "ImportError: no module named x (exit code 65).", ["line " * 100] * 20, "install x")
    assert len(text) <= 1024
    assert text.startswith("The primary container for production variant v did not pass the ping health check.")
    assert "ImportError" in text
    assert text.endswith("Hint: install x.")
