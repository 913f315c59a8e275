"""Schema changes of a SQLite file: forward only, each in one transaction, a copy kept before each.

`PRAGMA user_version` carries the number of the newest migration that was applied. When it is the one that the code
needs, nothing happens and Alembic is not even imported: that import costs a good part of a second, and every start but
the first after an upgrade can do without; a new file gets the newest tables at once. A file from a newer clary is
refused rather than guessed at.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData

from clary.domain.errors import Unsupported

MIGRATIONS = Path(__file__).parent / "migrations"
# Copies kept (reliability rules: hourly and before each schema change, keep 5).
KEPT_COPIES = 5


def ensure_schema(engine: Engine, name: str, tables: MetaData, *, needed: int, file: Path, now: datetime) -> None:
    """Brings the file to schema number `needed`: a new one by making `tables`, another by `migrations/<name>`.

    Raises: Unsupported when the file is newer than this clary.
    """
    with engine.connect() as connection:
        found = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if found == needed:
        return
    if found > needed:
        raise Unsupported(
            f"{file} (schema {found})",
            f"this clary knows schema {needed}; start the newer clary, or restore a copy from before the upgrade",
        )
    if found:
        keep_copy(file, now)
    with engine.begin() as connection:
        if found:
            _upgrade(connection, name)
        else:
            _create(connection, tables, needed)
        connection.exec_driver_sql(f"PRAGMA user_version = {needed:d}")


def keep_copy(file: Path, now: datetime) -> Path:
    """A consistent copy beside the file, `<file>.<time>.copy`; the oldest beyond five go."""
    copy = file.with_name(f"{file.name}.{now:%Y%m%dT%H%M%S%f}.copy")
    # A plain connection: VACUUM runs outside a transaction, and an Engine always opens one.
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with copy.open("rb") as written:
        os.fsync(written.fileno())
    copies = sorted(file.parent.glob(f"{file.name}.*.copy"))
    for old in copies[:-KEPT_COPIES]:
        old.unlink()
    return copy


def _create(connection: Connection, tables: MetaData, number: int) -> None:
    """What all migrations together would make, and Alembic's own mark of it."""
    tables.create_all(connection, checkfirst=False)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (f"{number:04d}",))


def _upgrade(connection: Connection, name: str, to: str = "head") -> None:
    # Imported here, and only here, for the speed of a start that has nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS / name))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
