"""The database: one engine, one writer on a thread of its own, readers beside it.

SQLite in WAL mode with synchronous=FULL by default: a committed write survives a power cut, readers never wait for the
writer, and one writer connection keeps clear of SQLite's WAL-reset race. PostgreSQL by URL takes the same code.
Every call has a bound: a database that another process holds answers StoreFailed after five seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError

from clary.domain.errors import StoreFailed

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0
READERS = 2


class Database:
    """Transactions as functions of a connection, run on the right thread."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, pool_size=READERS + 1, connect_args=_connect_args(url))
        if url.startswith("sqlite"):
            event.listen(self.engine, "connect", _on_connect)
            event.listen(self.engine, "begin", _on_begin)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="db-reader")
        self._lock = threading.Lock()  # of the two counts
        self._writes_begun = self._writes_ended = 0

    @property
    def mark(self) -> int | None:
        """What was read is still so as long as this number is the same; None while a write is under way."""
        with self._lock:
            return self._writes_ended if self._writes_begun == self._writes_ended else None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one transaction; it is durable when this returns.

        Raises: StoreFailed when the database is locked or broken; whatever `work` raises (nothing is written then).
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self.write_now, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` on a consistent snapshot. Raises: StoreFailed."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    def write_now(self, work: Callable[[Connection], T]) -> T:
        """`write` for callers that are on a thread of their own."""
        with self._lock:
            self._writes_begun += 1
        try:
            with self.engine.connect().execution_options(clary_writes=True) as connection, connection.begin():
                return work(connection)
        except OperationalError as error:
            raise StoreFailed("writing to the database", detail=str(error.orig)) from error
        finally:
            with self._lock:
                self._writes_ended += 1

    def read_now(self, work: Callable[[Connection], T]) -> T:
        try:
            with self.engine.connect() as connection:
                return work(connection)
        except OperationalError as error:
            raise StoreFailed("reading the database", detail=str(error.orig)) from error

    def close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self.engine.dispose()


def _connect_args(url: str) -> dict[str, Any]:
    return {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False} if url.startswith("sqlite") else {}


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_on_begin`, not by the driver's guess
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "mmap_size=0"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("clary_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
