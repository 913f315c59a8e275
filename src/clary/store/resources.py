"""What is remembered of every named resource: what is wanted of it (`desired`) and what was seen (`observed`).

One table for all kinds; the two documents are JSON that `codec` makes of domain values or of an API call's members.
Writers other than the API's handlers change `observed` only. Watchers are woken after every commit.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, update

from clary.domain.containers import MAX_CONTAINERS
from clary.domain.errors import AlreadyExists, NotFound
from clary.domain.names import Place
from clary.store.database import Database
from clary.store.schema import deployments, resources, tags, users_of_uids

T = TypeVar("T")

FOUND_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Record:
    """One resource as stored. Times are aware UTC."""

    uid: int
    kind: str
    place: Place
    name: str
    desired: dict[str, Any]
    observed: dict[str, Any]
    created_at: datetime
    modified_at: datetime
    created_by: str
    token: str


@dataclass(frozen=True, slots=True)
class Query:
    """A listing: filters, order and page, as the List operations have them."""

    name_contains: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    sort_by: str = "CreationTime"  # "Name" | "CreationTime"
    descending: bool = True


def _us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def _at(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def _record(row: Row[Any]) -> Record:
    return Record(
        uid=row.uid,
        kind=row.kind,
        place=Place(row.account, row.region),
        name=row.name,
        desired=json.loads(row.desired),
        observed=json.loads(row.observed),
        created_at=_at(row.created_us),
        modified_at=_at(row.modified_us),
        created_by=row.created_by,
        token=row.token,
    )


# What is to be done, in the same transaction, with a change: (before, after), None before a creation.
# It answers whether `Resources.after_witness` is to be called when the change is committed.
Witness = Callable[[Connection, Record | None, Record], bool]


class Resources:
    """See the module. `now` is the clock; every method is one transaction.

    `witness` sees every creation, change and report of the kinds in `witnessed`, inside its transaction.
    """

    witness: Witness | None = None
    witnessed: frozenset[str] = frozenset()
    after_witness: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._changed = asyncio.Event()
        self.version = 0  # grows with every change made through this object
        self._found: dict[tuple[str, Place, str], Row[Any] | None] = {}  # as read when the database's mark was:
        self._found_at: int | None = None

    # -- reading ---------------------------------------------------------------------------------

    async def find(self, kind: str, place: Place, name: str) -> Record | None:
        """From memory when nothing was written since it was last read: clients describe what they wait for, over and
        over, and a call that needs no thread does not wait for one behind uploads.
        """
        mark, key = self._database.mark, (kind, place, name.lower())
        if mark is not None and mark == self._found_at and key in self._found:
            row = self._found[key]
        else:
            row = await self._database.read(lambda c: _row(c, kind, place, name))
            if mark is not None and mark == self._database.mark:
                if mark != self._found_at or len(self._found) == FOUND_MAX:
                    self._found, self._found_at = {}, mark
                self._found[key] = row
        return None if row is None else _record(row)

    async def get(self, kind: str, place: Place, name: str) -> Record:
        """Raises: NotFound."""
        found = await self.find(kind, place, name)
        if found is None:
            raise NotFound(kind, place.arn(kind, name))
        return found

    async def by_uid(self, uid: int) -> tuple[Record, dict[str, str]] | None:
        """A resource and its tags; None when it has gone."""

        def work(connection: Connection) -> tuple[Record, dict[str, str]] | None:
            row = connection.execute(select(resources).where(resources.c.uid == uid)).one_or_none()
            if row is None:
                return None
            record = _record(row)
            arn = record.place.arn(record.kind, record.name)
            return record, {tag.key: tag.value for tag in connection.execute(select(tags).where(tags.c.arn == arn))}

        return await self._database.read(work)

    async def all_with_tags(self, kind: str) -> list[tuple[Record, dict[str, str]]]:
        """Every resource of a kind, in all places, with its tags, as they are at one moment."""

        def work(connection: Connection) -> list[tuple[Record, dict[str, str]]]:
            held: dict[str, dict[str, str]] = {}
            for tag in connection.execute(select(tags).where(tags.c.arn.contains(f":{kind}/"))):
                held.setdefault(tag.arn, {})[tag.key] = tag.value
            query = select(resources).where(resources.c.kind == kind).order_by(resources.c.uid)
            records = [_record(row) for row in connection.execute(query)]
            return [(record, held.get(record.place.arn(kind, record.name), {})) for record in records]

        return await self._database.read(work)

    async def all(self, kind: str) -> list[Record]:
        """Every resource of a kind, in all places."""
        query = select(resources).where(resources.c.kind == kind).order_by(resources.c.uid)
        return await self._database.read(lambda c: [_record(row) for row in c.execute(query)])

    async def unfinished(self, kind: str, mark: str) -> list[Record]:
        """Those of a kind whose `observed` does not yet hold the JSON text `mark`: jobs that need somebody's care."""
        query = select(resources).where(resources.c.kind == kind, resources.c.observed.not_like(f"%{mark}%"))
        return await self._database.read(lambda c: [_record(row) for row in c.execute(query.order_by(resources.c.uid))])

    async def list(
        self,
        kind: str,
        place: Place,
        query: Query,
        limit: int,
        after: Sequence[Any] | None,
        keep: Callable[[Record], bool] | None = None,
    ) -> tuple[list[Record], list[Any] | None]:
        """A page of at most `limit`, and where the next one starts (None at the end).

        `after` is such a start: [sort key, uid]. `keep` filters by what is not a column (a derived status).
        """
        return await self._database.read(lambda c: _list(c, kind, place, query, limit, after, keep))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` makes of several resources as they are at one moment."""
        return await self._database.read(work)

    # -- writing ---------------------------------------------------------------------------------

    async def create(
        self,
        kind: str,
        place: Place,
        name: str,
        desired: Mapping[str, Any] | Callable[[Connection, int], Mapping[str, Any]],
        *,
        created_by: str = "",
        token: str = "",
        tags_of_it: Sequence[Mapping[str, str]] = (),
    ) -> Record:
        """Makes a resource; one that the same client call (`token`) made already is returned as it is.

        Raises: AlreadyExists. `desired` may be a function of (connection, uid), run inside the transaction.
        """

        def work(connection: Connection) -> Record:
            found = _find(connection, kind, place, name)
            if found is not None:
                if token and found.token == token:
                    return found
                raise AlreadyExists(kind, place.arn(kind, found.name))
            now_us = _us(self._now())
            row = insert(resources).values(
                kind=kind,
                account=place.account,
                region=place.region,
                name=name,
                name_key=name.lower(),
                desired="{}",
                observed="{}",
                created_us=now_us,
                modified_us=now_us,
                created_by=created_by,
                token=token,
            )
            key = connection.execute(row).inserted_primary_key
            assert key is not None
            uid = int(key[0])
            body = desired(connection, uid) if callable(desired) else desired
            connection.execute(
                update(resources).where(resources.c.uid == uid).values(desired=json.dumps(body, default=str))
            )
            set_tags(connection, place.arn(kind, name), tags_of_it)
            made = _find(connection, kind, place, name)
            assert made is not None
            told.append(self._witness(connection, None, made))
            return made

        told: list[bool] = []
        record = await self._database.write(work)
        self._notify(told)
        return record

    async def change(
        self, kind: str, place: Place, name: str, decide: Callable[[Connection, Record], Mapping[str, Any] | None]
    ) -> Record:
        """Replaces `desired` by what `decide` makes of the stored record, in one transaction; None changes nothing.

        Raises: NotFound, and whatever `decide` raises.
        """

        def work(connection: Connection) -> Record:
            record = _find(connection, kind, place, name)
            if record is None:
                raise NotFound(kind, place.arn(kind, name))
            body = decide(connection, record)
            if body is None:
                return record
            connection.execute(
                update(resources)
                .where(resources.c.uid == record.uid)
                .values(desired=json.dumps(body, default=str), modified_us=_us(self._now()))
            )
            changed = _find(connection, kind, place, name)
            assert changed is not None
            told.append(self._witness(connection, record, changed))
            return changed

        told: list[bool] = []
        record = await self._database.write(work)
        self._notify(told)
        return record

    async def report(self, uid: int, observed: Mapping[str, Any], *, touch: bool = False) -> None:
        """Records what was seen; nothing happens when the resource has gone meanwhile."""
        values: dict[str, Any] = {"observed": json.dumps(observed, default=str)}
        if touch:
            values["modified_us"] = _us(self._now())

        def work(connection: Connection) -> None:
            before = by_uid(connection, uid) if self.witness is not None else None
            connection.execute(update(resources).where(resources.c.uid == uid).values(**values))
            if before is not None and before.kind in self.witnessed:
                after = by_uid(connection, uid)
                assert after is not None
                told.append(self._witness(connection, before, after))

        told: list[bool] = []
        await self._database.write(work)
        self._notify(told)

    def _witness(self, connection: Connection, before: Record | None, after: Record) -> bool:
        return self.witness is not None and after.kind in self.witnessed and self.witness(connection, before, after)

    async def remove(self, kind: str, place: Place, name: str) -> None:
        """Raises: NotFound."""

        def work(connection: Connection) -> None:
            record = _find(connection, kind, place, name)
            if record is None:
                raise NotFound(kind, place.arn(kind, name))
            erase(connection, record)

        await self._database.write(work)
        self._notify()

    # -- tags ------------------------------------------------------------------------------------

    async def tags(self, arn: str) -> dict[str, str]:
        query = select(tags).where(tags.c.arn == arn).order_by(tags.c.key)
        return await self._database.read(lambda c: {row.key: row.value for row in c.execute(query)})

    async def add_tags(self, arn: str, added: Sequence[Mapping[str, str]]) -> dict[str, str]:
        def work(connection: Connection) -> dict[str, str]:
            set_tags(connection, arn, added)
            return {row.key: row.value for row in connection.execute(select(tags).where(tags.c.arn == arn))}

        result = await self._database.write(work)
        self._notify()
        return result

    async def delete_tags(self, arn: str, keys: Sequence[str]) -> None:
        await self._database.write(lambda c: c.execute(delete(tags).where(tags.c.arn == arn, tags.c.key.in_(keys))))
        self._notify()

    # -- numbers that are never used again -------------------------------------------------------

    async def worker_uid(self, resource_uid: int, first: int, last: int, place: int = 0) -> int:
        """The operating-system uid of an endpoint's workers: its own as long as it exists. Where a model has several
        containers, `place` counts them from 0, and each has one.

        Raises: NotFound when all of the pool are taken.
        """
        user = _user(resource_uid, place)

        def work(connection: Connection) -> int:
            mine = select(users_of_uids.c.uid).where(users_of_uids.c.resource_uid == user)
            found = connection.execute(mine).scalar_one_or_none()
            if found is not None:
                return int(found)
            taken = {row.uid for row in connection.execute(select(users_of_uids.c.uid))}
            free = next((uid for uid in range(first, last + 1) if uid not in taken), None)
            if free is None:
                raise NotFound("free worker uid", f"{first}-{last}")
            connection.execute(insert(users_of_uids).values(uid=free, resource_uid=user))
            return free

        return await self._database.write(work)

    async def free_worker_uid(self, resource_uid: int) -> None:
        """The resource starts no process any more: its uid is another's."""
        await self._database.write(lambda c: c.execute(delete(users_of_uids).where(_uids_of(resource_uid))))

    # -- watching --------------------------------------------------------------------------------

    def _notify(self, told: Sequence[bool] = ()) -> None:
        if any(told):
            self.after_witness()
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed_since(self, version: int, timeout_s: float) -> bool:
        """Waits until something changes after `version`; False when the time has run out."""
        if self.version != version:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True


def set_tags(connection: Connection, arn: str, added: Sequence[Mapping[str, str]]) -> None:
    """Overwrites the values of keys that exist already, as AddTags does."""
    for tag in added:
        connection.execute(delete(tags).where(tags.c.arn == arn, tags.c.key == tag["Key"]))
        connection.execute(insert(tags).values(arn=arn, key=tag["Key"], value=tag["Value"]))


def new_deployment_number(connection: Connection, resource_uid: int) -> int:
    """A number for a deployment, unique for good; to be called inside a transaction."""
    key = connection.execute(insert(deployments).values(resource_uid=resource_uid)).inserted_primary_key
    assert key is not None
    return int(key[0])


def find(connection: Connection, kind: str, place: Place, name: str) -> Record | None:
    """The record, for code that is inside a transaction already."""
    return _find(connection, kind, place, name)


def all_of(connection: Connection, kind: str, place: Place) -> list[Record]:
    """Every resource of a kind in a place, for code that is inside a transaction already."""
    here = resources.c.kind == kind, resources.c.account == place.account, resources.c.region == place.region
    return [_record(row) for row in connection.execute(select(resources).where(*here).order_by(resources.c.uid))]


def want(connection: Connection, uid: int, desired: Mapping[str, Any]) -> None:
    """`Resources.change` inside the caller's transaction, without its time; nobody is woken by it."""
    text = json.dumps(desired, default=str)
    connection.execute(update(resources).where(resources.c.uid == uid).values(desired=text))


def observe(connection: Connection, uid: int, observed: Mapping[str, Any]) -> None:
    """`Resources.report` inside the caller's transaction; nobody is woken by it."""
    text = json.dumps(observed, default=str)
    connection.execute(update(resources).where(resources.c.uid == uid).values(observed=text))


def erase(connection: Connection, record: Record) -> None:
    """`Resources.remove` inside the caller's transaction; nobody is woken by it."""
    arn = record.place.arn(record.kind, record.name)
    connection.execute(delete(resources).where(resources.c.uid == record.uid))
    connection.execute(delete(tags).where(tags.c.arn == arn))
    connection.execute(delete(users_of_uids).where(_uids_of(record.uid)))


def by_uid(connection: Connection, uid: int) -> Record | None:
    """A resource, for code that is inside a transaction already."""
    row = connection.execute(select(resources).where(resources.c.uid == uid)).one_or_none()
    return _record(row) if row is not None else None


def _find(connection: Connection, kind: str, place: Place, name: str) -> Record | None:
    row = _row(connection, kind, place, name)
    return None if row is None else _record(row)


def _row(connection: Connection, kind: str, place: Place, name: str) -> Row[Any] | None:
    query = select(resources).where(
        and_(
            resources.c.kind == kind,
            resources.c.account == place.account,
            resources.c.region == place.region,
            resources.c.name_key == name.lower(),
        )
    )
    return connection.execute(query).one_or_none()


def _list(
    connection: Connection,
    kind: str,
    place: Place,
    query: Query,
    limit: int,
    after: Sequence[Any] | None,
    keep: Callable[[Record], bool] | None,
) -> tuple[list[Record], list[Any] | None]:
    column = resources.c.name if query.sort_by == "Name" else resources.c.created_us
    wanted = select(resources).where(
        resources.c.kind == kind, resources.c.account == place.account, resources.c.region == place.region
    )
    if query.name_contains:
        wanted = wanted.where(resources.c.name.contains(query.name_contains, autoescape=True))
    for bound, earliest, which in (
        (query.created_after, True, resources.c.created_us),
        (query.created_before, False, resources.c.created_us),
        (query.modified_after, True, resources.c.modified_us),
        (query.modified_before, False, resources.c.modified_us),
    ):
        if bound is not None:
            wanted = wanted.where(which >= _us(bound) if earliest else which <= _us(bound))
    order = (column.desc(), resources.c.uid.desc()) if query.descending else (column.asc(), resources.c.uid.asc())
    found: list[Record] = []
    while len(found) <= limit:
        page = wanted
        if after is not None:
            key, uid = after
            beyond = (column < key) if query.descending else (column > key)
            tie = and_(column == key, (resources.c.uid < uid) if query.descending else (resources.c.uid > uid))
            page = wanted.where(beyond | tie)
        rows = [_record(row) for row in connection.execute(page.order_by(*order).limit(limit + 1))]
        for record in rows:
            if keep is None or keep(record):
                found.append(record)
        if len(rows) <= limit:
            break
        after = _position(rows[-1], query)
    return found[:limit], _position(found[limit - 1], query) if len(found) > limit else None


def _position(record: Record, query: Query) -> list[Any]:
    return [record.name if query.sort_by == "Name" else _us(record.created_at), record.uid]


def _user(resource_uid: int, place: int) -> int:
    """Who holds a uid: the resource, or below zero, where no resource is, one of its further containers."""
    return resource_uid if place == 0 else -(resource_uid * (MAX_CONTAINERS + 1) + place)


def _uids_of(resource_uid: int) -> ColumnElement[bool]:
    """The rows of all that `_user` makes of a resource."""
    held = users_of_uids.c.resource_uid
    return (held == resource_uid) | held.between(_user(resource_uid, MAX_CONTAINERS), _user(resource_uid, 1))
