"""The cloudwatch service as boto3, and as clients of the older and newer protocols, see it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from botocore.exceptions import ClientError
from telemetry_served import TelemetryServed, now

from clary.domain.metrics import Metric, of_growth
from clary.domain.names import Place
from clary.domain.usage import INDEX, MODEL_LATENCY_AT, bucket
from clary.services.cloudwatch import CloudWatch
from clary.store import schema
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.store.series import Series, prune

SPACE = "Test/Space"
DIMENSIONS = [{"Name": "EndpointName", "Value": "e"}]
START = now().replace(second=0, microsecond=0) - timedelta(minutes=30)
START -= timedelta(minutes=START.minute % 5)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    file = tmp_path / "clary.db"
    opened = Database(f"sqlite:///{file}")
    ensure_schema(opened.engine, "control", schema.metadata, needed=schema.SCHEMA, file=file, now=now())
    yield opened
    opened.close()


@pytest.fixture
def served(database: Database) -> Iterator[TelemetryServed]:
    with TelemetryServed({"cloudwatch": CloudWatch(database, now)}) as one:
        yield one


@pytest.fixture
def cloudwatch(served: TelemetryServed) -> Any:
    return served.client("cloudwatch")


def put(cloudwatch: Any, minute: float, name: str = "M", **datum: Any) -> None:
    at = START + timedelta(minutes=minute)
    entry = {"MetricName": name, "Dimensions": DIMENSIONS, "Timestamp": at, **datum}
    cloudwatch.put_metric_data(Namespace=SPACE, MetricData=[entry])


def statistics(cloudwatch: Any, name: str = "M", minutes: int = 30, period_s: int = 60, **more: Any) -> list[Any]:
    answer = cloudwatch.get_metric_statistics(
        Namespace=SPACE,
        MetricName=name,
        Dimensions=DIMENSIONS,
        StartTime=START,
        EndTime=START + timedelta(minutes=minutes),
        Period=period_s,
        **more,
    )
    return sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])


def query(name: str, stat: str = "Sum", id_: str = "m1", period_s: int = 60, **more: Any) -> dict[str, Any]:
    metric = {"Namespace": SPACE, "MetricName": name, "Dimensions": DIMENSIONS}
    return {"Id": id_, "MetricStat": {"Metric": metric, "Period": period_s, "Stat": stat}, **more}


def data(cloudwatch: Any, *queries: dict[str, Any], **more: Any) -> Any:
    return cloudwatch.get_metric_data(
        MetricDataQueries=list(queries), StartTime=START, EndTime=START + timedelta(minutes=30), **more
    )


def test_the_statistics_of_what_was_put(cloudwatch: Any) -> None:
    put(cloudwatch, 0.1, Value=1.0)
    put(cloudwatch, 0.9, Values=[2.0, 3.0], Counts=[2, 1])
    put(cloudwatch, 3, StatisticValues={"SampleCount": 2, "Sum": 10, "Minimum": 4, "Maximum": 6})
    names = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"]
    first, second = statistics(cloudwatch, Statistics=names)
    assert first["Timestamp"] == START
    assert [first[name] for name in names] == [4, 2.0, 8.0, 1.0, 3.0]
    assert first["Unit"] == "None"
    assert [second[name] for name in names] == [2, 5.0, 10.0, 4.0, 6.0]
    (whole,) = statistics(cloudwatch, period_s=1800, Statistics=["Sum", "Maximum"])
    assert (whole["Sum"], whole["Maximum"]) == (18.0, 6.0)


def test_percentiles_where_the_values_are_known(cloudwatch: Any) -> None:
    put(cloudwatch, 0, Values=[float(n) for n in range(1, 101)])
    put(cloudwatch, 5, StatisticValues={"SampleCount": 2, "Sum": 10, "Minimum": 4, "Maximum": 6})
    (only,) = statistics(cloudwatch, ExtendedStatistics=["p50", "p99.9"])
    assert only["ExtendedStatistics"] == {"p50": 50.0, "p99.9": 100.0}


def test_units_are_told_apart_and_joined(cloudwatch: Any) -> None:
    put(cloudwatch, 0, Value=1.0, Unit="Seconds")
    put(cloudwatch, 0, Value=2.0, Unit="Count")
    (seconds,) = statistics(cloudwatch, Statistics=["Sum"], Unit="Seconds")
    assert (seconds["Sum"], seconds["Unit"]) == (1.0, "Seconds")
    (both,) = statistics(cloudwatch, Statistics=["Sum"])
    assert both["Sum"] == 3.0


def test_other_dimensions_are_another_metric(cloudwatch: Any) -> None:
    put(cloudwatch, 0, Value=1.0)
    put(cloudwatch, 0, Value=5.0, Dimensions=[])
    (found,) = statistics(cloudwatch, Statistics=["Sum"])
    assert found["Sum"] == 1.0


def test_other_regions_are_another_place(served: TelemetryServed, cloudwatch: Any) -> None:
    put(cloudwatch, 0, Value=1.0)
    assert statistics(served.client("cloudwatch", "eu-west-1"), Statistics=["Sum"]) == []


def test_metric_data_of_several_queries_newest_first(cloudwatch: Any) -> None:
    for minute in range(10):
        put(cloudwatch, minute, "A", Value=float(minute))
        put(cloudwatch, minute, "B", Value=2.0)
    answer = data(cloudwatch, query("A"), query("B", "Average", "m2", 300, Label="bee"))
    first, second = answer["MetricDataResults"]
    assert first["Values"] == [float(n) for n in reversed(range(10))]
    assert first["Timestamps"][-1] == START
    assert (first["Label"], first["StatusCode"]) == ("A", "Complete")
    assert (second["Label"], second["Values"]) == ("bee", [2.0, 2.0])
    assert "NextToken" not in answer


def test_metric_data_pages_hold_every_point_once(cloudwatch: Any) -> None:
    for minute in range(10):
        put(cloudwatch, minute, "A", Value=float(minute))
        put(cloudwatch, minute, "B", Value=100.0 + minute)
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=[query("A"), query("B", id_="m2")],
        StartTime=START,
        EndTime=START + timedelta(minutes=30),
        ScanBy="TimestampAscending",
        MaxDatapoints=7,
    )
    found: dict[str, list[float]] = {}
    for page in pages:
        assert sum(len(result["Values"]) for result in page["MetricDataResults"]) <= 7
        for result in page["MetricDataResults"]:
            found.setdefault(result["Id"], []).extend(result["Values"])
    assert found == {"m1": [float(n) for n in range(10)], "m2": [100.0 + n for n in range(10)]}


def test_expressions_over_queries_and_over_each_other(cloudwatch: Any) -> None:
    put(cloudwatch, 0, "Errors", Value=1.0)
    put(cloudwatch, 0, "All", Value=4.0)
    answer = data(
        cloudwatch,
        {"Id": "percent", "Expression": "100 * ratio"},
        {"Id": "ratio", "Expression": "m1 / m2", "ReturnData": False},
        query("Errors", ReturnData=False),
        query("All", id_="m2", ReturnData=False),
    )
    (result,) = answer["MetricDataResults"]
    assert (result["Id"], result["Values"]) == ("percent", [25.0])


def test_seconds_are_kept_where_a_client_asks(cloudwatch: Any) -> None:
    for tenth in range(6):
        put(cloudwatch, tenth / 6, Value=float(tenth), StorageResolution=1)
    answer = data(cloudwatch, query("M", period_s=10), ScanBy="TimestampAscending")
    assert answer["MetricDataResults"][0]["Values"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    (minute,) = statistics(cloudwatch, Statistics=["Sum"])
    assert minute["Sum"] == 15.0


def test_metrics_are_listed_by_what_they_are(cloudwatch: Any) -> None:
    put(cloudwatch, 0, "A", Value=1.0)
    put(cloudwatch, 0, "A", Value=1.0, Unit="Seconds")
    put(cloudwatch, 0, "B", Value=1.0, Dimensions=[*DIMENSIONS, {"Name": "VariantName", "Value": "v"}])

    def listed(**filters: Any) -> list[str]:
        return [metric["MetricName"] for metric in cloudwatch.list_metrics(**filters)["Metrics"]]

    assert listed() == ["A", "B"]
    assert listed(MetricName="B") == ["B"]
    assert listed(Namespace="Other") == []
    assert listed(Dimensions=[{"Name": "VariantName"}]) == ["B"]
    assert listed(Dimensions=[{"Name": "EndpointName", "Value": "e"}]) == ["A", "B"]
    assert listed(Dimensions=[{"Name": "EndpointName", "Value": "x"}]) == []
    assert listed(RecentlyActive="PT3H") == ["A", "B"]
    put(cloudwatch, -600, "Old", Value=1.0)
    assert listed(RecentlyActive="PT3H") == ["A", "B"]
    assert listed() == ["A", "B", "Old"]


def test_many_metrics_are_listed_in_pages(cloudwatch: Any) -> None:
    for hundred in range(10):
        entries = [{"MetricName": f"M{hundred}-{n}", "Value": 1.0} for n in range(100)]
        cloudwatch.put_metric_data(Namespace=SPACE, MetricData=entries)
    pages = list(cloudwatch.get_paginator("list_metrics").paginate(Namespace=SPACE))
    assert [len(page["Metrics"]) for page in pages] == [500, 500]


def test_what_metering_wrote_is_read_as_any_metric(cloudwatch: Any, database: Database) -> None:
    growth = {
        INDEX["requests"]: 100,
        INDEX["model_latency_us"]: 100 * 1500,
        MODEL_LATENCY_AT + bucket(1000): 98,
        MODEL_LATENCY_AT + bucket(26_000): 2,
    }
    dimensions = (("EndpointName", "e"), ("VariantName", "v"))
    at_s = int(START.timestamp())

    def work(connection: Any) -> None:
        for name, (unit, sample) in of_growth(growth, 2).items():
            metric = Metric("AWS/SageMaker", name, dimensions, unit)
            Series().add(connection, Place("111122223333"), metric, at_s, sample)

    database.write_now(work)
    answer = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="ModelLatency",
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions],
        StartTime=START,
        EndTime=START + timedelta(minutes=1),
        Period=60,
        ExtendedStatistics=["p50", "p99"],
    )
    (point,) = answer["Datapoints"]
    assert point["Unit"] == "Microseconds"
    assert point["ExtendedStatistics"]["p50"] == pytest.approx(1000, rel=0.125)
    assert point["ExtendedStatistics"]["p99"] == pytest.approx(26_000, rel=0.125)


def test_old_samples_are_dropped(cloudwatch: Any, database: Database) -> None:
    put(cloudwatch, 0, Value=1.0)
    put(cloudwatch, 10, Value=2.0)
    limit_s = int((START + timedelta(minutes=5)).timestamp())
    database.write_now(lambda connection: prune(connection, limit_s))
    assert [point["Sum"] for point in statistics(cloudwatch, Statistics=["Sum"])] == [2.0]


def test_the_query_protocol(served: TelemetryServed, cloudwatch: Any) -> None:
    put(cloudwatch, 0, Value=3.0)
    end = START + timedelta(minutes=5)
    body = (
        f"Action=GetMetricStatistics&Version=2010-08-01&Namespace={SPACE}&MetricName=M&Period=60"
        f"&Dimensions.member.1.Name=EndpointName&Dimensions.member.1.Value=e&Statistics.member.1=Sum"
        f"&StartTime={START:%Y-%m-%dT%H:%M:%SZ}&EndTime={end:%Y-%m-%dT%H:%M:%SZ}"
    )
    answer = call(served, "/", body.encode(), {"Content-Type": "application/x-www-form-urlencoded"})
    assert b"<Sum>3.0</Sum>" in answer
    assert b"<GetMetricStatisticsResult>" in answer


def test_the_cbor_protocol(served: TelemetryServed, cloudwatch: Any) -> None:
    put(cloudwatch, 0, Value=3.0)
    body = cbor2.dumps(
        {
            "MetricDataQueries": [query("M")],
            "StartTime": cbor2.CBORTag(1, START.timestamp()),
            "EndTime": cbor2.CBORTag(1, (START + timedelta(minutes=5)).timestamp()),
        }
    )
    headers = {"Content-Type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}
    answer = call(served, "/service/GraniteServiceVersion20100801/operation/GetMetricData", body, headers)
    (result,) = cbor2.loads(answer)["MetricDataResults"]
    assert result["Values"] == [3.0]
    assert result["Timestamps"] == [datetime.fromtimestamp(START.timestamp(), UTC)]


def call(served: TelemetryServed, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    scope = "AWS4-HMAC-SHA256 Credential=AKIDANY/20260101/us-east-1/monitoring/aws4_request"
    headers = {**headers, "Authorization": f"{scope}, SignedHeaders=host, Signature=00"}
    request = urllib.request.Request(served.url + path, body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=10) as response:
        return bytes(response.read())


def period(minutes: int, **more: Any) -> dict[str, Any]:
    end = START + timedelta(minutes=minutes)
    return {"Namespace": SPACE, "MetricName": "M", "StartTime": START, "EndTime": end, "Period": 60, **more}


VALUE, COMBINATION = "InvalidParameterValue", "InvalidParameterCombination"
ENDS = {"StartTime": START, "EndTime": START + timedelta(minutes=1)}
OLD = START - timedelta(days=30)
REFUSED = [
    ("put_metric_data", {"Namespace": "AWS/SageMaker", "MetricData": [{"MetricName": "M", "Value": 1.0}]}, VALUE),
    ("put_metric_data", {"Namespace": SPACE, "MetricData": [{"MetricName": "M"}]}, COMBINATION),
    (
        "put_metric_data",
        {"Namespace": SPACE, "MetricData": [{"MetricName": "M", "Values": [1.0, 2.0], "Counts": [1.0]}]},
        COMBINATION,
    ),
    ("put_metric_data", {"Namespace": SPACE, "MetricData": [{"MetricName": "M", "Value": float("nan")}]}, VALUE),
    (
        "put_metric_data",
        {
            "Namespace": SPACE,
            "MetricData": [{"MetricName": "M", "Value": 1.0, "Timestamp": START - timedelta(days=30)}],
        },
        VALUE,
    ),
    ("get_metric_statistics", period(1), COMBINATION),
    ("get_metric_statistics", period(0, Statistics=["Sum"]), COMBINATION),
    ("get_metric_statistics", period(2000, Statistics=["Sum"]), COMBINATION),
    ("get_metric_statistics", period(1, Statistics=["Sum"]) | {"Period": 61}, VALUE),
    ("get_metric_statistics", period(1, ExtendedStatistics=["tm99"]), VALUE),
    ("get_metric_data", {"MetricDataQueries": [{"Id": "e1", "Expression": "SUM(METRICS())"}], **ENDS}, VALUE),
    ("get_metric_data", {"MetricDataQueries": [query("M"), query("M")], **ENDS}, VALUE),
    (
        "get_metric_data",
        {"MetricDataQueries": [{"Id": "a", "Expression": "b"}, {"Id": "b", "Expression": "a"}], **ENDS},
        VALUE,
    ),
    ("get_metric_data", {"MetricDataQueries": [{"Id": "a"}], **ENDS}, COMBINATION),
    ("list_metrics", {"OwningAccount": "999999999999"}, VALUE),
]


@pytest.mark.parametrize(("operation", "members", "code"), REFUSED)
def test_refusals_have_codes(cloudwatch: Any, operation: str, members: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(cloudwatch, operation)(**members)
    assert caught.value.response["Error"]["Code"] == code
    assert len(caught.value.response["Error"]["Message"]) > 10


def test_what_is_not_served_is_refused_by_name(cloudwatch: Any) -> None:
    with pytest.raises(ClientError, match="PutInsightRule"):
        cloudwatch.put_insight_rule(RuleName="r", RuleDefinition="{}")


def test_a_packed_call_is_unpacked(cloudwatch: Any) -> None:
    data = [
        {"MetricName": f"packed-{'x' * 100}-{number}", "Value": 1.0, "Dimensions": [{"Name": "n", "Value": "v" * 200}]}
        for number in range(100)
    ]
    seen: list[str] = []
    cloudwatch.meta.events.register(
        "before-send.cloudwatch.PutMetricData", lambda request, **_: seen.append(str(request.headers))
    )
    cloudwatch.put_metric_data(Namespace="packed", MetricData=data)
    assert "gzip" in seen[0]
    found = cloudwatch.get_paginator("list_metrics").paginate(Namespace="packed").build_full_result()
    assert len(found["Metrics"]) == 100
