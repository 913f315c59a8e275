"""The ledger against the raw usage, computed a second way: no folding, no increments, one sum a fleet and meter.

For every instance the lives in the journal, those of all its containers, are joined to a union of intervals, whose
length times the price is what the ledger's rows must add up to, and whose extent the rows must cover without gap or
overlap. For counted meters the counters' own totals are priced. Only what metering has read already takes part; what it
has yet to read is told apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection

from clary.domain.fleet_name import account_of
from clary.domain.ledger import COUNTED, UNITS, CostEntry, FleetBook, InstanceTime, Meter, Span, union
from clary.domain.usage import INDEX
from clary.paths import Layout
from clary.store import ledger as rows
from clary.store.database import Database
from clary.store.raw_usage import CounterFile, Mark, instance_of


@dataclass(frozen=True, slots=True)
class Difference:
    """A place where ledger and raw usage do not agree. Quantities in the meter's unit; gaps and overlaps in ns."""

    fleet: str
    meter: Meter
    instance: int
    ledger_quantity: int
    raw_quantity: int
    ledger_nanousd: int
    raw_nanousd: int
    gap_ns: int = 0
    overlap_ns: int = 0
    beyond_ns: int = 0  # charged, though no life in the journal covers it


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The outcome. `behind_*`: raw usage that metering has not read yet, which is no difference."""

    ledger_nanousd: int
    raw_nanousd: int
    differences: tuple[Difference, ...]
    unpriced: tuple[str, ...]  # fleets whose label the journal has not told
    behind_bytes: int
    behind_requests: int

    @property
    def exact(self) -> bool:
        """Whether the ledger says what the raw usage says, to the nano-USD."""
        return not self.differences and self.ledger_nanousd == self.raw_nanousd


@dataclass(frozen=True, slots=True)
class _Held:
    mark: Mark
    books: dict[str, FleetBook]
    entries: list[CostEntry]


def _held(connection: Connection) -> _Held:
    return _Held(rows.journal_mark(connection), rows.books(connection), rows.entries(connection))


def reconcile(layout: Layout, database: Database | None = None) -> Reconciliation:
    """Compares. Without `database` the file is opened for reading only, beside whatever else runs.

    Raises: OSError, StoreFailed.
    """
    own = database or Database(f"sqlite:///file:{layout.database}?mode=ro&uri=true")
    try:
        held = own.read_now(_held)
    finally:
        if database is None:
            own.close()
    journal = layout.journal.read_bytes() if layout.journal.exists() else b""
    lives = _lives(journal[: held.mark.position])
    charged: dict[tuple[str, str, int], list[CostEntry]] = {}
    for entry in held.entries:
        charged.setdefault((entry.fleet, entry.meter, entry.instance), []).append(entry)
    differences: list[Difference] = []
    ledger_nanousd = raw_nanousd = 0
    for key in sorted({*charged, *_expected(held.books, lives)}):
        found = _compare(key, charged.get(key, []), held.books.get(key[0], FleetBook()), lives)
        ledger_nanousd += found.ledger_nanousd
        raw_nanousd += found.raw_nanousd
        right = found.ledger_nanousd == found.raw_nanousd and found.ledger_quantity == found.raw_quantity
        if not right or found.gap_ns or found.overlap_ns or found.beyond_ns:
            differences.append(found)
    behind_requests = 0
    for usage in CounterFile(layout.counters).changed().values():
        seen = held.books.get(usage.fleet, FleetBook()).seen
        behind_requests += max(0, usage["requests"] - seen.get(str(INDEX["requests"]), 0))
    return Reconciliation(
        ledger_nanousd,
        raw_nanousd,
        tuple(differences),
        # A container's calls are counted; it costs nothing beside its instance.
        tuple(sorted(f for f, book in held.books.items() if book.tariff is None and account_of(f) == f)),
        len(journal) - held.mark.position,
        behind_requests,
    )


Lives = dict[tuple[str, int], dict[str, tuple[int, int | None]]]


def _lives(journal: bytes) -> Lives:
    """(fleet, instance) -> worker -> (start, end or None while it lives)."""
    lives: Lives = {}
    for line in journal.splitlines():
        event = json.loads(line)
        if event["event"] not in ("started", "exited"):
            continue
        mine = lives.setdefault(instance_of(event), {})
        if event["event"] == "started":
            mine.setdefault(event["worker"], (event["at_ns"], None))
        elif event["worker"] in mine:
            mine[event["worker"]] = (mine[event["worker"]][0], event["at_ns"])
    return lives


def _expected(books: dict[str, FleetBook], lives: Lives) -> set[tuple[str, str, int]]:
    keys: set[tuple[str, str, int]] = set()
    for fleet, book in books.items():
        if book.tariff is None:
            continue
        keys |= {(fleet, meter, 0) for meter in COUNTED if meter.value in book.tariff.nanousd}
    for fleet, instance in lives:
        held = books.get(fleet, FleetBook())
        if held.tariff is not None and not (held.label and held.label.serverless_mib):
            keys.add((fleet, Meter.INSTANCE, instance))
    return keys


def _compare(key: tuple[str, str, int], entries: list[CostEntry], book: FleetBook, lives: Lives) -> Difference:
    fleet, meter, instance = key[0], Meter(key[1]), key[2]
    rate = book.tariff.nanousd.get(meter.value, 0) if book.tariff else 0
    gap_ns = overlap_ns = beyond_ns = 0
    if meter is Meter.INSTANCE:
        time = book.instances.get(str(instance), InstanceTime())
        lived = _union(lives.get((fleet, instance), {}), time)
        charged = union(Span(entry.start_ns, entry.end_ns) for entry in entries)
        both = _length(union([*lived, *charged]))
        gap_ns, beyond_ns = both - _length(charged), both - _length(lived)
        overlap_ns = sum(entry.end_ns - entry.start_ns for entry in entries) - _length(charged)
        raw = _length(lived)
    else:
        raw = book.seen.get(str(INDEX[COUNTED[meter]]), 0)
    return Difference(
        fleet=fleet,
        meter=meter,
        instance=instance,
        ledger_quantity=sum(entry.quantity for entry in entries),
        raw_quantity=raw,
        ledger_nanousd=sum(entry.nanousd for entry in entries),
        raw_nanousd=rate * raw // UNITS[meter],
        gap_ns=gap_ns,
        overlap_ns=overlap_ns,
        beyond_ns=beyond_ns,
    )


def _union(lives: dict[str, tuple[int, int | None]], time: InstanceTime) -> list[Span]:
    """The time that an instance lived: what lives still, up to where metering has found it alive."""
    spans = []
    for start_ns, end_ns in lives.values():
        if end_ns is None:
            reached = [one.end_ns for one in time.covered if one.start_ns <= start_ns < one.end_ns]
            end_ns = reached[0] if reached else start_ns
        spans.append(Span(start_ns, end_ns))
    return union(spans)


def _length(spans: list[Span]) -> int:
    return sum(one.end_ns - one.start_ns for one in spans)
