"""One folder opened: its lock, its index, its files, and reading a key's bytes.

The base of `ObjectStore`: everything here is about how, nothing about which operations there are. Opening replays what
a crash left: rows in `doomed` whose files were not yet unlinked, files that a session renamed but whose transaction
never came, bodies half-written in tmp/.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, delete, func, insert, select, update

from clary.domain.errors import Corrupt, InUse, Invalid
from clary.store import migrate
from clary.store import object_schema as t
from clary.store.blobs import Blobs, Durability, Pins
from clary.store.index_writer import IndexWriter, Job, open_engine, quick_check
from clary.store.object_events import Told, events_after, forget_events, note, watched_buckets
from clary.store.object_info import ObjectInfo, ReadConditions
from clary.store.object_reader import ObjectReader
from clary.store.object_rows import Extent, chunks, extents_of, need_object

T = TypeVar("T")
READERS = 8
# Unlinked blobs whose `doomed` rows wait for company; each is looked at again, harmlessly, at the next start.
FORGET_ROWS = 500
MIN_PART_BYTES = 5 * 1024 * 1024


class ObjectFolder:
    """A folder that this process holds. Raises, when opened: Corrupt, Unsupported, InUse, StoreFailed."""

    def __init__(
        self,
        root: Path,
        *,
        now: Callable[[], datetime],
        durability: Durability = Durability.FULL,
        min_part_bytes: int = MIN_PART_BYTES,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._now = now
        self._min_part_bytes = min_part_bytes
        self._lock_fd = lock_folder(root)
        self._closed = False
        try:
            self._start(root, durability)
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _start(self, root: Path, durability: Durability) -> None:
        file = root / "objects.db"
        self._write_engine = open_engine(file, durability=durability, readers=0)
        if file.exists():
            quick_check(self._write_engine, file)
        migrate.ensure_schema(
            self._write_engine, "objects", t.SCHEMA, needed=t.SCHEMA_VERSION, file=file, now=self._now()
        )
        self._read_engine = open_engine(file, durability=durability, readers=READERS)
        self._writer = IndexWriter(self._write_engine, name="objects-index")
        session = self._writer.submit(begin_session)
        self._blobs = Blobs(root, session=session, durability=durability)
        self._unlinked: list[str] = []
        self._unlinked_lock = threading.Lock()
        self._pins = Pins(self._unlink)
        with self._read() as connection:
            # Buckets that may have a notification configuration; the configuration itself is looked up in a job.
            self._watched = watched_buckets(connection)
        self.told: Callable[[], None] = lambda: None  # called when there is something to tell, from any thread
        self._sweep(session)

    def close(self) -> None:
        """Finishes waiting writes and lets go of the folder. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._forget_unlinked(at_least=1)
        self._writer.close()
        self._read_engine.dispose()
        self._write_engine.dispose()
        os.close(self._lock_fd)

    def open(
        self,
        bucket: str,
        key: str,
        start: int = 0,
        end: int | None = None,
        *,
        conditions: ReadConditions | None = None,
    ) -> ObjectReader:
        """A reader of the bytes [start, end), safe from whatever happens to the key meanwhile; close it.

        `end` beyond the object is cut to its size. Raises: NotFound, Corrupt, what `conditions` raises, and
        Invalid(rule="InvalidRange") when `start` lies beyond the last byte.
        """
        with self._pins.looking():
            with self._read() as connection:
                info = need_object(connection, bucket, key)
                if conditions is not None:
                    conditions.check(info)
                extents = extents_of(connection, info.content_id)
            stop = info.size_bytes if end is None else min(end, info.size_bytes)
            if start and not start < info.size_bytes:
                raise Invalid(
                    "range", f"starts at byte {start} of an object of {info.size_bytes} bytes", rule="InvalidRange"
                )
            wanted = cut(extents, start, stop)
            blob_ids = [extent.blob_id for extent in wanted]
            self._pins.take(blob_ids)
        reader = ObjectReader(
            info, wanted, path_of=self._blobs.path, start=start, on_close=lambda: self._pins.drop(blob_ids)
        )
        try:
            reader.check()
        except Corrupt:
            reader.close()
            raise
        return reader

    def _read(self) -> AbstractContextManager[Connection]:
        return self._read_engine.connect()

    def _write(self, job: Job[T]) -> T:
        """The job's result, once it is durable."""
        return self._writer.submit(job)

    def _write_and_retire(self, job: Job[list[str]]) -> None:
        """Runs a job that answers with the blobs it orphaned."""
        self._retire(self._writer.submit(job))

    def _retire(self, blob_ids: Sequence[str]) -> None:
        if blob_ids:
            self._pins.retire(blob_ids)

    # What is to be told of changes

    def events_after(self, number: int, count: int) -> list[Told]:
        """Changes that somebody is to be told of, oldest first; they stay until `forget_events`."""
        with self._read() as connection:
            return events_after(connection, number, count)

    def forget_events(self, up_to: int) -> None:
        self._write(lambda connection: forget_events(connection, up_to))

    def _note(self, connection: Connection, kind: str, info: ObjectInfo) -> None:
        """Within the job that makes `info` the object."""
        if info.bucket in self._watched:
            note(
                connection,
                kind,
                info.bucket,
                info.key,
                info.last_modified_at,
                size_bytes=info.size_bytes,
                etag=info.etag,
            )

    def _tell(self, bucket: str) -> None:
        """After the commit."""
        if bucket in self._watched:
            self.told()

    def _unlink(self, blob_ids: Sequence[str]) -> None:
        for blob_id in blob_ids:
            self._blobs.unlink(blob_id)
        with self._unlinked_lock:
            self._unlinked.extend(blob_ids)
        self._forget_unlinked(at_least=FORGET_ROWS)

    def _forget_unlinked(self, *, at_least: int) -> None:
        with self._unlinked_lock:
            if len(self._unlinked) < at_least:
                return
            gone, self._unlinked = self._unlinked, []

        self._writer.submit(lambda connection: forget_doomed(connection, gone))

    def _sweep(self, session: int) -> None:
        """Removes what the sessions before this one left over."""
        self._blobs.clear_temps()
        with self._read() as connection:
            doomed = connection.execute(select(t.doomed.c.blob_id)).scalars().all()
            ended = connection.execute(
                select(t.session.c.number).where(t.session.c.swept == 0, t.session.c.number < session)
            ).scalars()
            on_disk = [blob_id for number in ended for blob_id in self._blobs.of_session(number)]
            named: set[str] = set()
            for some in chunks(on_disk):
                named.update(
                    connection.execute(select(t.extent.c.blob_id).where(t.extent.c.blob_id.in_(some))).scalars()
                )
        for blob_id in {*doomed, *on_disk} - named:
            self._blobs.unlink(blob_id)

        def job(connection: Connection) -> None:
            forget_doomed(connection, doomed)
            connection.execute(update(t.session).where(t.session.c.number < session).values(swept=1))

        self._write(job)


def begin_session(connection: Connection) -> int:
    """The number of this opening."""
    number = int(connection.execute(select(func.coalesce(func.max(t.session.c.number), 0))).scalar_one()) + 1
    connection.execute(insert(t.session).values(number=number, swept=0))
    return number


def forget_doomed(connection: Connection, blob_ids: Sequence[str]) -> None:
    """Their files are gone."""
    for some in chunks(blob_ids):
        connection.execute(delete(t.doomed).where(t.doomed.c.blob_id.in_(some)))


def cut(extents: Sequence[Extent], start: int, stop: int) -> tuple[Extent, ...]:
    """The extents of the bytes [start, stop) of what the extents together hold."""
    wanted = []
    at = 0
    for extent in extents:
        first, last = max(start - at, 0), min(stop - at, extent.size_bytes)
        if first < last:
            wanted.append(Extent(extent.blob_id, extent.offset_bytes + first, last - first))
        at += extent.size_bytes
    return tuple(wanted)


def lock_folder(root: Path) -> int:
    """The descriptor that holds the folder; closing it lets go. Raises: InUse."""
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise InUse("object store", str(root), by="another process; stop it or choose another --data") from error
    return fd
