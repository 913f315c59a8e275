"""Reading an object's bytes: a walk over its extents, one open file at a time.

The reader holds pins on every blob it may touch, so that an overwrite or a delete meanwhile changes nothing for it. All
files' lengths are looked at before the first byte is given; a file that is shorter than the index says ends as Corrupt,
never as a short answer that looks whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clary.domain.errors import Corrupt
from clary.store.object_info import ObjectInfo
from clary.store.object_rows import Extent

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileStretch:
    """A stretch of an immutable file."""

    path: Path
    offset_bytes: int
    size_bytes: int


class ObjectReader:
    """A context manager; `stretches` lie unchanged on the disk until it is closed."""

    def __init__(
        self,
        info: ObjectInfo,
        extents: tuple[Extent, ...],
        *,
        path_of: Callable[[str], Path],
        start: int,
        on_close: Callable[[], None],
    ) -> None:
        self.info = info
        self.extents = extents
        self.stretches = tuple(FileStretch(path_of(one.blob_id), one.offset_bytes, one.size_bytes) for one in extents)
        self.start = start
        self.size_bytes = sum(extent.size_bytes for extent in extents)
        self._on_close = on_close
        self._closed = False
        self._fd: int | None = None

    def check(self) -> None:
        """Raises: Corrupt when a file is missing or too short."""
        for stretch in self.stretches:
            try:
                found = stretch.path.stat().st_size
            except FileNotFoundError as error:
                raise self._corrupt("a file is missing") from error
            if found < stretch.offset_bytes + stretch.size_bytes:
                raise self._corrupt(f"a file has {found} of {stretch.offset_bytes + stretch.size_bytes} bytes")

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes, in order, at most `chunk_bytes` at once. Raises: Corrupt when a file ends early."""
        for stretch in self.stretches:
            offset, left = stretch.offset_bytes, stretch.size_bytes
            fd = self._open(stretch.path)
            try:
                while left:
                    data = os.pread(fd, min(chunk_bytes, left), offset)
                    if not data:
                        raise self._corrupt(f"a file ends {left} bytes early")
                    offset += len(data)
                    left -= len(data)
                    yield data
            finally:
                self._shut()

    def read(self) -> bytes:
        """All of it; for what is known to be small."""
        return b"".join(self.chunks())

    def close(self) -> None:
        """Lets go of the files. Twice is fine."""
        self._shut()
        if not self._closed:
            self._closed = True
            self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> int:
        self._shut()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._corrupt("a file is missing") from error
        return self._fd

    def _shut(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _corrupt(self, detail: str) -> Corrupt:
        return Corrupt("Object", f"{self.info.bucket}/{self.info.key}", detail=detail)
