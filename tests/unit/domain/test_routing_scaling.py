"""Routing and keep-alive as pure functions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain.placement import Host, admit, fit_instance, fit_serverless
from clary.domain.prices import InstanceType
from clary.domain.routing import EndpointRoute, KeepAlive, RouteTable, VariantRoute, choose, parse_table, target
from clary.domain.scaling import keep_alive_s
from clary.domain.usage import BUCKETS, bucket, bucket_start_us


def variants(*weights: float) -> list[VariantRoute]:
    return [VariantRoute(f"v{i}", f"f{i}", weight) for i, weight in enumerate(weights)]


def test_weights_split_requests() -> None:
    both = variants(1, 3)
    assert choose(both, 0.2499) is both[0]
    assert choose(both, 0.25) is both[1]
    assert choose(both, 0.999999) is both[1]
    assert choose(variants(0, 0), 0.5) is None
    assert choose(variants(0), 0.5) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=10), st.floats(0, 1, exclude_max=True))
def test_a_variant_of_weight_zero_is_never_chosen(weights: list[float], u: float) -> None:
    found = choose(variants(*weights), u)
    assert (found is None) == (sum(weights) == 0)
    if found is not None:
        assert found.weight > 0


def test_target_ignores_weights() -> None:
    both = variants(1, 0)
    assert target(both, "v1") is both[1]
    assert target(both, "v2") is None


def test_a_table_survives_its_file() -> None:
    variant = VariantRoute("v", "f", 1.0, keep_alive=KeepAlive(fixed_s=3))
    table = RouteTable(4, {("r", "e"): EndpointRoute("e", "r", "1", (variant, VariantRoute("w", "g", 0)))})
    assert parse_table(json.loads(json.dumps(table.as_dict()))) == table


def test_keep_alive_follows_the_gaps() -> None:
    policy = KeepAlive(min_s=10, max_s=300)
    assert keep_alive_s(policy, [20.0] * 30) == pytest.approx(22)
    assert keep_alive_s(policy, [3600.0] * 30) == 10
    assert keep_alive_s(policy, [0.5] * 30) == 10
    assert keep_alive_s(KeepAlive(fixed_s=0), [20.0]) == 0
    assert keep_alive_s(policy, []) == 60


@given(st.integers(0, 1 << 40))
def test_buckets_hold_their_latency(value_us: int) -> None:
    index = bucket(value_us)
    assert 0 <= index < BUCKETS
    assert bucket_start_us(index) <= value_us
    if index + 1 < BUCKETS:
        assert value_us < bucket_start_us(index + 1)


GIB = 1024**3


def test_an_instance_type_is_a_ceiling_and_the_cap_is_said() -> None:
    host = Host(cores=2, memory_bytes=4 * GIB, available_bytes=3 * GIB)
    small = fit_instance(InstanceType("ml.x", 1, 1, "", 0, (), False), host, None)
    assert (small.processes, small.memory_bytes, small.notes) == (1, GIB, ())
    large = fit_instance(InstanceType("ml.y", 48, 192, "4xA10G", 0, (), False), host, None)
    assert (large.processes, large.memory_bytes, large.cpus) == (2, 4 * GIB, 2)
    assert len(large.notes) == 3
    assert fit_instance(InstanceType("ml.y", 48, 192, "", 0, (), False), host, 7).processes == 7
    assert fit_serverless(1769, host).cpus == 1.0


def test_admission_names_its_figures() -> None:
    host = Host(2, 4 * GIB, GIB)
    assert admit(100 << 20, 2, host) == ""
    assert "need 2048 MiB, 768 MiB are free" in admit(GIB, 2, host)
