"""The durable queue of asynchronous inference.

`accept` returns when the row is on the disk; rows that arrive together share one transaction, so that a burst costs a
few waits for the disk and not one each. A row goes when its outcome is published and told (`finish`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from clary.domain.asynchronous import AsyncConfig, Invocation
from clary.domain.errors import LimitExceeded
from clary.store.codec import decode, encode
from clary.store.database import Database
from clary.store.schema import invocations

FIELDS = tuple(column.name for column in invocations.c if column.name != "number")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row: its place in the queue and what it asks."""

    number: int
    invocation: Invocation
    begun: bool = False  # in this life of control


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is queued or in process for one endpoint."""

    count: int = 0
    oldest_us: int = 0


@dataclass(slots=True)
class _Batch:
    """What the next transaction carries, and who waits for it."""

    rows: list[Invocation] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    done: asyncio.Future[None] | None = None


class Invocations:
    """See the module. `changed` is called in the event loop after rows were added."""

    def __init__(self, database: Database, most: int, changed: Callable[[int], None]) -> None:
        self._database = database
        self._most = most
        self._changed = changed
        self._next = _Batch()
        self._writing = False
        self.count, self.last_at_start = database.read_now(_left)  # rows over all endpoints; the newest one's number

    def check_room(self) -> None:
        """Raises: LimitExceeded when the queue is full."""
        if self.count >= self._most:
            raise LimitExceeded(
                "asynchronous invocations in the queue",
                maximum=self._most,
                asked=self.count + 1,
                setting="async_queue_limit",
            )

    async def accept(self, invocation: Invocation) -> None:
        """Durable when it returns. Raises: LimitExceeded, StoreFailed."""
        self.check_room()
        self.count += 1
        try:
            await self._join(lambda batch: batch.rows.append(invocation))
        except BaseException:
            self.count -= 1
            raise
        self._changed(invocation.endpoint_uid)

    async def finish(self, id_: str) -> None:
        """The row goes. Raises: StoreFailed."""
        await self._join(lambda batch: batch.gone.append(id_))

    async def _join(self, put: Callable[[_Batch], None]) -> None:
        """Takes part in the next transaction and waits for it."""
        batch = self._next
        put(batch)
        if batch.done is None:
            batch.done = asyncio.get_running_loop().create_future()
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().create_task(self._write())
        await asyncio.shield(batch.done)

    async def _write(self) -> None:
        """Writes batches until none has begun."""
        try:
            while self._next.done is not None:
                batch, self._next = self._next, _Batch()
                assert batch.done is not None
                try:
                    self.count -= await self._database.write(partial(_store, batch))
                except Exception as error:  # told to everyone who waits for this transaction
                    batch.done.set_exception(error)
                    batch.done.exception()  # one who waits no longer is no reason for a complaint
                else:
                    batch.done.set_result(None)
        finally:
            self._writing = False

    async def tried(self, id_: str, attempts: int) -> None:
        """Remembers that a worker died over it."""
        await self._database.write(
            lambda connection: connection.execute(
                update(invocations).where(invocations.c.id == id_).values(attempts=attempts)
            )
        )

    async def following(self, endpoint_uid: int, after: int, count: int) -> list[Waiting]:
        """The next rows of an endpoint's queue, oldest first."""

        def work(connection: Connection) -> list[Waiting]:
            query = (
                select(invocations)
                .where(invocations.c.endpoint_uid == endpoint_uid, invocations.c.number > after)
                .order_by(invocations.c.number)
                .limit(count)
            )
            return [Waiting(row.number, _invocation(row)) for row in connection.execute(query)]

        return await self._database.read(work)

    async def backlogs(self) -> dict[int, Backlog]:
        """By endpoint uid."""

        def work(connection: Connection) -> dict[int, Backlog]:
            query = select(invocations.c.endpoint_uid, func.count(), func.min(invocations.c.received_us)).group_by(
                invocations.c.endpoint_uid
            )
            return {row[0]: Backlog(row[1], row[2]) for row in connection.execute(query)}

        return await self._database.read(work)


def _left(connection: Connection) -> tuple[int, int]:
    """How many rows an earlier life left, and the newest one's number."""
    row = connection.execute(select(func.count(), func.max(invocations.c.number)).select_from(invocations)).one()
    return row[0], row[1] or 0


def _store(batch: _Batch, connection: Connection) -> int:
    """Adds and deletes; how many rows went."""
    if batch.rows:
        connection.execute(insert(invocations), [_columns(row) for row in batch.rows])
    gone = 0
    for start in range(0, len(batch.gone), 500):  # SQLite binds at most 999 values
        chosen = invocations.c.id.in_(batch.gone[start : start + 500])
        gone += connection.execute(delete(invocations).where(chosen)).rowcount
    return gone


def _columns(invocation: Invocation) -> dict[str, Any]:
    values = {name: getattr(invocation, name) for name in FIELDS}
    return values | {"config": json.dumps(encode(invocation.config))}


def _invocation(row: Row[Any]) -> Invocation:
    values = {name: getattr(row, name) for name in FIELDS}
    return Invocation(**values | {"config": decode(AsyncConfig, json.loads(row.config))})
