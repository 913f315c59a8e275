"""Metric samples in the control database: a series is a metric of one account and region, a sample one minute of it.

Written in the caller's transaction. Samples of one moment are joined, so a metric may be told in as many parts as one
likes. A second-resolution value (StorageResolution 1) lies under its own second; queries roll up whatever they find.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from clary.domain.metrics import Metric, Sample, join, pack, unpack
from clary.domain.names import Place
from clary.store.schema import samples, series

MINUTE_S = 60
# How long samples of a minute are kept (CloudWatch keeps those of one minute for 15 days).
KEPT_S = 15 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Found:
    """One series, for listings."""

    id: int
    metric: Metric


def _dimensions(metric: Metric) -> str:
    return json.dumps([list(pair) for pair in sorted(metric.dimensions)], separators=(",", ":"))


def _metric(row: Row[tuple[object, ...]]) -> Metric:
    pairs = tuple((name, value) for name, value in json.loads(row.dimensions))
    return Metric(row.namespace, row.name, pairs, row.unit)


class Series:
    """Writes and reads samples. `ids` remembers series that are known to be committed."""

    def __init__(self) -> None:
        self._ids: dict[tuple[Place, Metric], int] = {}

    def forget(self) -> None:
        """After a transaction that was rolled back: what was made in it is not there."""
        self._ids.clear()

    def add(self, connection: Connection, place: Place, metric: Metric, at_s: int, sample: Sample) -> None:
        """Joins `sample` to what is held at `at_s`."""
        number = self._id(connection, place, metric)
        held = connection.execute(select(samples).where(samples.c.series_id == number, samples.c.at_s == at_s)).first()
        if held is None:
            connection.execute(insert(samples).values(series_id=number, at_s=at_s, **_columns(sample)))
        else:
            whole = _columns(join(_sample(held), sample))
            connection.execute(
                update(samples).where(samples.c.series_id == number, samples.c.at_s == at_s).values(**whole)
            )

    def add_missing(self, connection: Connection, place: Place, metric: Metric, at_s: int, sample: Sample) -> None:
        """Writes `sample` where nothing is held at `at_s`."""
        number = self._id(connection, place, metric)
        held = select(samples.c.at_s).where(samples.c.series_id == number, samples.c.at_s == at_s)
        if connection.execute(held).first() is None:
            connection.execute(insert(samples).values(series_id=number, at_s=at_s, **_columns(sample)))

    def _id(self, connection: Connection, place: Place, metric: Metric) -> int:
        key = (place, metric)
        found = self._ids.get(key)
        if found is not None:
            return found
        values = {
            "account": place.account,
            "region": place.region,
            "namespace": metric.namespace,
            "name": metric.name,
            "dimensions": _dimensions(metric),
            "unit": metric.unit,
        }
        number = connection.execute(
            select(series.c.id).where(*(series.c[name] == value for name, value in values.items()))
        ).scalar()
        if number is None:
            number = connection.execute(insert(series).values(**values).returning(series.c.id)).scalar_one()
        self._ids[key] = int(number)
        return int(number)


def _columns(sample: Sample) -> dict[str, object]:
    return {
        "count": float(sample.count),
        "total": float(sample.total),
        "smallest": float(sample.smallest),
        "largest": float(sample.largest),
        "histogram": pack(sample.histogram),
    }


def _sample(row: Row[tuple[object, ...]]) -> Sample:
    return Sample(row._mapping["count"], row.total, row.smallest, row.largest, unpack(row.histogram))


def read(
    connection: Connection,
    place: Place,
    metric: Metric,
    start_s: int,
    end_s: int,
    *,
    any_unit: bool = True,
) -> list[tuple[int, Sample]]:
    """(time, sample) from `start_s` to before `end_s`, in order; several units of a metric are joined."""
    wanted = select(series.c.id).where(
        series.c.account == place.account,
        series.c.region == place.region,
        series.c.namespace == metric.namespace,
        series.c.name == metric.name,
        series.c.dimensions == _dimensions(metric),
    )
    if not any_unit:
        wanted = wanted.where(series.c.unit == metric.unit)
    query = (
        select(samples)
        .where(samples.c.series_id.in_(wanted), samples.c.at_s >= start_s, samples.c.at_s < end_s)
        .order_by(samples.c.at_s)
    )
    found: dict[int, Sample] = {}
    for row in connection.execute(query):
        sample = _sample(row)
        found[row.at_s] = join(found[row.at_s], sample) if row.at_s in found else sample
    return list(found.items())


def roll_up(points: Sequence[tuple[int, Sample]], period_s: int, anchor_s: int) -> dict[int, Sample]:
    """The points joined to periods that begin at `anchor_s` plus multiples of `period_s`; by their start."""
    periods: dict[int, Sample] = {}
    for at_s, sample in points:
        start_s = anchor_s + (at_s - anchor_s) // period_s * period_s
        periods[start_s] = join(periods[start_s], sample) if start_s in periods else sample
    return periods


def unit_of(connection: Connection, place: Place, metric: Metric) -> str:
    """The unit that a metric's first series has; "None" when there is none."""
    query = (
        select(series.c.unit)
        .where(
            series.c.account == place.account,
            series.c.region == place.region,
            series.c.namespace == metric.namespace,
            series.c.name == metric.name,
            series.c.dimensions == _dimensions(metric),
        )
        .order_by(series.c.id)
    )
    return connection.execute(query).scalar() or "None"


def list_series(
    connection: Connection,
    place: Place,
    *,
    namespace: str | None,
    name: str | None,
    dimensions: Mapping[str, str | None],
    since_s: int,
    after_id: int,
    limit: int,
) -> list[Found]:
    """Series with a sample since `since_s`, in order of their ids; a dimension with the value None may have any.

    Metrics are told apart by namespace, name and dimensions only: several units of one are listed once.
    """
    newest = select(func.max(samples.c.at_s)).where(samples.c.series_id == series.c.id).scalar_subquery()
    query = select(series).where(
        series.c.account == place.account,
        series.c.region == place.region,
        series.c.id > after_id,
        newest >= since_s,
    )
    if namespace is not None:
        query = query.where(series.c.namespace == namespace)
    if name is not None:
        query = query.where(series.c.name == name)
    twin = series.alias()
    earlier = select(twin.c.id).where(
        twin.c.account == series.c.account,
        twin.c.region == series.c.region,
        twin.c.namespace == series.c.namespace,
        twin.c.name == series.c.name,
        twin.c.dimensions == series.c.dimensions,
        twin.c.id < series.c.id,
    )
    query = query.where(~earlier.exists()).order_by(series.c.id)
    found = []
    for row in connection.execute(query):
        metric = _metric(row)
        held = dict(metric.dimensions)
        if all(key in held and value in (None, held[key]) for key, value in dimensions.items()):
            found.append(Found(row.id, metric))
            if len(found) == limit:
                break
    return found


def prune(connection: Connection, before_s: int) -> None:
    """Drops samples of before `before_s`: a range of each series, not a walk over the table."""
    every = select(series.c.id)
    connection.execute(delete(samples).where(samples.c.series_id.in_(every), samples.c.at_s < before_s))
