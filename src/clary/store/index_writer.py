"""One SQLite file: many readers, one writer on a thread of its own, commits shared by whoever waits.

A job is a function of a connection. The writer thread takes all jobs that are waiting, runs each inside a savepoint of
one transaction (BEGIN IMMEDIATE), commits once and only then lets the callers go on: with synchronous=FULL a hundred
waiting writers pay for one flush. A job that raises a domain error undoes itself alone; a database error undoes the
whole batch. Nothing lingers for company: what arrives during one commit is the next batch.

SQLite before 3.51.3 can lose data when two connections write or checkpoint at the same moment, hence exactly one
writing connection; readers never write.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError

from clary.domain.errors import Corrupt, StoreFailed
from clary.store.blobs import Durability

T = TypeVar("T")
Job = Callable[[Connection], T]
# Jobs of one transaction at most, so that the first to wait does not wait for a crowd.
BATCH_JOBS = 256
# Primary result codes after which nothing may be written any more (sqlite.org/rescode.html).
FATAL_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def open_engine(file: Path, *, durability: Durability, readers: int) -> Engine:
    """An engine for that file. `readers` = 0 makes the writer's: one connection, BEGIN IMMEDIATE."""
    writing = readers == 0

    engine = (
        create_engine(f"sqlite:///{file}", poolclass=NullPool, connect_args={"check_same_thread": False})
        if writing
        else create_engine(
            f"sqlite:///{file}",
            poolclass=QueuePool,
            pool_size=readers,
            max_overflow=readers,
            connect_args={"check_same_thread": False},
        )
    )

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={'FULL' if durability is Durability.FULL else 'NORMAL'}",
            "busy_timeout=5000",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if not writing:
            connection.execute("PRAGMA query_only=ON")

    def began(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    return engine


def quick_check(engine: Engine, file: Path) -> None:
    """Raises: Corrupt when SQLite finds damage; nothing is repaired by itself."""
    try:
        with engine.connect() as connection:
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(5)")]
    except DBAPIError as error:
        found = [str(error.orig)]
    if found != ["ok"]:
        raise Corrupt("database", str(file), detail="; ".join(found) + "; restore the newest copy that lies beside it")


class IndexWriter:
    """The writer thread of one file."""

    def __init__(self, engine: Engine, *, name: str) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Job[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._broken: StoreFailed | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job[T]) -> T:
        """Runs the job and returns its result once it is committed.

        Raises: what the job raised; StoreFailed when the database refused (then nothing of the job is visible, unless
        the commit itself failed: then it may be visible after the next start).
        """
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise StoreFailed("writing the index", detail="the store is closed")
            self._queue.put((job, future))
        return future.result()

    def close(self) -> None:
        """Finishes what waits, then ends the thread. Twice is fine."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        with self._engine.connect() as connection:
            ending = False
            while not ending:
                batch = []
                entry = self._queue.get()
                while True:
                    if entry is None:
                        ending = True
                        break
                    batch.append(entry)
                    if len(batch) == BATCH_JOBS:
                        break
                    try:
                        entry = self._queue.get_nowait()
                    except queue.Empty:
                        break
                if batch:
                    self._transact(connection, batch)

    def _transact(self, connection: Connection, batch: list[tuple[Job[Any], Future[Any]]]) -> None:
        if self._broken is not None:
            for _, future in batch:
                future.set_exception(self._broken)
            return
        done: list[tuple[Future[Any], Any]] = []
        undone: list[tuple[Future[Any], Exception]] = []
        try:
            with connection.begin():
                for job, future in batch:
                    connection.exec_driver_sql("SAVEPOINT job")
                    try:
                        done.append((future, job(connection)))
                    except IntegrityError as error:
                        undone.append((future, error))
                        connection.exec_driver_sql("ROLLBACK TO job")
                    except DBAPIError:
                        raise
                    except Exception as error:  # a border: handed on to the caller who waits for this job
                        undone.append((future, error))
                        connection.exec_driver_sql("ROLLBACK TO job")
                    connection.exec_driver_sql("RELEASE job")
        except DBAPIError as error:
            failed = StoreFailed("writing the index", detail=str(error.orig))
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in FATAL_CODES:
                self._broken = failed
            for _, future in batch:
                future.set_exception(failed)
            return
        for future, result in done:
            future.set_result(result)
        for future, job_error in undone:
            future.set_exception(job_error)
