"""Immutable files under names of our own: the bytes behind objects.

A blob is written to `tmp/` under a random name, flushed to the disk, renamed to `blobs/<session>/<2 hex>/<uuid>`, and
its folder flushed; only then may an index row name it. It is never opened for writing again. No text from outside ever
takes part in a path.

Unlinking waits for readers: `Pins` counts who reads a blob, and who is just looking one up (between reading the index
and taking the pin, an overwrite may commit). A retired blob goes when nobody pins it and no look-up that began before
its retirement is still under way.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from clary.domain.errors import StoreFailed


class Durability(StrEnum):
    """FULL: an acknowledged write survives power loss. RELAXED: it survives kill -9 but not power loss."""

    FULL = "full"
    RELAXED = "relaxed"


class Blobs:
    """The files of one store folder, written by one session."""

    def __init__(self, root: Path, *, session: int, durability: Durability) -> None:
        self._root = root
        self._session = session
        self._sync = durability is Durability.FULL
        self._tmp = root / "tmp"
        self._made: set[Path] = set()
        self._lock = threading.Lock()

    def start(self) -> TempBlob:
        """An empty file to write to. Raises: StoreFailed when the disk refuses."""
        path = self._tmp / uuid.uuid4().hex
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreFailed("creating a file", detail=str(error)) from error
        return TempBlob(self, path, fd)

    def path(self, blob_id: str) -> Path:
        """Where that blob lies. Raises: ValueError for what is not an id of ours."""
        session, _, name = blob_id.partition("-")
        if len(session) != 8 or len(name) != 32 or not all(c in "0123456789abcdef" for c in session + name):
            raise ValueError(f"not a blob id: {blob_id!r}")
        return self._root / "blobs" / session / name[:2] / name

    def unlink(self, blob_id: str) -> None:
        """Removes the file; one that is gone already is fine."""
        self.path(blob_id).unlink(missing_ok=True)

    def publish(self, tmp: Path, fd: int) -> str:
        """Flushes and renames a temp file, flushes its folder; returns the blob's id.

        A failed flush is never tried again: the kernel may have dropped the pages it could not write.
        """
        blob_id = f"{self._session:08x}-{uuid.uuid4().hex}"
        path = self.path(blob_id)
        try:
            if self._sync:
                os.fsync(fd)
            self._folder(path.parent)
            os.rename(tmp, path)
            if self._sync:
                sync_folder(path.parent)
        except OSError as error:
            raise StoreFailed("flushing a file", detail=str(error)) from error
        return blob_id

    def _folder(self, folder: Path) -> None:
        if folder in self._made:
            return
        with self._lock:
            if folder in self._made:
                return
            missing = [one for one in (folder.parent.parent, folder.parent, folder) if not one.exists()]
            for one in missing:
                one.mkdir(mode=0o750, exist_ok=True)
                if self._sync:
                    sync_folder(one.parent)
            self._made.add(folder)

    def clear_temps(self) -> int:
        """Removes what an earlier process left half-written; returns how many files."""
        self._tmp.mkdir(parents=True, exist_ok=True, mode=0o750)
        left = list(self._tmp.iterdir())
        for path in left:
            path.unlink()
        return len(left)

    def of_session(self, session: int) -> Iterator[str]:
        """The ids of all blob files that a session wrote."""
        folder = self._root / "blobs" / f"{session:08x}"
        if not folder.is_dir():
            return
        for shelf in folder.iterdir():
            for path in shelf.iterdir():
                yield f"{session:08x}-{path.name}"


class TempBlob:
    """A file that is being written; `publish` or `discard` ends it."""

    def __init__(self, blobs: Blobs, path: Path, fd: int) -> None:
        self._blobs = blobs
        self._path = path
        self._fd: int | None = fd

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends. Raises: StoreFailed when the disk refuses."""
        if self._fd is None:
            raise ValueError("this file is closed")
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise StoreFailed("writing a file", detail=str(error)) from error

    def publish(self) -> str:
        """Makes it durable under its final name; returns the id."""
        if self._fd is None:
            raise ValueError("this file is closed")
        blob_id = self._blobs.publish(self._path, self._fd)
        os.close(self._fd)
        self._fd = None
        return blob_id

    def discard(self) -> None:
        """Throws it away; nothing when it was published or discarded."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._path.unlink(missing_ok=True)


class Pins:
    """Who reads what, so that an unlink never meets a reader."""

    def __init__(self, unlink: Callable[[Sequence[str]], None]) -> None:
        self._unlink = unlink
        self._lock = threading.Lock()
        self._pinned: Counter[str] = Counter()
        self._looking: set[int] = set()  # the clock when each look-up began
        self._retired: dict[str, int] = {}  # blob -> clock when it was retired
        self._clock = 0

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around reading the index and `take`: nothing retired from now on goes before the end."""
        with self._lock:
            self._clock += 1
            number = self._clock
            self._looking.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._looking.discard(number)
            self.reap()

    def take(self, blob_ids: Iterable[str]) -> None:
        """Pins; call inside `looking`."""
        with self._lock:
            self._pinned.update(blob_ids)

    def drop(self, blob_ids: Iterable[str]) -> None:
        """Undoes `take`."""
        with self._lock:
            for blob_id in blob_ids:
                self._pinned[blob_id] -= 1
                if not self._pinned[blob_id]:
                    del self._pinned[blob_id]
        self.reap()

    def retire(self, blob_ids: Iterable[str]) -> None:
        """No index row names these any more; their files go as soon as no reader needs them."""
        with self._lock:
            self._clock += 1
            for blob_id in blob_ids:
                self._retired[blob_id] = self._clock
        self.reap()

    def reap(self) -> None:
        """Unlinks what may go. Files go outside the lock: a big one takes its time."""
        if not self._retired:
            return
        with self._lock:
            oldest = min(self._looking, default=self._clock + 1)
            free = [one for one, at in self._retired.items() if at < oldest and one not in self._pinned]
            for blob_id in free:
                del self._retired[blob_id]
        if free:
            self._unlink(free)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
