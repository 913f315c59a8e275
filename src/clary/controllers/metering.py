"""Raw usage to the ledger and to metric samples: each look is one transaction, so a crash at any point changes nothing.

A look takes, in this order: the heartbeat, the journal from where the last one ended, the counters that moved. What
they come to (charges, samples) is written together with how far was read and with the fleets' books. A look that dies
before its commit is made again from the same place; one that committed is never made again. `domain.ledger` makes the
sums independent of where looks fall.

The heartbeat is read first: whatever the supervisor journalled before it beat is then in the journal that is read
after, so charging living workers up to the beat can never pass an exit that happened before it.

While something lives or moves, a look a second, which writes only when there is something to write; lives are charged
every ten seconds. With nothing alive it looks every ten seconds, and at once when the supervisor tells of a worker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from clary.controllers.model_gauges import Instances, of_instances
from clary.controllers.process_gauges import Gauge, ProcessGauges
from clary.domain import ledger as money
from clary.domain.errors import StoreFailed
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT, account_of, parse_fleet_name
from clary.domain.ledger import FleetBook, Label, Life
from clary.domain.metrics import ZEROS, Metric, Sample, constant, container_latency, of_component, of_growth, of_values
from clary.domain.names import Place
from clary.domain.prices import PriceBook
from clary.domain.usage import Usage
from clary.failpoints import failpoint
from clary.paths import Layout
from clary.store import ledger as rows
from clary.store.database import Database
from clary.store.raw_usage import CounterFile, JournalFile, JournalPart, Mark, heartbeat_ns, instance_of
from clary.store.series import KEPT_S, MINUTE_S, Series, prune

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
IDLE_EVERY_S = 10.0
ACCRUE_EVERY_NS = 10 * 1_000_000_000
PRUNE_EVERY_S = 3600
# Looks go on at the lively rate for this long after the last change: requests seldom come alone.
LIVELY_S = 5.0
# Books of fleets without a worker that are kept in memory; the others are in the database.
BOOKS_KEPT = 1000

VARIANT_METRICS = "AWS/SageMaker"
INSTANCE_METRICS = "/aws/sagemaker/Endpoints"
COMPONENT_METRICS = "/aws/sagemaker/InferenceComponents"
TRANSFORM_METRICS = "/aws/sagemaker/TransformJobs"

Workers = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found in the raw files."""

    at_ns: int
    beat_ns: int
    journal: JournalPart
    counters: Mapping[int, Usage]
    gauges: tuple[Gauge, ...]
    models: Instances
    minute_over: bool


@dataclass(slots=True)
class _Change:
    """The books that one transaction changes, on top of those that are committed."""

    committed: Mapping[str, FleetBook]
    boot: str  # under which the last worker was started
    books: dict[str, FleetBook] = field(default_factory=dict)
    before: dict[str, FleetBook] = field(default_factory=dict)  # as the database has them

    def book(self, connection: Connection, fleet: str) -> FleetBook:
        if fleet in self.books:
            return self.books[fleet]
        held = self.committed.get(fleet) or rows.book(connection, fleet)
        self.before[fleet] = held
        return held


class Metering:
    """The one writer of the ledger. `workers` are the supervisor's records of what lives now, `models` those that
    workers of multi-model endpoints hold, by worker."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        prices: PriceBook,
        account: str,
        workers: Workers,
        clock_ns: Callable[[], int] = time.time_ns,
        models: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._database = database
        self._prices = prices
        self._account = account
        self._workers = workers
        self._models = models
        self._clock_ns = clock_ns
        self._heartbeat = layout.heartbeat
        self._journal = JournalFile(layout.journal)
        self._counters = CounterFile(layout.counters)
        self._series = Series()
        self._gauges = ProcessGauges()
        self._mark: Mark | None = None  # None until the books were loaded
        self._books: dict[str, FleetBook] = {}
        self._boot = ""
        self._accrued_ns = 0
        self._minute_s = 0  # the minute whose end was last dealt with
        self._pruned_s = 0
        self._poked = asyncio.Event()
        self._lock = asyncio.Lock()
        self._looking: set[asyncio.Task[tuple[bool, bool]]] = set()

    def poke(self) -> None:
        """A worker came or went: look soon."""
        self._poked.set()

    async def run(self) -> None:
        """For ever; cancel to stop."""
        lively_until_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                wrote, more = await self.look()
            except (StoreFailed, OSError, ValueError):
                log.exception("event=metering_failed again_in_s=%s", LOOK_EVERY_S)
                wrote, more = True, False  # nothing was lost: the next look begins where the last good one ended
            if more:
                continue
            if wrote or self.lives:
                lively_until_s = loop.time() + LIVELY_S
            lively = loop.time() < lively_until_s
            # A look that took long is followed by a rest that is as long: never more than half of one thread.
            pause_s = max(LOOK_EVERY_S, 2 * (loop.time() - began_s)) if lively else IDLE_EVERY_S
            try:
                async with asyncio.timeout(pause_s - (loop.time() - began_s)):
                    await self._poked.wait()
                    await asyncio.sleep(LOOK_EVERY_S / 10)  # one look for a burst of events
            except TimeoutError:
                pass  # the usual case: nothing poked
            self._poked.clear()

    @property
    def lives(self) -> int:
        """Instances that are known to live."""
        return sum(book.lives for book in self._books.values())

    async def look(self) -> tuple[bool, bool]:
        """One look. Returns whether anything was written, and whether the journal goes on beyond what was read.

        Anybody may ask; looks are made one after the other. One that began is finished though its caller goes away:
        a transaction that committed unnoticed would be made again.

        Raises: StoreFailed, OSError, ValueError for a journal line that cannot be read.
        """
        task = asyncio.create_task(self._look_alone())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)
        return await asyncio.shield(task)

    async def _look_alone(self) -> tuple[bool, bool]:
        async with self._lock:
            try:
                return await self._look()
            except BaseException:
                # Whether it was committed may be unknown: the database is asked again before the next look.
                self._mark = None
                self._series.forget()
                raise

    async def _look(self) -> tuple[bool, bool]:
        if self._mark is None:
            mark, held = await self._database.read(lambda c: (rows.journal_mark(c), rows.books(c)))
            self._mark = mark
            self._books = {fleet: book for fleet, book in held.items() if book.lives}
        look = await asyncio.to_thread(self._gather, self._mark)
        accrues = self._accrues(look)
        if not (look.journal.events or look.counters or accrues or look.gauges or self._zeros_due(look)):
            self._minute_s = look.at_ns // 1_000_000_000 // MINUTE_S
            return False, False
        change = _Change(self._books, self._boot)
        await self._database.write(lambda connection: self._write(connection, look, change, accrues))
        failpoint("metering.after_commit")
        self._taken(look, change, accrues)
        return True, not look.journal.at_end

    def _taken(self, look: Look, change: _Change, accrued: bool) -> None:
        """The transaction is durable: memory follows."""
        self._mark = look.journal.mark
        self._boot = change.boot
        self._books |= change.books
        self._counters.confirm(look.counters)
        self._minute_s = look.at_ns // 1_000_000_000 // MINUTE_S
        if accrued:
            self._accrued_ns = look.at_ns
        if len(self._books) > BOOKS_KEPT:
            self._books = {fleet: book for fleet, book in self._books.items() if book.lives}

    def _gather(self, mark: Mark) -> Look:
        at_ns = self._clock_ns()
        beat_ns = min(heartbeat_ns(self._heartbeat), at_ns)
        journal = self._journal.read(mark)
        minute_over = self._minute_s != 0 and at_ns // 1_000_000_000 // MINUTE_S > self._minute_s
        gauges: tuple[Gauge, ...] = ()
        models: Instances = {}
        if minute_over and self.lives:
            workers = list(self._workers())
            gauges = tuple(self._gauges.look(workers, at_ns / 1e9))
            models = of_instances(self._models(), workers)
        return Look(at_ns, beat_ns, journal, self._counters.changed(), gauges, models, minute_over)

    def _accrues(self, look: Look) -> bool:
        due = look.at_ns - self._accrued_ns >= ACCRUE_EVERY_NS or look.at_ns < self._accrued_ns
        return due and look.journal.at_end and self.lives > 0

    def _zeros_due(self, look: Look) -> bool:
        return look.minute_over and self.lives > 0

    # -- the transaction -------------------------------------------------------------------------

    def _write(self, connection: Connection, look: Look, change: _Change, accrues: bool) -> None:
        lived = {fleet for fleet, book in self._books.items() if book.lives}
        for event in look.journal.events:
            self._take(connection, change, event)
        if accrues:
            for fleet in {*lived, *change.books}:
                change.books[fleet] = money.accrue(change.book(connection, fleet), look.beat_ns)
        self._count(connection, change, look)
        failpoint("metering.after_samples")
        for fleet, book in change.books.items():
            settled, entries = money.settle(fleet, book, look.at_ns)
            rows.charge(connection, entries, settled)
            failpoint("metering.between_charges")
            change.books[fleet] = settled
            if settled != change.before[fleet]:
                rows.save_book(connection, fleet, settled)
        failpoint("metering.after_books")
        if look.journal.events:
            rows.save_journal_mark(connection, look.journal.mark)
        if look.minute_over:
            self._end_minute(connection, change, look, lived)
        failpoint("metering.before_commit")

    def _take(self, connection: Connection, change: _Change, event: Mapping[str, Any]) -> None:
        """One line of the journal."""
        kind = event["event"]
        if kind not in ("started", "exited"):
            return
        fleet, instance = instance_of(event)
        if kind == "exited":
            book = change.book(connection, fleet)
            change.books[fleet] = money.exited(book, instance, event["worker"], event["at_ns"])
            return
        if event["boot"] != change.boot:
            self._rebooted(connection, change, event["boot"])
        book = change.book(connection, fleet)
        label = event.get("label") or {}
        if label:
            known = Label(str(label.get("instance_type", "")), int(label.get("serverless_mib", 0)))
            book = money.labelled(book, known, self._prices)
        change.books[fleet] = money.started(book, instance, Life(event["worker"], event["at_ns"], event["boot"]))

    def _rebooted(self, connection: Connection, change: _Change, boot: str) -> None:
        """The machine was started again: what the journal did not end, the end of the machine did."""
        for fleet in {*self._books, *change.books}:
            change.books[fleet] = money.rebooted(change.book(connection, fleet), boot)
        change.boot = boot

    def _count(self, connection: Connection, change: _Change, look: Look) -> None:
        at_s = look.at_ns // 1_000_000_000 // MINUTE_S * MINUTE_S
        for usage in look.counters.values():
            book, growth = money.counted(change.book(connection, usage.fleet), usage.numbers)
            change.books[usage.fleet] = book
            if not growth:
                continue
            place, variant = self._variant(usage.fleet)
            container = parse_fleet_name(usage.fleet).container
            own = tuple(sorted((*variant, ("ContainerName", container))))
            scopes = [(variant, self._samples(change, usage.fleet, growth))]
            if container:
                # A pipeline's requests are counted in its variant's account, its steps here; in direct mode each
                # request is its container's, and the variant's too.
                whole = [] if usage["steps"] else [*scopes, (own, scopes[0][1])]
                scopes = [*whole, (own, container_latency(growth))]
            for dimensions, made in scopes:
                for name, (unit, sample) in made.items():
                    self._series.add(connection, place, Metric(VARIANT_METRICS, name, dimensions, unit), at_s, sample)

    def _samples(self, change: _Change, fleet: str, growth: Mapping[int, int]) -> dict[str, tuple[str, Sample]]:
        if parse_fleet_name(fleet).kind != INFERENCE_COMPONENT:
            return of_growth(growth, self._instances(change, fleet))
        # Its workers' time is its host's, so its own book knows no lives: what runs now is counted.
        return of_component(growth, len({one["instance"] for one in self._workers() if one["fleet"] == fleet}))

    def _instances(self, change: _Change, fleet: str) -> int:
        """Instances of the fleet's variant, over all its generations."""
        variant = account_of(fleet).rpartition("/")[0] + "/"
        books = {**self._books, **change.books}
        return sum(book.lives for name, book in books.items() if name.startswith(variant))

    def _variant(self, fleet: str) -> tuple[Place, tuple[tuple[str, str], ...]]:
        name = parse_fleet_name(fleet)
        place = Place(self._account, name.region)
        if name.kind == INFERENCE_COMPONENT:
            return place, (("InferenceComponentName", name.owner),)
        return place, (("EndpointName", name.endpoint), ("VariantName", name.variant))

    def _end_minute(self, connection: Connection, change: _Change, look: Look, lived: set[str]) -> None:
        """Zeros for the minute that ended where nobody asked, gauges, and what is too old."""
        now_s = look.at_ns // 1_000_000_000
        ended_s = (now_s // MINUTE_S - 1) * MINUTE_S
        for fleet in lived:
            if parse_fleet_name(fleet).kind != ENDPOINT:
                continue  # a job has no invocations that could be none
            place, dimensions = self._variant(fleet)
            for name in ZEROS:
                metric = Metric(VARIANT_METRICS, name, dimensions)
                self._series.add_missing(connection, place, metric, ended_s, constant(0.0, 1))
        for gauge in look.gauges:
            place, dimensions = self._variant(gauge.fleet)
            namespace, of = INSTANCE_METRICS, parse_fleet_name(gauge.fleet)
            if of.kind != ENDPOINT:
                namespace, dimensions = TRANSFORM_METRICS, (("Host", f"{of.owner}/{gauge.instance}"),)
            if of.kind == INFERENCE_COMPONENT:
                namespace, dimensions = COMPONENT_METRICS, (("InferenceComponentName", of.owner),)
            values = {"CPUUtilization": gauge.cpu_percent}
            memory_bytes = self._memory_bytes(change.book(connection, gauge.fleet))
            if memory_bytes:
                values["MemoryUtilization"] = gauge.memory_bytes / memory_bytes * 100
            for name, value in values.items():
                metric = Metric(namespace, name, dimensions, "Percent")
                sample: Sample = of_values([(value, 1)])
                self._series.add(connection, place, metric, ended_s, sample)
        for (fleet, _), count in look.models.items():
            place, dimensions = self._variant(fleet)
            metric = Metric(INSTANCE_METRICS, "LoadedModelCount", dimensions)
            self._series.add(connection, place, metric, ended_s, constant(float(count), 1))
        if now_s - self._pruned_s >= PRUNE_EVERY_S:
            prune(connection, now_s - KEPT_S)
            self._pruned_s = now_s

    def _memory_bytes(self, book: FleetBook) -> int:
        """What an instance of the fleet has by the catalogue; 0 when that is not known."""
        if book.label is None:
            return 0
        if book.label.serverless_mib:
            return book.label.serverless_mib * 1024 * 1024
        kind = self._prices.instances.get(book.label.instance_type)
        return int(kind.memory_gib * 1024**3) if kind else 0
