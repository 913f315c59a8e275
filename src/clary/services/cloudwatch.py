"""The `cloudwatch` service: metric samples put and read back, one implementation under three wire protocols.

Our own metrics (AWS/SageMaker, /aws/sagemaker/Endpoints) are written by metering into the same table. Samples lie by
the minute, or by the second where a client asked for that; every answer is a roll-up of what lies there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain import metric_math
from clary.domain.errors import ClaryError, Invalid, Unsupported
from clary.domain.metrics import Metric, Sample, Statistic, of_values, percentile_of, statistic
from clary.domain.names import Place
from clary.services.base import Context, Handler, Members, common_error, page_position, page_token, present
from clary.store import series
from clary.store.database import Database
from clary.store.series import MINUTE_S, Series
from clary.wire.errors import WireError

LIST_PAGE = 500
LISTED_FOR_S = 14 * 24 * 3600  # ListMetrics: metrics with data in the past two weeks
RECENT_S = 3 * 3600
STATISTICS_MAX = 1440  # data points of one GetMetricStatistics
DATA_MAX = 100_800  # data points of one GetMetricData
QUERIES_MAX = 500
TOO_OLD_S = 14 * 24 * 3600
TOO_NEW_S = 2 * 3600
LARGEST = 2.0**360  # "Values must be in the range of -2^360 to 2^360" (MetricDatum)
SHORT_PERIODS = (1, 5, 10, 20, 30)
VALUE, COMBINATION = "InvalidParameterValue", "InvalidParameterCombination"


@dataclass(frozen=True, slots=True)
class _Query:
    """One MetricDataQuery."""

    id: str
    metric: Metric | None
    period_s: int
    stat: str
    any_unit: bool
    expression: str
    label: str
    wanted: bool


class CloudWatch:
    """The operations. `now` is the clock."""

    name = "cloudwatch"

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "PutMetricData": self.put_metric_data,
            "GetMetricStatistics": self.get_metric_statistics,
            "GetMetricData": self.get_metric_data,
            "ListMetrics": self.list_metrics,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        if isinstance(error, Invalid):
            return WireError(error.rule or VALUE, 400, error.why)
        if isinstance(error, Unsupported):
            return WireError(VALUE, 400, str(error))
        return common_error(error, denied="AccessDenied", invalid=VALUE)

    async def put_metric_data(self, context: Context, request: Members) -> Members:
        context.authorize("cloudwatch:PutMetricData", "*")
        namespace = request["Namespace"]
        if namespace.startswith("AWS/"):
            raise Invalid("Namespace", f"The value {namespace} for parameter Namespace is invalid.")
        if request.get("EntityMetricData"):
            raise Unsupported("EntityMetricData", "put the data as MetricData")
        now_s = self._now().timestamp()
        data = [
            _datum(namespace, datum, now_s, f"MetricData.member.{number}")
            for number, datum in enumerate(request.get("MetricData", ()), 1)
        ]
        if not data:
            raise Invalid("MetricData", "The parameter MetricData is required.", rule="MissingParameter")

        def work(connection: Connection) -> None:
            rows = Series()
            for metric, at_s, sample in data:
                rows.add(connection, context.place, metric, at_s, sample)

        await self._database.write(work)
        return {}

    async def get_metric_statistics(self, context: Context, request: Members) -> Members:
        context.authorize("cloudwatch:GetMetricStatistics", "*")
        plain, extended = request.get("Statistics", []), request.get("ExtendedStatistics", [])
        if bool(plain) == bool(extended):
            raise Invalid(
                "Statistics", "Exactly one of Statistics and ExtendedStatistics must be given", rule=COMBINATION
            )
        for name in extended:
            _check_statistic(name)
        period_s = _period(request["Period"])
        start_s, end_s = _range(request["StartTime"], request["EndTime"], period_s)
        points = (end_s - start_s) // period_s
        if points > STATISTICS_MAX:
            raise Invalid(
                "Period",
                f"You have requested up to {points:,} datapoints, which exceeds the limit of {STATISTICS_MAX:,}. "
                "You may reduce the datapoints requested by increasing Period, or decreasing the time range.",
                rule=COMBINATION,
            )
        unit = request.get("Unit")
        metric = _metric(request["Namespace"], request["MetricName"], request.get("Dimensions", ()), unit or "None")

        def work(connection: Connection) -> tuple[list[tuple[int, Sample]], str]:
            found = series.read(connection, context.place, metric, start_s, end_s, any_unit=unit is None)
            return found, unit or series.unit_of(connection, context.place, metric)

        found, unit_found = await self._database.read(work)
        datapoints = []
        for at_s, sample in series.roll_up(found, period_s, start_s).items():
            datapoint: dict[str, Any] = {"Timestamp": _at(at_s), "Unit": unit_found}
            datapoint |= {name: statistic(sample, name) for name in plain}
            known = {name: value for name in extended if (value := statistic(sample, name)) is not None}
            if extended and not known:
                continue  # percentiles of a statistic set are not known
            if known:
                datapoint["ExtendedStatistics"] = known
            datapoints.append(datapoint)
        return {"Label": request["MetricName"], "Datapoints": datapoints}

    async def get_metric_data(self, context: Context, request: Members) -> Members:
        context.authorize("cloudwatch:GetMetricData", "*")
        if len(request["MetricDataQueries"]) > QUERIES_MAX:
            raise Invalid("MetricDataQueries", f"A request has at most {QUERIES_MAX} queries")
        queries = _queries(request["MetricDataQueries"], context.place)
        start, end = request["StartTime"], request["EndTime"]
        _range(start, end, MINUTE_S)
        results = await self._database.read(
            lambda connection: _results(connection, context.place, queries, start.timestamp(), end.timestamp())
        )
        descending = request.get("ScanBy", "TimestampDescending") == "TimestampDescending"
        limit = request.get("MaxDatapoints", DATA_MAX)
        position = page_position(request.get("NextToken"))
        return _data_page([one for one in queries if one.wanted], results, descending, limit, position)

    async def list_metrics(self, context: Context, request: Members) -> Members:
        context.authorize("cloudwatch:ListMetrics", "*")
        if request.get("IncludeLinkedAccounts") or request.get("OwningAccount", context.place.account) not in (
            context.place.account,
        ):
            raise Unsupported("linked accounts", f"this clary has one account, {context.place.account}")
        position = page_position(request.get("NextToken"))
        since_s = int(self._now().timestamp()) - (RECENT_S if request.get("RecentlyActive") else LISTED_FOR_S)
        found = await self._database.read(
            lambda connection: series.list_series(
                connection,
                context.place,
                namespace=request.get("Namespace"),
                name=request.get("MetricName"),
                dimensions={one["Name"]: one.get("Value") for one in request.get("Dimensions", ())},
                since_s=since_s,
                after_id=int(position[0]) if position else 0,
                limit=LIST_PAGE + 1,
            )
        )
        page = found[:LIST_PAGE]
        return present(
            Metrics=[
                {
                    "Namespace": one.metric.namespace,
                    "MetricName": one.metric.name,
                    "Dimensions": [{"Name": name, "Value": value} for name, value in one.metric.dimensions],
                }
                for one in page
            ],
            NextToken=page_token([page[-1].id, 0]) if len(found) > LIST_PAGE else None,
        )


# -- reading requests --------------------------------------------------------------------------------


def _metric(namespace: str, name: str, dimensions: Iterable[Mapping[str, str]], unit: str) -> Metric:
    """Raises: Invalid for a dimension that is named twice."""
    pairs = {one["Name"]: one["Value"] for one in dimensions}
    if len(pairs) != len(list(dimensions)):
        raise Invalid("Dimensions", "A dimension is named twice")
    return Metric(namespace, name, tuple(sorted(pairs.items())), unit)


def _datum(namespace: str, datum: Members, now_s: float, where: str) -> tuple[Metric, int, Sample]:
    """Raises: Invalid."""
    ways = [name for name in ("Value", "Values", "StatisticValues") if datum.get(name) is not None]
    if len(ways) != 1:
        raise Invalid(where, f"{where} must have exactly one of Value, Values and StatisticValues", rule=COMBINATION)
    if "Counts" in datum and ways != ["Values"]:
        raise Invalid(where, f"{where}.Counts goes with Values only", rule=COMBINATION)
    metric = _metric(namespace, datum["MetricName"], datum.get("Dimensions", ()), datum.get("Unit", "None"))
    resolution_s = datum.get("StorageResolution", MINUTE_S)
    if resolution_s not in (1, MINUTE_S):
        raise Invalid(where, f"{where}.StorageResolution must be 1 or 60")
    at_s = datum["Timestamp"].timestamp() if "Timestamp" in datum else now_s
    if not now_s - TOO_OLD_S <= at_s <= now_s + TOO_NEW_S:
        raise Invalid(
            where, f"{where}.Timestamp must specify a time no more than two weeks in the past or two hours ahead"
        )
    return metric, int(at_s // resolution_s * resolution_s), _put_sample(datum, where)


def _put_sample(datum: Members, where: str) -> Sample:
    if datum.get("StatisticValues") is not None:
        held = datum["StatisticValues"]
        count, total, smallest, largest = (
            _number(held[name], f"{where}.StatisticValues.{name}")
            for name in ("SampleCount", "Sum", "Minimum", "Maximum")
        )
        if count <= 0 or smallest > largest:
            raise Invalid(where, f"{where}.StatisticValues must have a SampleCount above 0 and Minimum <= Maximum")
        return Sample(count, total, smallest, largest)
    values = [datum["Value"]] if datum.get("Value") is not None else datum["Values"]
    counts = datum.get("Counts", [1.0] * len(values))
    if len(values) != len(counts) or not values:
        raise Invalid(where, f"{where}.Values and Counts must be of the same length, 1 at least", rule=COMBINATION)
    pairs = [(_number(value, where), _number(count, where)) for value, count in zip(values, counts, strict=True)]
    if any(count < 0 for _, count in pairs) or not any(count for _, count in pairs):
        raise Invalid(where, f"{where}.Counts must not be negative, and not all 0")
    return of_values(pairs)


def _number(value: float, where: str) -> float:
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise Invalid(where, f"The value {value} for parameter {where} is invalid.")
    return float(value)


def _period(period_s: int) -> int:
    if period_s in SHORT_PERIODS or (period_s > 0 and period_s % MINUTE_S == 0):
        return period_s
    raise Invalid("Period", "The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60")


def _range(start: datetime, end: datetime, period_s: int) -> tuple[int, int]:
    """Whole seconds, the start rounded down to a minute (a second for short periods)."""
    if start >= end:
        raise Invalid("StartTime", "The parameter StartTime must be less than the parameter EndTime.", rule=COMBINATION)
    step_s = MINUTE_S if period_s % MINUTE_S == 0 else 1
    return int(start.timestamp() // step_s * step_s), math.ceil(end.timestamp())


def _check_statistic(name: str) -> None:
    if name not in set(Statistic) and percentile_of(name) is None:
        raise Unsupported(f"the statistic {name}", f"{', '.join(Statistic)} and percentiles such as p99.9 are")


def _queries(given: Iterable[Members], place: Place) -> list[_Query]:
    """Raises: Invalid, Unsupported."""
    made: dict[str, _Query] = {}
    for one in given:
        name, stat, expression = one["Id"], one.get("MetricStat"), one.get("Expression") or ""
        if name in made:
            raise Invalid("Id", f"The id {name} is used twice")
        if (stat is None) == (not expression):
            raise Invalid("MetricDataQueries", f"{name} must have either MetricStat or Expression", rule=COMBINATION)
        if one.get("AccountId", place.account) != place.account:
            raise Unsupported(f"account {one['AccountId']}", f"this clary has one account, {place.account}")
        label = one.get("Label", "")
        if "${" in label:
            raise Unsupported(f"the dynamic label {label!r}", "use plain text")
        wanted = one.get("ReturnData", True)
        if stat is not None:
            _check_statistic(stat["Stat"])
            held = stat["Metric"]
            unit = stat.get("Unit")
            if not held.get("Namespace") or not held.get("MetricName"):
                raise Invalid("Metric", f"{name} must name its Namespace and MetricName", rule="MissingParameter")
            metric = _metric(held["Namespace"], held["MetricName"], held.get("Dimensions", ()), unit or "None")
            made[name] = _Query(
                name, metric, _period(stat["Period"]), stat["Stat"], unit is None, "", label or metric.name, wanted
            )
        else:
            metric_math.names(expression)
            made[name] = _Query(name, None, 0, "", True, expression, label or name, wanted)
    if not any(query.wanted for query in made.values()):
        raise Invalid("MetricDataQueries", "At least one query must have ReturnData true")
    return list(made.values())


# -- answering ---------------------------------------------------------------------------------------


def _results(
    connection: Connection, place: Place, queries: list[_Query], start_s: float, end_s: float
) -> dict[str, Mapping[int, float]]:
    """The points of every query, by its id. Periods begin at multiples of themselves. Raises: Invalid."""
    found: dict[str, Mapping[int, float]] = {}
    for query in queries:
        if query.metric is not None:
            first_s = int(start_s // query.period_s * query.period_s)
            last_s = math.ceil(end_s)
            samples = series.read(connection, place, query.metric, first_s, last_s, any_unit=query.any_unit)
            periods = series.roll_up(samples, query.period_s, 0)
            values = {at_s: statistic(sample, query.stat) for at_s, sample in periods.items()}
            found[query.id] = {at_s: value for at_s, value in values.items() if value is not None}
    waiting = {query.id: query for query in queries if query.metric is None}
    while waiting:
        ready = [one for one in waiting.values() if not metric_math.names(one.expression) & waiting.keys()]
        if not ready:
            raise Invalid("Expression", f"The expressions {', '.join(sorted(waiting))} need each other")
        for query in ready:
            found[query.id] = metric_math.evaluate(query.expression, found)
            del waiting[query.id]
    return found


def _data_page(
    queries: list[_Query],
    results: Mapping[str, Mapping[int, float]],
    descending: bool,
    limit: int,
    position: list[Any] | None,
) -> Members:
    """`limit` points from `position` (query number, point number) on, query by query."""
    first_query, first_point = (int(position[0]), int(position[1])) if position else (0, 0)
    left = limit
    answered: list[Members] = []
    following: list[Any] | None = None
    for number, query in enumerate(queries[first_query:], first_query):
        times = sorted(results[query.id], reverse=descending)
        begin = first_point if number == first_query else 0
        shown = times[begin : begin + left]
        left -= len(shown)
        complete = begin + len(shown) == len(times)
        answered.append(
            {
                "Id": query.id,
                "Label": query.label,
                "Timestamps": [_at(at_s) for at_s in shown],
                "Values": [results[query.id][at_s] for at_s in shown],
                "StatusCode": "Complete" if complete else "PartialData",
            }
        )
        if not complete:
            following = [number, begin + len(shown)]
            break
        if left == 0 and number + 1 < len(queries):
            following = [number + 1, 0]
            break
    return present(MetricDataResults=answered, Messages=[], NextToken=page_token(following))


def _at(at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
