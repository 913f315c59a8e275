"""An input's bytes, in order, from any position: its stretches one after the other, unpacked when they are gzip."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path

from clary.domain.transform_plan import Input, Stretch

CHUNK_BYTES = 1024 * 1024


class SourceBroken(Exception):
    """The bytes cannot be read as what they were said to be."""


class _Stretches(io.RawIOBase):
    """The stretches as one file."""

    def __init__(self, folder: Path, stretches: tuple[Stretch, ...]) -> None:
        self._folder = folder
        self._left = list(reversed(stretches))
        self._file = -1
        self._at = 0
        self._end = 0

    def readable(self) -> bool:
        return True

    def skip(self, count: int) -> None:
        while count and (self._at < self._end or self._next()):
            step = min(count, self._end - self._at)
            self._at += step
            count -= step

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._at == self._end:
            if not self._next():
                return 0
        count = os.preadv(self._file, [memoryview(buffer)[: self._end - self._at]], self._at)
        if not count:
            raise SourceBroken("the stored object is shorter than it was")
        self._at += count
        return count

    def _next(self) -> bool:
        self._shut()
        if not self._left:
            return False
        one = self._left.pop()
        self._file = os.open(self._folder / one.file, os.O_RDONLY | os.O_CLOEXEC)
        self._at, self._end = one.offset_bytes, one.offset_bytes + one.size_bytes
        return True

    def _shut(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        self._shut()
        super().close()


class Source:
    """A context manager; `read` gives at most so many bytes, none at the end."""

    def __init__(self, folder: Path, of: Input, compressed: bool, position: int) -> None:
        self._raw = _Stretches(folder, of.stretches)
        self._gzip = gzip.GzipFile(fileobj=io.BufferedReader(self._raw, CHUNK_BYTES)) if compressed else None
        if self._gzip is None:
            self._raw.skip(position)
        while self._gzip is not None and position:
            position -= len(self.read(min(position, CHUNK_BYTES)))

    def read(self, count: int) -> bytes:
        """Raises: SourceBroken."""
        try:
            if self._gzip is not None:
                return self._gzip.read(count)
            return self._raw.read(count) or b""
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise SourceBroken(f"it is no whole gzip (CompressionType is Gzip): {error}") from error

    def close(self) -> None:
        self._raw.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
