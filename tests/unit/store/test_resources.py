"""Records that are kept in memory: never older than the last write that anybody was told of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from clary.domain.names import Place
from clary.store import resources as module
from clary.store import schema
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.store.resources import Resources, observe

HERE = Place()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    file = tmp_path / "control.sqlite"
    database = Database(f"sqlite:///{file}")
    ensure_schema(database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=file, now=datetime.now(UTC))
    yield database
    database.close()


@pytest.fixture
def queries(database: Database) -> list[str]:
    """Every SELECT from now on."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            found.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    return found


async def made(database: Database) -> Resources:
    resources = Resources(database, lambda: datetime.now(UTC))
    await resources.create("endpoint", HERE, "One", {"a": 1})
    return resources


async def test_what_nobody_wrote_to_is_read_once(database: Database, queries: list[str]) -> None:
    resources = await made(database)
    queries.clear()
    for _ in range(5):
        assert (await resources.get("endpoint", HERE, "one")).desired == {"a": 1}
        assert await resources.find("endpoint", HERE, "another") is None
    assert len(queries) == 2


async def test_every_kind_of_write_is_seen_by_the_next_read(database: Database) -> None:
    resources = await made(database)
    uid = (await resources.get("endpoint", HERE, "One")).uid
    assert await resources.find("endpoint", HERE, "Two") is None
    await resources.create("endpoint", HERE, "Two", {})
    assert await resources.find("endpoint", HERE, "Two") is not None
    await resources.change("endpoint", HERE, "One", lambda c, record: {"a": 2})
    assert (await resources.get("endpoint", HERE, "One")).desired == {"a": 2}
    await resources.report(uid, {"seen": 1})
    assert (await resources.get("endpoint", HERE, "One")).observed == {"seen": 1}
    await database.write(lambda c: observe(c, uid, {"seen": 2}))  # in somebody else's transaction
    assert (await resources.get("endpoint", HERE, "One")).observed == {"seen": 2}
    await asyncio.to_thread(database.write_now, lambda c: observe(c, uid, {"seen": 3}))
    assert (await resources.get("endpoint", HERE, "One")).observed == {"seen": 3}
    await resources.remove("endpoint", HERE, "One")
    assert await resources.find("endpoint", HERE, "One") is None


async def test_while_a_write_is_under_way_the_database_is_asked(database: Database, queries: list[str]) -> None:
    resources = await made(database)
    record = await resources.get("endpoint", HERE, "One")
    committing, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        observe(connection, record.uid, {"seen": 1})
        committing.set()
        assert go_on.wait(20)

    writing = asyncio.create_task(database.write(slow))
    assert await asyncio.to_thread(committing.wait, 20)
    queries.clear()
    for _ in range(3):
        assert (await resources.get("endpoint", HERE, "One")).observed == {}  # not committed yet
    assert len(queries) == 3
    go_on.set()
    await writing
    assert (await resources.get("endpoint", HERE, "One")).observed == {"seen": 1}


async def test_a_write_that_failed_leaves_nothing_under_way(database: Database, queries: list[str]) -> None:
    resources = await made(database)

    def fails(connection: Connection) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails)
    await resources.get("endpoint", HERE, "One")
    queries.clear()
    await resources.get("endpoint", HERE, "One")
    assert queries == []


async def test_what_a_caller_does_to_its_record_is_its_own_affair(database: Database) -> None:
    resources = await made(database)
    (await resources.get("endpoint", HERE, "One")).desired["a"] = "spoilt"
    assert (await resources.get("endpoint", HERE, "One")).desired == {"a": 1}


async def test_what_is_kept_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOUND_MAX", 10)
    resources = await made(database)
    for number in range(35):
        assert await resources.find("endpoint", HERE, f"missing-{number}") is None
    assert len(resources._found) <= 10
    assert (await resources.get("endpoint", HERE, "One")).desired == {"a": 1}
