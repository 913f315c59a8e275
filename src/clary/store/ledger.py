"""The ledger's rows, and what metering remembers between two looks: written together, in the caller's transaction.

A charge that goes on where the last row of its fleet, meter and instance ended, within the same hour, makes that row
longer; so a row is a closed period of at most an hour, and a day of a steady endpoint is twenty-four rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, insert, select, update

from clary.domain.fleet_name import parse_fleet_name
from clary.domain.ledger import HOUR_NS, CostEntry, FleetBook
from clary.store.codec import decode, encode
from clary.store.database import Database
from clary.store.raw_usage import Mark
from clary.store.schema import ledger, offsets

JOURNAL = "journal"
FLEET = "fleet:"
DAY_NS = 24 * HOUR_NS


class By(StrEnum):
    """What sums are grouped by."""

    ENDPOINT = "endpoint"
    VARIANT = "variant"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Sum:
    """What one endpoint, variant or day cost by one meter.

    endpoint and variant are empty and day_ns 0 where they were not asked for.
    quantity: nanoseconds for "instance", milliseconds for "serverless", bytes for the data meters.
    """

    region: str
    endpoint: str
    variant: str
    day_ns: int  # start of the day, UTC
    meter: str
    instance_type: str
    quantity: int
    nanousd: int
    price_source: str


# -- the journal's place and the fleets' books -------------------------------------------------------


def journal_mark(connection: Connection) -> Mark:
    row = connection.execute(select(offsets.c.state).where(offsets.c.source == JOURNAL)).first()
    return decode(Mark, json.loads(row.state)) if row else Mark()


def save_journal_mark(connection: Connection, mark: Mark) -> None:
    _save(connection, JOURNAL, mark.position, encode(mark))


def book(connection: Connection, fleet: str) -> FleetBook:
    """What was remembered of the fleet; an empty book of an unknown one."""
    row = connection.execute(select(offsets.c.state).where(offsets.c.source == FLEET + fleet)).first()
    return decode(FleetBook, json.loads(row.state)) if row else FleetBook()


def books(connection: Connection) -> dict[str, FleetBook]:
    """All of them, by fleet."""
    query = select(offsets.c.source, offsets.c.state).where(offsets.c.source.startswith(FLEET, autoescape=True))
    return {row.source[len(FLEET) :]: decode(FleetBook, json.loads(row.state)) for row in connection.execute(query)}


def save_book(connection: Connection, fleet: str, value: FleetBook) -> None:
    _save(connection, FLEET + fleet, 0, encode(value))


def _save(connection: Connection, source: str, position: int, state: Any) -> None:
    values = {"position": position, "state": json.dumps(state, separators=(",", ":"))}
    if not connection.execute(update(offsets).where(offsets.c.source == source).values(**values)).rowcount:
        connection.execute(insert(offsets).values(source=source, **values))


# -- rows --------------------------------------------------------------------------------------------


def charge(connection: Connection, entries: Sequence[CostEntry], of: FleetBook) -> None:
    """Writes charges of one fleet."""
    for entry in entries:
        hour_ns = (max(entry.end_ns, 1) - 1) // HOUR_NS * HOUR_NS
        same = (
            (ledger.c.fleet == entry.fleet)
            & (ledger.c.meter == entry.meter.value)
            & (ledger.c.instance == entry.instance)
            & (ledger.c.end_ns == entry.start_ns)
            & (ledger.c.end_ns > hour_ns)
        )
        longer = update(ledger).where(same)
        longer = longer.values(
            end_ns=entry.end_ns,
            quantity=ledger.c.quantity + entry.quantity,
            nanousd=ledger.c.nanousd + entry.nanousd,
        )
        if not connection.execute(longer).rowcount:
            connection.execute(insert(ledger).values(**_row(entry, of)))


def _row(entry: CostEntry, of: FleetBook) -> dict[str, Any]:
    name = parse_fleet_name(entry.fleet)
    label = of.label
    kind = ""
    if label is not None:
        kind = f"serverless {label.serverless_mib} MiB" if label.serverless_mib else label.instance_type
    return {
        "fleet": entry.fleet,
        "region": name.region,
        "endpoint": name.endpoint,
        "variant": name.variant,
        "meter": entry.meter.value,
        "instance": entry.instance,
        "instance_type": kind,
        "start_ns": entry.start_ns,
        "end_ns": entry.end_ns,
        "quantity": entry.quantity,
        "nanousd": entry.nanousd,
        "price_source": of.tariff.source if of.tariff else "",
    }


def entries(connection: Connection) -> list[CostEntry]:
    """Every row, by fleet, meter, instance and time."""
    c = ledger.c
    query = select(c.fleet, c.meter, c.instance, c.start_ns, c.end_ns, c.quantity, c.nanousd).order_by(
        c.fleet, c.meter, c.instance, c.start_ns, c.id
    )
    return [CostEntry(*row) for row in connection.execute(query)]


class Ledger:
    """The query side, for the command line and the console."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sums(
        self, by: By | str = By.ENDPOINT, region: str | None = None, since_ns: int | None = None
    ) -> list[Sum]:
        """Costs and quantities, by meter, instance type and price source within each group; largest group first.

        since_ns: only periods that end after it; a period that began earlier counts whole. Periods are at most an hour.
        """
        return await self._database.read(lambda connection: sums(connection, By(by), region, since_ns))


def sums(connection: Connection, by: By, region: str | None, since_ns: int | None) -> list[Sum]:
    """See `Ledger.sums`. Added up here, not in SQL: Python's integers do not overflow."""
    query = select(ledger)
    if region is not None:
        query = query.where(ledger.c.region == region)
    if since_ns is not None:
        query = query.where(ledger.c.end_ns > since_ns)
    totals: dict[tuple[str, str, str, int, str, str, str], list[int]] = {}
    for row in connection.execute(query):
        key = (
            row.region,
            row.endpoint if by is not By.DAY else "",
            row.variant if by is By.VARIANT else "",
            (max(row.end_ns, 1) - 1) // DAY_NS * DAY_NS if by is By.DAY else 0,
            row.meter,
            row.instance_type,
            row.price_source,
        )
        total = totals.setdefault(key, [0, 0])
        total[0] += row.quantity
        total[1] += row.nanousd
    found = [
        Sum(place, endpoint, variant, day_ns, meter, kind, quantity, nanousd, source)
        for (place, endpoint, variant, day_ns, meter, kind, source), (quantity, nanousd) in totals.items()
    ]
    if by is By.DAY:
        return sorted(found, key=lambda one: (one.day_ns, one.region, one.meter, one.instance_type))
    return sorted(found, key=lambda one: (-one.nanousd, one.region, one.endpoint, one.variant, one.meter))
