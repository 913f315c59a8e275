"""What triggers have yet to do: durable with what caused it, done at least once, bounded.

A call's id is made from its cause, so the same cause written down twice is one call as long as it waits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from clary.domain.errors import LimitExceeded
from clary.domain.names import Place
from clary.store.database import Database
from clary.store.schema import calls, offsets


@dataclass(frozen=True, slots=True)
class Terms:
    """By whose rights a call is made where it needs any, how often it is tried, and where it goes when all failed."""

    role_arn: str = ""
    user: str = ""  # whose rights hold where IAM holds no such role
    user_role: str = ""
    retries: int = 185
    max_age_s: int = 86_400
    dead_letter_arn: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """`target` is an ARN, `body` what it gets, as text."""

    id: str
    place: Place
    target: str
    body: str
    terms: Terms = field(default_factory=Terms)
    number: int = 0
    attempts: int = 0
    created_us: int = 0


class Calls:
    """See the module. `most` may wait at once."""

    def __init__(self, database: Database, now: Callable[[], datetime], most: int) -> None:
        self._database = database
        self._now = now
        self._most = most
        self.due = asyncio.Event()

    def now_us(self) -> int:
        return round(self._now().timestamp() * 1_000_000)

    def put(self, connection: Connection, wanted: Sequence[Call], delay_s: float = 0.0) -> None:
        """Within the caller's transaction; who calls says `woken` when it has committed. Raises: LimitExceeded."""
        if not wanted:
            return
        held = connection.execute(select(func.count()).select_from(calls)).scalar_one()
        if held + len(wanted) > self._most:
            raise LimitExceeded(
                "calls of triggers that wait", maximum=self._most, asked=held + len(wanted), setting="calls_limit"
            )
        now_us = self.now_us()
        rows = [
            {
                "id": one.id,
                "account": one.place.account,
                "region": one.place.region,
                "target": one.target,
                "body": one.body,
                "terms": json.dumps(asdict(one.terms)),
                "attempts": 0,
                "due_us": now_us + round(delay_s * 1_000_000),
                "created_us": now_us,
            }
            for one in wanted
        ]
        connection.execute(upsert(calls).on_conflict_do_nothing(index_elements=["id"]), rows)

    async def add(self, wanted: Sequence[Call]) -> None:
        """Durable when it returns. Raises: LimitExceeded, StoreFailed."""
        await self._database.write(lambda connection: self.put(connection, wanted))
        self.woken()

    def woken(self) -> None:
        self.due.set()

    async def add_from(self, source: str, position: int, wanted: Sequence[Call]) -> None:
        """Calls made from a numbered source up to `position`, once: what was taken over before is not again."""

        def work(connection: Connection) -> None:
            found = connection.execute(
                select(offsets.c.position).where(offsets.c.source == source)
            ).scalar_one_or_none()
            if found is not None and found >= position:
                return
            self.put(connection, wanted)
            if found is None:
                connection.execute(insert(offsets).values(source=source, position=position, state=""))
            else:
                connection.execute(update(offsets).where(offsets.c.source == source).values(position=position))

        await self._database.write(work)
        self.woken()

    async def position(self, source: str) -> int:
        """How far a numbered source has been taken over."""
        query = select(offsets.c.position).where(offsets.c.source == source)
        return await self._database.read(lambda c: int(c.execute(query).scalar_one_or_none() or 0))

    async def due_now(self, count: int, excluded: Collection[int]) -> list[Call]:
        """Up to `count` that are due, oldest first, without those of the numbers `excluded`."""
        query = (
            select(calls)
            .where(calls.c.due_us <= self.now_us(), calls.c.number.not_in(list(excluded)))
            .order_by(calls.c.due_us, calls.c.number)
            .limit(count)
        )
        return await self._database.read(lambda c: [_call(row) for row in c.execute(query)])

    async def next_due_us(self, excluded: Collection[int]) -> int | None:
        query = select(func.min(calls.c.due_us)).where(calls.c.number.not_in(list(excluded)))
        return await self._database.read(lambda c: c.execute(query).scalar_one())

    def forget(self, connection: Connection, call: Call) -> None:
        """It is done, within the caller's transaction."""
        connection.execute(delete(calls).where(calls.c.number == call.number))

    async def done(self, call: Call) -> None:
        await self._database.write(lambda connection: self.forget(connection, call))

    async def later(self, call: Call, after_s: float) -> None:
        """It failed; it is due again in a while."""
        values = {"attempts": call.attempts + 1, "due_us": self.now_us() + round(after_s * 1_000_000)}
        await self._database.write(
            lambda connection: connection.execute(update(calls).where(calls.c.number == call.number).values(**values))
        )

    async def waiting(self) -> int:
        query = select(func.count()).select_from(calls)
        return await self._database.read(lambda c: int(c.execute(query).scalar_one()))


def _call(row: Any) -> Call:
    return Call(
        row.id,
        Place(row.account, row.region),
        row.target,
        row.body,
        Terms(**json.loads(row.terms)),
        row.number,
        row.attempts,
        row.created_us,
    )
