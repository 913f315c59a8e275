"""Metric samples: what a period holds of a metric, how two are joined, and the statistics that are asked of them.

A sample is CloudWatch's statistic set (count, sum, smallest, largest) with, where the values are known well enough, a
histogram for percentiles. Joining is associative and commutative, so samples may be cut and rolled up anywhere.
A histogram holds (low, high, weight) buckets: a proxy's latency bucket has a width, a value that a client put has none.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from clary.domain.usage import BUCKETS, INDEX, MODEL_LATENCY_AT, OVERHEAD_LATENCY_AT, bucket_start_us

# Distinct exact values that a period keeps; beyond, values are rounded to 1 % (CloudWatch's own sketch is coarser).
EXACT_VALUES = 256
_ROUNDING = math.log(1.01)
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{0,10})?|100)")


class Statistic(StrEnum):
    """CloudWatch's Statistic."""

    SAMPLE_COUNT = "SampleCount"
    AVERAGE = "Average"
    SUM = "Sum"
    MINIMUM = "Minimum"
    MAXIMUM = "Maximum"


@dataclass(frozen=True, slots=True)
class Bucket:
    """`weight` values from `low` to `high`."""

    low: float
    high: float
    weight: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one period holds. `histogram` is None when the values behind the statistics are not known."""

    count: float
    total: float
    smallest: float
    largest: float
    histogram: tuple[Bucket, ...] | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """Which metric, of what. Dimensions are sorted pairs."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    unit: str = "None"


def of_values(values: Iterable[tuple[float, float]]) -> Sample:
    """The sample of (value, weight) pairs. Raises: ValueError when there is none with a weight."""
    pairs = [(value, weight) for value, weight in values if weight > 0]
    if not pairs:
        raise ValueError("a sample has at least one value")
    weights: dict[float, float] = {}
    for value, weight in pairs:
        weights[value] = weights.get(value, 0.0) + weight
    return Sample(
        count=sum(weight for _, weight in pairs),
        total=math.fsum(value * weight for value, weight in pairs),
        smallest=min(weights),
        largest=max(weights),
        histogram=_bounded(tuple(Bucket(value, value, weight) for value, weight in sorted(weights.items()))),
    )


def constant(value: float, count: float) -> Sample:
    """`count` times the same value."""
    return Sample(count, value * count, value, value, (Bucket(value, value, count),))


def join(one: Sample, other: Sample) -> Sample:
    """Both periods as one. Without one's histogram there is none of the whole, unless all its values are the same."""
    histogram = None
    first, second = _buckets(one), _buckets(other)
    if first is not None and second is not None:
        weights: dict[tuple[float, float], float] = {}
        for held in (*first, *second):
            key = (held.low, held.high)
            weights[key] = weights.get(key, 0.0) + held.weight
        histogram = _bounded(tuple(Bucket(low, high, weight) for (low, high), weight in sorted(weights.items())))
    return Sample(
        one.count + other.count,
        one.total + other.total,
        min(one.smallest, other.smallest),
        max(one.largest, other.largest),
        histogram,
    )


def _buckets(sample: Sample) -> tuple[Bucket, ...] | None:
    if sample.histogram is None and (sample.count == 1 or sample.smallest == sample.largest):
        return (Bucket(sample.smallest, sample.largest, sample.count),)
    return sample.histogram


def _bounded(histogram: tuple[Bucket, ...]) -> tuple[Bucket, ...]:
    if len(histogram) <= EXACT_VALUES:
        return histogram
    rough: dict[tuple[float, float], float] = {}
    for held in histogram:
        low, high = held.low, held.high
        if low == high and low != 0:
            step = math.floor(math.log(abs(low)) / _ROUNDING)
            near, far = math.exp(step * _ROUNDING), math.exp((step + 1) * _ROUNDING)
            low, high = (near, far) if low > 0 else (-far, -near)
        rough[low, high] = rough.get((low, high), 0.0) + held.weight
    return tuple(Bucket(low, high, weight) for (low, high), weight in sorted(rough.items()))


def percentile_of(text: str) -> float | None:
    """99.9 for "p99.9"; None when it is no percentile."""
    match = _PERCENTILE.fullmatch(text)
    return float(match[1]) if match else None


def statistic(sample: Sample, name: str) -> float | None:
    """A statistic by CloudWatch's name, or a percentile; None where the sample does not know it.

    Raises: ValueError for a name that is neither.
    """
    match name:
        case Statistic.SAMPLE_COUNT:
            return sample.count
        case Statistic.SUM:
            return sample.total
        case Statistic.AVERAGE:
            return sample.total / sample.count
        case Statistic.MINIMUM:
            return sample.smallest
        case Statistic.MAXIMUM:
            return sample.largest
    rank = percentile_of(name)
    if rank is None:
        raise ValueError(f"{name} is not a statistic")
    return percentile(sample, rank)


def percentile(sample: Sample, rank: float) -> float | None:
    """The value that `rank` percent of the values do not exceed, within its bucket by proportion."""
    buckets = _buckets(sample)
    if buckets is None:
        return None
    wanted = rank / 100 * sum(held.weight for held in buckets)
    passed = 0.0
    for held in buckets:
        if passed + held.weight >= wanted:
            value = held.low + (held.high - held.low) * (wanted - passed) / held.weight
            return min(max(value, sample.smallest), sample.largest)
        passed += held.weight
    return sample.largest


# -- samples of a variant's counters ---------------------------------------------------------------


def of_growth(growth: Mapping[int, int], instances: int) -> dict[str, tuple[str, Sample]]:
    """Metric name -> (unit, sample) of what a fleet's counters grew by. `instances` live; each request sends a share.

    Names, units and what each request sends: SageMaker developer guide, "Metrics for monitoring Amazon SageMaker AI".
    """
    made: dict[str, tuple[str, Sample]] = {}
    requests = growth.get(INDEX["requests"], 0)
    if requests:
        made["Invocations"] = ("None", constant(1.0, requests))
        made["InvocationsPerInstance"] = ("None", constant(1.0 / max(1, instances), requests))
    for metric, counter in ERRORS.items():
        # An error may be seen one look before its request: the proxy counts the request last.
        errors = growth.get(INDEX[counter], 0)
        if requests or errors:
            made[metric] = ("None", _ones(errors, max(requests, errors)))
    for metric, at, total in (
        ("ModelLatency", MODEL_LATENCY_AT, "model_latency_us"),
        ("OverheadLatency", OVERHEAD_LATENCY_AT, "overhead_latency_us"),
    ):
        sample = _latency(growth, at, growth.get(INDEX[total], 0))
        if sample is not None:
            made[metric] = ("Microseconds", sample)
    cold_starts = growth.get(INDEX["cold_starts"], 0)
    if cold_starts:
        # The proxy keeps the sum only: within one look, every cold start counts as the mean.
        made["ModelSetupTime"] = ("Microseconds", constant(growth.get(INDEX["setup_us"], 0) / cold_starts, cold_starts))
    return made | _multi_model(growth)


def container_latency(growth: Mapping[int, int]) -> dict[str, tuple[str, Sample]]:
    """The time that a container took, of what its own counters grew by (guide, "Logs and metrics of pipelines")."""
    sample = _latency(growth, MODEL_LATENCY_AT, growth.get(INDEX["model_latency_us"], 0))
    return {} if sample is None else {"ContainerLatency": ("Microseconds", sample)}


def of_component(growth: Mapping[int, int], copies: int) -> dict[str, tuple[str, Sample]]:
    """`of_growth` for an inference component with `copies` alive, under the names that components have."""
    made = of_growth(growth, copies)
    if "InvocationsPerInstance" in made:
        made["InvocationsPerCopy"] = made.pop("InvocationsPerInstance")
    refused = growth.get(INDEX["no_capacity"], 0)
    if refused:
        made["NoCapacityInvocationFailures"] = ("None", constant(1.0, refused))
    return made


# Of multi-model endpoints: metric -> (what was counted, what its times came to); within one look each is the mean.
MODEL_TIMES = {
    "ModelLoadingWaitTime": ("model_misses", "model_wait_us"),
    "ModelDownloadingTime": ("model_loads", "model_fetch_us"),
    "ModelLoadingTime": ("model_loads", "model_load_us"),
    "ModelUnloadingTime": ("model_unloads", "model_unload_us"),
}


def _multi_model(growth: Mapping[int, int]) -> dict[str, tuple[str, Sample]]:
    made: dict[str, tuple[str, Sample]] = {}
    hits, misses = growth.get(INDEX["model_hits"], 0), growth.get(INDEX["model_misses"], 0)
    if hits + misses:
        made["ModelCacheHit"] = ("None", _ones(hits, hits + misses))
    for metric, (counted, total) in MODEL_TIMES.items():
        count = growth.get(INDEX[counted], 0)
        if count:
            made[metric] = ("Microseconds", constant(growth.get(INDEX[total], 0) / count, count))
    return made


ERRORS = {
    "Invocation4XXErrors": "errors_4xx",
    "Invocation5XXErrors": "errors_5xx",
    "InvocationModelErrors": "model_errors",
}
# What SageMaker sends with the value 0 for a minute in which a variant was up and nobody asked.
ZEROS = ("Invocations", "InvocationsPerInstance", *ERRORS)


def _ones(ones: int, of: int) -> Sample:
    zeros = of - ones
    histogram = tuple(Bucket(v, v, w) for v, w in ((0.0, zeros), (1.0, ones)) if w)
    return Sample(of, ones, 0.0 if zeros else 1.0, 1.0 if ones else 0.0, histogram)


def _latency(growth: Mapping[int, int], at: int, total_us: int) -> Sample | None:
    buckets = tuple(
        Bucket(bucket_start_us(index), max(bucket_start_us(index), bucket_start_us(index + 1) - 1), weight)
        for index in range(BUCKETS)
        if (weight := growth.get(at + index, 0))
    )
    if not buckets:
        return None
    count = sum(held.weight for held in buckets)
    return Sample(count, total_us, buckets[0].low, buckets[-1].high, buckets)


# -- the stored form of a histogram ----------------------------------------------------------------


def pack(histogram: tuple[Bucket, ...] | None) -> bytes | None:
    """Compact bytes: 12 a bucket for what fits single precision exactly, else 24."""
    if histogram is None:
        return None
    flat = [number for held in histogram for number in (held.low, held.high, held.weight)]
    if all(float(number).is_integer() and abs(number) < 1 << 24 for number in flat):
        return b"f" + struct.pack(f"<{len(flat)}f", *flat)
    return b"d" + struct.pack(f"<{len(flat)}d", *flat)


def unpack(data: bytes | None) -> tuple[Bucket, ...] | None:
    if data is None:
        return None
    kind = chr(data[0])
    flat = struct.unpack(f"<{(len(data) - 1) // struct.calcsize(kind)}{kind}", data[1:])
    return tuple(Bucket(*flat[at : at + 3]) for at in range(0, len(flat), 3))
