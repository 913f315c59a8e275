"""Usage to money, exactly: every charge is the difference of two whole sums, so parts add up to the nano-USD.

An instance is charged for the time in which at least one of its workers lived, whichever of its containers it served:
the union of their lives on the wall clock. The fleet charged is its variant's account (`fleet_name.account_of`). A
serverless variant is charged for processed milliseconds and for bytes. Both are cumulative quantities of one fleet, and
the charge for going from quantity a to b is floor(rate * b / unit) - floor(rate * a / unit). So however often and
wherever charges are made, their sum is floor(rate * total / unit): a number that anybody can compute again.

A `FleetBook` is all that has to be remembered of a fleet between two looks at the raw usage. Functions here take a book
and give the next; nothing is changed in place.

What was covered is remembered as spans, not as one end: a life may be told of late (it is announced once its process
id is known, and its start lies before), and then exactly the part that no other worker covered is charged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from clary.domain.prices import PriceBook
from clary.domain.usage import INDEX

HOUR_NS = 3_600 * 1_000_000_000
HOUR_MS = 3_600 * 1_000
GB = 1_000_000_000
# How late a life may be told of and still be charged exactly: the longest startup timeout that an endpoint may have.
LATE_NS = HOUR_NS


class Meter(StrEnum):
    """What is measured."""

    INSTANCE = "instance"
    SERVERLESS = "serverless"
    DATA_IN = "data_in"
    DATA_OUT = "data_out"


# The meters that follow the proxy's counters.
COUNTED = {Meter.SERVERLESS: "billed_ms", Meter.DATA_IN: "request_bytes", Meter.DATA_OUT: "response_bytes"}
UNITS = {Meter.INSTANCE: HOUR_NS, Meter.SERVERLESS: HOUR_MS, Meter.DATA_IN: GB, Meter.DATA_OUT: GB}


@dataclass(frozen=True, slots=True)
class CostEntry:
    """One charge of one fleet. Those of one instance never overlap."""

    fleet: str
    meter: Meter
    instance: int  # 0 for counted meters
    start_ns: int  # charge period, wall clock
    end_ns: int
    quantity: int  # nanoseconds, milliseconds or bytes
    nanousd: int


@dataclass(frozen=True, slots=True)
class Label:
    """What the journal tells of a fleet besides its name."""

    instance_type: str
    serverless_mib: int


@dataclass(frozen=True, slots=True)
class Tariff:
    """A fleet's prices, fixed with its first label: a new price list holds for new deployments.

    `nanousd` per unit (`UNITS`) by meter; a meter that is not there costs nothing.
    """

    nanousd: dict[str, int]
    source: str


@dataclass(frozen=True, slots=True)
class Span:
    """Wall-clock nanoseconds from `start_ns` to before `end_ns`."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Life:
    """A worker that lives. `boot` is the boot id under which it was started."""

    worker: str
    start_ns: int
    boot: str = ""


@dataclass(frozen=True, slots=True)
class InstanceTime:
    """One instance: who lives, what time is covered, and how much of it is in the ledger."""

    open: tuple[Life, ...] = ()
    covered: tuple[Span, ...] = ()  # sorted, disjoint, not touching; the part before the last `LATE_NS` is forgotten
    uncharged: tuple[Span, ...] = ()
    charged_ns: int = 0


@dataclass(frozen=True, slots=True)
class FleetBook:
    """One fleet between two looks at the raw usage."""

    label: Label | None = None
    tariff: Tariff | None = None
    instances: dict[str, InstanceTime] = field(default_factory=dict)  # by instance number
    seen: dict[str, int] = field(default_factory=dict)  # the proxy's numbers by index, zeros left out
    used: dict[str, int] = field(default_factory=dict)  # by counted meter: all that was ever counted
    charged: dict[str, int] = field(default_factory=dict)  # by counted meter: what is in the ledger
    counted_to_ns: int = 0  # end of the last charge of counted meters

    @property
    def lives(self) -> int:
        """Instances of which at least one worker lives."""
        return sum(1 for time in self.instances.values() if time.open)


def between(rate_nanousd: int, unit: int, before: int, after: int) -> int:
    """The charge for the quantity from `before` to `after` at `rate_nanousd` per `unit`, in whole nano-USD."""
    return rate_nanousd * after // unit - rate_nanousd * before // unit


def tariff_of(label: Label, prices: PriceBook) -> Tariff:
    """What the fleet costs. A type or memory size that the list lacks costs nothing, and the source says so."""
    if label.serverless_mib:
        rate = prices.serverless_nanousd_per_hour.get(label.serverless_mib)
        if rate is None:
            return Tariff({}, f"no list price for serverless memory of {label.serverless_mib} MiB")
        data = {
            Meter.DATA_IN.value: prices.data_in_nanousd_per_gb,
            Meter.DATA_OUT.value: prices.data_out_nanousd_per_gb,
        }
        return Tariff({Meter.SERVERLESS.value: rate, **data}, prices.source)
    found = prices.instances.get(label.instance_type)
    if found is None:
        return Tariff({}, f"no list price for {label.instance_type or 'an unnamed instance type'}")
    return Tariff({Meter.INSTANCE.value: found.nanousd_per_hour}, prices.source)


def labelled(book: FleetBook, label: Label, prices: PriceBook) -> FleetBook:
    """The fleet's label is known; a second one changes nothing."""
    if book.label is not None:
        return book
    return replace(book, label=label, tariff=tariff_of(label, prices))


# -- worker lives ----------------------------------------------------------------------------------


def started(book: FleetBook, instance: int, life: Life) -> FleetBook:
    """A worker began to live; one that lives already is left as it is."""
    time = book.instances.get(str(instance), InstanceTime())
    if any(other.worker == life.worker for other in time.open):
        return book
    return _with(book, instance, replace(time, open=(*time.open, life)))


def exited(book: FleetBook, instance: int, worker: str, at_ns: int) -> FleetBook:
    """A worker ended; one that is not known to live changes nothing."""
    time = book.instances.get(str(instance))
    life = next((one for one in time.open if one.worker == worker), None) if time else None
    if time is None or life is None:
        return book
    rest = tuple(one for one in time.open if one.worker != worker)
    return _with(book, instance, replace(_cover(time, Span(life.start_ns, at_ns)), open=rest))


def rebooted(book: FleetBook, boot: str) -> FleetBook:
    """Ends the lives of other boots at what is covered: a power cut took them, and the line that would have said so."""
    for number, time in book.instances.items():
        if any(life.boot != boot for life in time.open):
            kept = tuple(life for life in time.open if life.boot == boot)
            book = _with(book, int(number), replace(time, open=kept))
    return book


def accrue(book: FleetBook, now_ns: int) -> FleetBook:
    """Covers what lives up to `now_ns`, a moment at which it is proven to have lived."""
    for number, time in book.instances.items():
        grown = time
        for life in time.open:
            grown = _cover(grown, Span(life.start_ns, now_ns))
        if grown is not time:
            book = _with(book, int(number), grown)
    return book


def _with(book: FleetBook, instance: int, time: InstanceTime) -> FleetBook:
    return replace(book, instances={**book.instances, str(instance): time})


def _cover(time: InstanceTime, span: Span) -> InstanceTime:
    """Adds the part of `span` that is not covered yet; the very same object when there is none."""
    pieces = []
    at_ns = span.start_ns
    for held in time.covered:
        if held.end_ns <= at_ns:
            continue
        if held.start_ns >= span.end_ns:
            break
        if held.start_ns > at_ns:
            pieces.append(Span(at_ns, held.start_ns))
        at_ns = held.end_ns
    if at_ns < span.end_ns:
        pieces.append(Span(at_ns, span.end_ns))
    if not pieces:
        return time
    merged = union([*time.covered, *pieces])
    # A span may be forgotten when neither a living worker nor one that is told of late can begin before its end.
    horizon_ns = min([merged[-1].end_ns - LATE_NS, *(life.start_ns for life in time.open)])
    kept = tuple(one for one in merged if one.end_ns >= horizon_ns)
    return replace(time, covered=kept, uncharged=tuple(union([*time.uncharged, *pieces])))


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time as sorted spans that neither overlap nor touch; empty ones are left out."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda one: one.start_ns):
        if span.end_ns <= span.start_ns:
            continue
        if merged and span.start_ns <= merged[-1].end_ns:
            if span.end_ns > merged[-1].end_ns:
                merged[-1] = Span(merged[-1].start_ns, span.end_ns)
        else:
            merged.append(span)
    return merged


# -- counters --------------------------------------------------------------------------------------


def counted(book: FleetBook, numbers: Sequence[int]) -> tuple[FleetBook, dict[int, int]]:
    """Takes the proxy's numbers as they stand now; also what each grew by, by index.

    A number that went back (a power cut took the file's last second) counts on from where it is now.
    """
    seen = {str(index): value for index, value in enumerate(numbers) if value}
    growth = {}
    for index, value in enumerate(numbers):
        before = book.seen.get(str(index), 0)
        if value > before:
            growth[index] = value - before
    if seen == book.seen:
        return book, growth
    used = dict(book.used)
    for meter, name in COUNTED.items():
        used[meter.value] = used.get(meter.value, 0) + growth.get(INDEX[name], 0)
    return replace(book, seen=seen, used=used), growth


# -- charges ---------------------------------------------------------------------------------------


def settle(fleet: str, book: FleetBook, now_ns: int) -> tuple[FleetBook, list[CostEntry]]:
    """Charges all that is not charged yet; nothing while the fleet's label is unknown.

    `now_ns` ends the charge period of counted meters.
    """
    if book.tariff is None:
        return book, []
    entries: list[CostEntry] = []
    for number, time in book.instances.items():
        if time.uncharged:
            rate = book.tariff.nanousd.get(Meter.INSTANCE.value)
            if rate is not None or not (book.label and book.label.serverless_mib):
                entries += _instance_entries(fleet, int(number), time, rate or 0)
            total_ns = time.charged_ns + sum(one.end_ns - one.start_ns for one in time.uncharged)
            book = _with(book, int(number), replace(time, uncharged=(), charged_ns=total_ns))
    return _settle_counted(fleet, book, now_ns, entries)


def _instance_entries(fleet: str, instance: int, time: InstanceTime, rate: int) -> list[CostEntry]:
    entries, before = [], time.charged_ns
    for span in time.uncharged:
        for part in _hours(span):
            after = before + part.end_ns - part.start_ns
            cost = between(rate, HOUR_NS, before, after)
            entries.append(CostEntry(fleet, Meter.INSTANCE, instance, part.start_ns, part.end_ns, after - before, cost))
            before = after
    return entries


def _settle_counted(
    fleet: str, book: FleetBook, now_ns: int, entries: list[CostEntry]
) -> tuple[FleetBook, list[CostEntry]]:
    assert book.tariff is not None
    grown = {
        meter: book.used.get(meter.value, 0)
        for meter in COUNTED
        if meter.value in book.tariff.nanousd and book.used.get(meter.value, 0) > book.charged.get(meter.value, 0)
    }
    if not grown:
        return book, entries
    end_ns = max(now_ns, book.counted_to_ns)
    for meter, after in grown.items():
        before = book.charged.get(meter.value, 0)
        cost = between(book.tariff.nanousd[meter.value], UNITS[meter], before, after)
        entries.append(CostEntry(fleet, meter, 0, book.counted_to_ns or end_ns, end_ns, after - before, cost))
    charged = {**book.charged, **{meter.value: after for meter, after in grown.items()}}
    return replace(book, charged=charged, counted_to_ns=end_ns), entries


def _hours(span: Span) -> list[Span]:
    """The span cut at full hours (UTC), so that days add up."""
    parts, at_ns = [], span.start_ns
    while at_ns < span.end_ns:
        end_ns = min(span.end_ns, (at_ns // HOUR_NS + 1) * HOUR_NS)
        parts.append(Span(at_ns, end_ns))
        at_ns = end_ns
    return parts
