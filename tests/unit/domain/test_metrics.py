"""Samples: joining is free of order and cuts, and statistics say what the values were."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain.metrics import (
    EXACT_VALUES,
    Bucket,
    Sample,
    constant,
    join,
    of_growth,
    of_values,
    pack,
    percentile,
    percentile_of,
    statistic,
    unpack,
)
from clary.domain.usage import INDEX, MODEL_LATENCY_AT, bucket

values = st.lists(st.tuples(st.integers(-1000, 1000).map(float), st.integers(1, 5).map(float)), min_size=1, max_size=30)


@given(values, st.integers(0, 29))
def test_cutting_the_values_anywhere_gives_the_same_sample(pairs: list[tuple[float, float]], cut: int) -> None:
    whole = of_values(pairs)
    first, second = pairs[:cut], pairs[cut:]
    if first and second:
        assert join(of_values(first), of_values(second)) == whole
        assert join(of_values(second), of_values(first)) == whole


@given(values)
def test_percentiles_lie_among_the_values(pairs: list[tuple[float, float]]) -> None:
    flat = sorted(value for value, weight in pairs for _ in range(int(weight)))
    sample = of_values(pairs)
    for rank in (0.1, 50, 90, 99, 100):
        assert percentile(sample, rank) == flat[max(0, math.ceil(rank / 100 * len(flat)) - 1)]


@given(st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=EXACT_VALUES + 1, max_size=400, unique=True))
def test_many_values_are_kept_to_one_percent(many: list[float]) -> None:
    sample = of_values([(value, 1) for value in many])
    median = sorted(many)[math.ceil(len(many) / 2) - 1]
    found = percentile(sample, 50)
    assert found is not None
    assert abs(found - median) <= abs(median) * 0.011 + 1e-9


@given(values)
def test_a_packed_histogram_comes_back(pairs: list[tuple[float, float]]) -> None:
    histogram = of_values(pairs).histogram
    assert unpack(pack(histogram)) == histogram


def test_a_packed_fraction_comes_back_exactly() -> None:
    histogram = (Bucket(0.1, 0.3, 2), Bucket(1e12, 2e12, 1))
    assert unpack(pack(histogram)) == histogram
    assert unpack(pack(None)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SampleCount", 4), ("Sum", 10), ("Average", 2.5), ("Minimum", 1), ("Maximum", 4), ("p50", 2), ("p100", 4)],
)
def test_statistics(name: str, expected: float) -> None:
    assert statistic(of_values([(1, 1), (2, 1), (3, 1), (4, 1)]), name) == expected


@pytest.mark.parametrize(
    ("text", "rank"), [("p99", 99.0), ("p99.9", 99.9), ("p100", 100.0), ("p101", None), ("tm99", None)]
)
def test_percentile_names(text: str, rank: float | None) -> None:
    assert percentile_of(text) == rank


def test_a_statistic_set_has_no_percentiles_unless_its_values_are_all_the_same() -> None:
    assert statistic(Sample(3, 6, 1, 3), "p50") is None
    assert statistic(Sample(3, 6, 2, 2), "p50") == 2
    assert join(Sample(3, 6, 1, 3), constant(2, 1)).histogram is None


def test_what_a_variants_counters_become() -> None:
    growth = {
        INDEX["requests"]: 10,
        INDEX["errors_4xx"]: 3,
        INDEX["model_latency_us"]: 1000,
        INDEX["cold_starts"]: 2,
        INDEX["setup_us"]: 90_000,
        MODEL_LATENCY_AT + bucket(100): 10,
    }
    made = of_growth(growth, instances=2)
    sums = {name: (unit, sample.count, sample.total) for name, (unit, sample) in made.items()}
    assert sums == {
        "Invocations": ("None", 10, 10),
        "InvocationsPerInstance": ("None", 10, 5),
        "Invocation4XXErrors": ("None", 10, 3),
        "Invocation5XXErrors": ("None", 10, 0),
        "InvocationModelErrors": ("None", 10, 0),
        "ModelLatency": ("Microseconds", 10, 1000),
        "ModelSetupTime": ("Microseconds", 2, 90_000),
    }
    latency = made["ModelLatency"][1]
    assert latency.smallest <= 100 <= latency.largest
    assert latency.largest - latency.smallest < 12.5


def test_an_error_seen_before_its_request_is_kept() -> None:
    made = of_growth({INDEX["errors_5xx"]: 1}, instances=1)
    assert made["Invocation5XXErrors"][1].total == 1
    assert "Invocations" not in made


def test_calls_and_loads_of_many_models_become_their_metrics() -> None:
    counted = {"model_hits": 6, "model_misses": 2, "model_wait_us": 50_000, "model_loads": 4, "model_load_us": 8_000}
    made = of_growth({INDEX[name]: value for name, value in counted.items()}, instances=1)
    unit, hits = made["ModelCacheHit"]
    assert (unit, hits.total / hits.count) == ("None", 0.75)
    unit, waited = made["ModelLoadingWaitTime"]
    assert (unit, waited.count, waited.total) == ("Microseconds", 2, 50_000.0)
    assert made["ModelLoadingTime"][1].largest == 2_000.0
    assert "ModelUnloadingTime" not in made
