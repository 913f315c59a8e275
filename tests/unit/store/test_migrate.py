"""New files get the newest tables at once: they have to be those that all migrations make."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine

from clary.store import migrate, object_schema, schema

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATABASES = {
    "control": (schema.metadata, schema.SCHEMA),
    "objects": (object_schema.SCHEMA, object_schema.SCHEMA_VERSION),
}


def shape(file: Path) -> dict[str, Any]:
    """Everything that a database file says of its tables."""
    with sqlite3.connect(file) as connection:
        told: dict[str, Any] = {}
        for _, name, kind, _, without_rowid, strict in connection.execute("PRAGMA table_list"):
            if name.startswith("sqlite_") or kind != "table":
                continue
            columns = [(c[1], c[2], c[3], c[4], c[5]) for c in connection.execute(f"PRAGMA table_info({name})")]
            keys = sorted(key[2:] for key in connection.execute(f"PRAGMA foreign_key_list({name})"))
            indexes = {}
            for _, index, unique, _, partial in connection.execute(f"PRAGMA index_list({name})"):
                parts = [part[1:] for part in connection.execute(f"PRAGMA index_xinfo({index})")]
                indexes["" if index.startswith("sqlite_") else index] = (unique, partial, parts)
            sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
            told[name] = (without_rowid, strict, "AUTOINCREMENT" in sql, columns, keys, indexes)
        told["version"] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return told


@pytest.mark.parametrize("name", list(DATABASES))
def test_a_new_file_is_what_the_migrations_would_have_made(name: str, tmp_path: Path) -> None:
    tables, number = DATABASES[name]
    new, migrated = tmp_path / "new.db", tmp_path / "migrated.db"
    engine = create_engine(f"sqlite:///{new}")
    migrate.ensure_schema(engine, name, tables, needed=number, file=new, now=NOW)
    engine.dispose()
    engine = create_engine(f"sqlite:///{migrated}")
    with engine.begin() as connection:
        migrate._upgrade(connection, name)
    engine.dispose()
    assert shape(new) == shape(migrated)


def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        migrate._upgrade(connection, "control", "0001")
        connection.exec_driver_sql("PRAGMA user_version = 1")
        connection.exec_driver_sql("INSERT INTO worker_uids VALUES (52000, 1)")
    migrate.ensure_schema(engine, "control", MetaData(), needed=schema.SCHEMA, file=file, now=NOW)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT uid FROM worker_uids").scalar_one() == 52000
        assert connection.exec_driver_sql("SELECT count(*) FROM invocations").scalar_one() == 0
    engine.dispose()
    assert list(tmp_path.glob("old.db.*.copy"))
