"""What asynchronous endpoints are measured by: numbers of the last seconds in memory, written once a minute.

Gauges of the queue carry the dimension EndpointName, the rest EndpointName and VariantName (asynchronous inference
guide, "monitor with CloudWatch"; its InvocationsProcesssed is spelt with three s there, and so it is here too).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from clary.domain.asynchronous import average_backlog
from clary.domain.errors import StoreFailed
from clary.domain.metrics import Metric, Sample, of_values
from clary.domain.names import Place
from clary.store.database import Database
from clary.store.series import MINUTE_S, Series

log = logging.getLogger(__name__)

NAMESPACE = "AWS/SageMaker"
UNITS = {
    "TimeInBacklog": "Milliseconds",
    "TotalProcessingTime": "Milliseconds",
    "RequestDownloadLatency": "Microseconds",
    "ResponseUploadLatency": "Microseconds",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """One endpoint's queue at a moment. `instances` are those that run."""

    place: Place
    endpoint: str
    backlog: int
    oldest_s: float
    instances: int

    def gauges(self) -> Mapping[str, tuple[float, str]]:
        return {
            "ApproximateBacklogSize": (float(self.backlog), "Count"),
            "ApproximateBacklogSizePerInstance": (average_backlog(self.backlog, self.instances), "Count"),
            "ApproximateAgeOfOldestRequest": (self.oldest_s, "Seconds"),
            "HasBacklogWithoutCapacity": (1.0 if self.backlog and not self.instances else 0.0, "None"),
        }


class AsyncMetrics:
    """`queues` tells the queues of all asynchronous endpoints."""

    def __init__(
        self, database: Database, queues: Callable[[], Awaitable[list[Queue]]], now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._queues = queues
        self._now = now
        self._values: dict[tuple[Place, Metric], list[float]] = defaultdict(list)

    def count(self, place: Place, endpoint: str, variant: str, name: str) -> None:
        self._values[place, _metric(endpoint, variant, name, "None")].append(1.0)

    def observe(self, place: Place, endpoint: str, variant: str, name: str, value: float) -> None:
        self._values[place, _metric(endpoint, variant, name, UNITS[name])].append(value)

    async def run(self) -> None:
        """Every ten seconds, for ever."""
        series = Series()
        while True:
            await asyncio.sleep(10.0)
            try:
                await self._write(series)
            except StoreFailed as error:
                log.warning("event=metrics_not_written reason=%s", error)

    async def _write(self, series: Series) -> None:
        at_s = int(self._now().timestamp()) // MINUTE_S * MINUTE_S
        found: list[tuple[Place, Metric, Sample]] = []
        for queue in await self._queues():
            for name, (value, unit) in queue.gauges().items():
                metric = Metric(NAMESPACE, name, (("EndpointName", queue.endpoint),), unit)
                found.append((queue.place, metric, of_values([(value, 1.0)])))
        values, self._values = self._values, defaultdict(list)
        found += [
            (place, metric, of_values([(number, 1.0) for number in numbers]))
            for (place, metric), numbers in values.items()
        ]
        if not found:
            return

        def work(connection: Connection) -> None:
            for place, metric, sample in found:
                series.add(connection, place, metric, at_s, sample)

        try:
            await self._database.write(work)
        except StoreFailed:
            series.forget()
            raise


def _metric(endpoint: str, variant: str, name: str, unit: str) -> Metric:
    dimensions = (("EndpointName", endpoint), ("VariantName", variant))
    return Metric(NAMESPACE, name, dimensions, unit)
