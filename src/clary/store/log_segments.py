"""One log stream on the disk: a row of segment files, each a row of records, only ever appended to.

A record is a header and the message's bytes. The header has the event's own time, when it came in, the greatest time so
far (`key_ms`, by which readers order and seek, so that a late event never goes back), and for tailed files how far the
source had been read behind this event: so the text and the knowledge of what was taken are one write, and a crash
neither repeats nor loses a line. A segment is named by its number and its first key; a torn last record, which only a
power cut leaves, is cut off when the stream is next written to.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Rolled when it reaches this; one batch may make it as much longer. The oldest go first when a group is full.
SEGMENT_BYTES = 1024 * 1024
_HEADER = struct.Struct("<qqqqI")  # key_ms, at_ms, ingested_ms, source_end, message bytes


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Before which record: segment number and byte offset."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One stored event. Times are epoch milliseconds; `next` is the position behind it."""

    position: Position
    next: Position
    key_ms: int
    at_ms: int
    ingested_ms: int
    source_end: int
    message: bytes

    @property
    def text(self) -> str:
        return self.message.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store. `source_end` is 0 where there is no file behind it."""

    at_ms: int
    message: bytes
    source_end: int = 0


@dataclass(slots=True)
class Segment:
    """One file. `size_bytes` is how much of it is whole records."""

    number: int
    first_key_ms: int
    path: Path
    size_bytes: int


@dataclass(slots=True)
class StreamFiles:
    """A stream's segments and what its last record said. Not safe to share: `LogStore` holds the lock."""

    folder: Path
    name: str
    created_ms: int
    segments: list[Segment] = field(default_factory=list)
    first_at_ms: int | None = None
    last_key_ms: int = 0
    last_at_ms: int | None = None
    last_ingested_ms: int | None = None
    source_end: int = 0

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def end(self) -> Position:
        """Behind the last record."""
        if not self.segments:
            return Position(1, 0)
        return Position(self.segments[-1].number, self.segments[-1].size_bytes)

    def load(self) -> None:
        """Reads the folder as an earlier process left it."""
        for path in self.folder.glob("*.seg"):
            number, _, first_key_ms = path.stem.partition("-")
            self.segments.append(Segment(int(number), int(first_key_ms), path, path.stat().st_size))
        self.segments.sort(key=lambda segment: segment.number)
        if not self.segments:
            return
        first = next(records(self.segments[0], 0), None)
        self.first_at_ms = first.at_ms if first else None
        last = self.segments[-1]
        whole_bytes = 0
        for event in records(last, 0):
            whole_bytes = event.next.offset
            self._remember(event.key_ms, event.at_ms, event.ingested_ms, event.source_end)
        if whole_bytes < last.size_bytes:
            os.truncate(last.path, whole_bytes)
            last.size_bytes = whole_bytes

    def append(self, events: Sequence[NewEvent], now_ms: int) -> int:
        """Writes them behind the last; returns the bytes that took. Raises: OSError, and then nothing was added."""
        pieces: list[bytes] = []
        key_ms = self.last_key_ms
        for event in events:
            key_ms = max(key_ms, event.at_ms)
            pieces.append(_HEADER.pack(key_ms, event.at_ms, now_ms, event.source_end, len(event.message)))
            pieces.append(event.message)
        data = b"".join(pieces)
        if not self.segments or self.segments[-1].size_bytes >= SEGMENT_BYTES:
            number = self.segments[-1].number + 1 if self.segments else 1
            first_key_ms = max(self.last_key_ms, events[0].at_ms)
            path = self.folder / f"{number:08d}-{first_key_ms:013d}.seg"
            self.segments.append(Segment(number, first_key_ms, path, 0))
        _write(self.segments[-1], data)
        if self.first_at_ms is None:
            self.first_at_ms = events[0].at_ms
        self._remember(key_ms, events[-1].at_ms, now_ms, events[-1].source_end)
        return len(data)

    def _remember(self, key_ms: int, at_ms: int, ingested_ms: int, source_end: int) -> None:
        self.last_key_ms = key_ms
        self.last_at_ms = at_ms
        self.last_ingested_ms = ingested_ms
        self.source_end = source_end

    def drop_oldest(self) -> int:
        """Removes the first segment; returns its bytes."""
        oldest = self.segments.pop(0)
        oldest.path.unlink(missing_ok=True)
        return oldest.size_bytes


def _write(segment: Segment, data: bytes) -> None:
    descriptor = os.open(segment.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            os.ftruncate(descriptor, segment.size_bytes)  # a full disk: no half record may stand before the next
            raise
    finally:
        os.close(descriptor)
    segment.size_bytes += len(data)


def records(segment: Segment, offset: int) -> Iterator[Event]:
    """The whole records from `offset` on; none when the file was removed meanwhile."""
    try:
        with segment.path.open("rb") as file:
            file.seek(offset)
            data = file.read(max(0, segment.size_bytes - offset))
    except FileNotFoundError:
        return
    at = 0
    while at + _HEADER.size <= len(data):
        key_ms, at_ms, ingested_ms, source_end, length = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if end > len(data):
            return
        here, following = Position(segment.number, offset + at), Position(segment.number, offset + end)
        yield Event(here, following, key_ms, at_ms, ingested_ms, source_end, data[at + _HEADER.size : end])
        at = end


def forward(segments: Sequence[Segment], start: Position, since_ms: int = 0) -> Iterator[Event]:
    """Events from `start` on; segments that end before `since_ms` are not opened."""
    for index, segment in enumerate(segments):
        if segment.number < start.segment:
            continue
        following = segments[index + 1].first_key_ms if index + 1 < len(segments) else None
        if following is not None and following < since_ms:
            continue
        yield from records(segment, start.offset if segment.number == start.segment else 0)


def backward(
    segments: Sequence[Segment], end: Position, limit: int, limit_bytes: int, since_ms: int, until_ms: int
) -> list[Event]:
    """The last events before `end` with since_ms <= time < until_ms, oldest first, within both limits."""
    found: deque[Event] = deque()
    size_bytes = 0
    for segment in reversed(segments):
        if segment.number > end.segment:
            continue
        earlier: deque[Event] = deque(maxlen=limit)
        for event in records(segment, 0):
            if event.position >= end:
                break
            if since_ms <= event.at_ms < until_ms:
                earlier.append(event)
        while earlier:
            event = earlier.pop()
            size_bytes += len(event.message)
            if len(found) == limit or (found and size_bytes > limit_bytes):
                return list(found)
            found.appendleft(event)
        if segment.first_key_ms < since_ms:
            break
    return list(found)
