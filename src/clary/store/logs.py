"""Log groups and streams on a folder: `<account>/<region>/<group>/<stream>/<segments>`.

Names may hold anything, so folders are named by their quoted or hashed form and say their name in a small file. What
streams there are is read once a group and kept in memory; the text is read from the disk each time. Appends are not
flushed to the disk one by one: they survive the end of this process, and a power cut costs the last seconds.
A group is bounded: when it is full, its oldest segments go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from clary.domain.errors import AlreadyExists, InUse, NotFound
from clary.domain.names import Place
from clary.paths import replace_file
from clary.store.log_segments import NewEvent, Position, Segment, StreamFiles

log = logging.getLogger(__name__)

GROUP_BYTES = 256 * 1024 * 1024
STREAMS_MAX = 10_000
# A stream that nothing was added to for so long may go whole when its group is full.
QUIET_MS = 3600 * 1000
LOG_GROUP, LOG_STREAM = "log group", "log stream"


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One group as it stands."""

    name: str
    created_ms: int
    stored_bytes: int
    deletion_protected: bool


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream as it stands. Times are None while it is empty."""

    name: str
    created_ms: int
    first_event_ms: int | None
    last_event_ms: int | None
    last_ingested_ms: int | None
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class View:
    """A stream's segments at a moment, to be read without a lock."""

    name: str
    segments: tuple[Segment, ...]
    end: Position


class _Group:
    """A group's streams; loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "name.json").read_text())
        self.folder = folder
        self.name: str = facts["name"]
        self.created_ms: int = facts["created_ms"]
        self.deletion_protected: bool = facts.get("deletion_protected", False)
        self.size_bytes = 0
        self._streams: dict[str, StreamFiles] | None = None

    @property
    def streams(self) -> dict[str, StreamFiles]:
        if self._streams is None:
            self._streams = {}
            for folder in self.folder.iterdir():
                if (folder / "name.json").is_file():
                    facts = json.loads((folder / "name.json").read_text())
                    stream = StreamFiles(folder, facts["name"], facts["created_ms"])
                    stream.load()
                    self._streams[stream.name] = stream
                    self.size_bytes += stream.size_bytes
        return self._streams

    def create(self, name: str, now_ms: int) -> StreamFiles:
        folder = _make(self.folder, name, {"created_ms": now_ms})
        stream = self.streams[name] = StreamFiles(folder, name, now_ms)
        return stream

    def drop(self, name: str) -> None:
        stream = self.streams.pop(name)
        self.size_bytes -= stream.size_bytes
        shutil.rmtree(stream.folder, ignore_errors=True)

    def make_room(self, limit_bytes: int, now_ms: int) -> None:
        """Removes what is oldest until the group is within its bounds; never the segment that is written to."""
        while self.size_bytes > limit_bytes:
            closed = [stream for stream in self.streams.values() if len(stream.segments) > 1]
            if closed:
                oldest = min(closed, key=lambda stream: stream.segments[0].first_key_ms)
                self.size_bytes -= oldest.drop_oldest()
            elif not self._drop_quiet(now_ms):
                break
        while len(self.streams) > STREAMS_MAX and self._drop_quiet(now_ms):
            pass

    def _drop_quiet(self, now_ms: int) -> bool:
        quiet = [
            stream
            for stream in self.streams.values()
            if now_ms - (stream.last_ingested_ms or stream.created_ms) > QUIET_MS
        ]
        if quiet:
            self.drop(min(quiet, key=lambda stream: stream.last_ingested_ms or stream.created_ms).name)
        return bool(quiet)


class LogStore:
    """All groups of all places. Methods may be called from any thread; each holds the lock for its own length."""

    def __init__(self, root: Path, group_bytes: int = GROUP_BYTES) -> None:
        self._root = root
        self._group_bytes = group_bytes
        self._lock = threading.RLock()
        self._groups: dict[tuple[Place, str], _Group] = {}
        for facts in root.glob("*/*/*/name.json"):
            group = _Group(facts.parent)
            place = Place(facts.parts[-4], facts.parts[-3])
            self._groups[place, group.name] = group

    # -- groups ----------------------------------------------------------------------------------

    def groups(self, place: Place) -> list[GroupInfo]:
        """In order of their names."""
        with self._lock:
            mine = sorted((name, group) for (where, name), group in self._groups.items() if where == place)
            return [self._info(group) for _, group in mine]

    @staticmethod
    def _info(group: _Group) -> GroupInfo:
        size_bytes = sum(stream.size_bytes for stream in group.streams.values())
        return GroupInfo(group.name, group.created_ms, size_bytes, group.deletion_protected)

    def create_group(self, place: Place, name: str, *, deletion_protected: bool = False) -> None:
        """Raises: AlreadyExists, OSError."""
        with self._lock:
            if (place, name) in self._groups:
                raise AlreadyExists(LOG_GROUP, name)
            self._create_group(place, name, deletion_protected)

    def _create_group(self, place: Place, name: str, deletion_protected: bool = False) -> _Group:
        facts = {"created_ms": _now_ms(), "deletion_protected": deletion_protected}
        folder = _make(self._root / place.account / place.region, name, facts)
        group = self._groups[place, name] = _Group(folder)
        return group

    def delete_group(self, place: Place, name: str) -> None:
        """Raises: NotFound; InUse when it is protected against that."""
        with self._lock:
            group = self._group(place, name)
            if group.deletion_protected:
                raise InUse(LOG_GROUP, name, by="its deletion protection")
            del self._groups[place, name]
            shutil.rmtree(group.folder, ignore_errors=True)

    def _group(self, place: Place, name: str) -> _Group:
        group = self._groups.get((place, name))
        if group is None:
            raise NotFound(LOG_GROUP, name)
        return group

    # -- streams ---------------------------------------------------------------------------------

    def streams(self, place: Place, group: str) -> list[StreamInfo]:
        """In order of their names. Raises: NotFound."""
        with self._lock:
            return [
                StreamInfo(
                    stream.name,
                    stream.created_ms,
                    stream.first_at_ms,
                    stream.last_at_ms,
                    stream.last_ingested_ms,
                    stream.size_bytes,
                )
                for _, stream in sorted(self._group(place, group).streams.items())
            ]

    def create_stream(self, place: Place, group: str, name: str) -> None:
        """Raises: NotFound, AlreadyExists, OSError."""
        with self._lock:
            held = self._group(place, group)
            if name in held.streams:
                raise AlreadyExists(LOG_STREAM, name)
            held.create(name, _now_ms())

    def delete_stream(self, place: Place, group: str, name: str) -> None:
        """Raises: NotFound."""
        with self._lock:
            held = self._group(place, group)
            if name not in held.streams:
                raise NotFound(LOG_STREAM, name)
            held.drop(name)

    def view(self, place: Place, group: str, name: str) -> View:
        """What a reader needs. Raises: NotFound."""
        with self._lock:
            stream = self._group(place, group).streams.get(name)
            if stream is None:
                raise NotFound(LOG_STREAM, name)
            copies = tuple(Segment(s.number, s.first_key_ms, s.path, s.size_bytes) for s in stream.segments)
            return View(name, copies, stream.end)

    # -- writing ---------------------------------------------------------------------------------

    def append(self, place: Place, group: str, stream: str, events: Sequence[NewEvent]) -> None:
        """To a stream that is there. Raises: NotFound, OSError."""
        with self._lock:
            held = self._group(place, group)
            if stream not in held.streams:
                raise NotFound(LOG_STREAM, stream)
            self._append(held, held.streams[stream], events)

    def take(self, place: Place, group: str, stream: str, events: Sequence[NewEvent]) -> None:
        """To a stream that is made with its group where they are missing. Raises: OSError."""
        with self._lock:
            held = self._groups.get((place, group)) or self._create_group(place, group)
            self._append(held, held.streams.get(stream) or held.create(stream, _now_ms()), events)

    def _append(self, group: _Group, stream: StreamFiles, events: Sequence[NewEvent]) -> None:
        if events:
            now_ms = _now_ms()
            group.size_bytes += stream.append(events, now_ms)
            if group.size_bytes > self._group_bytes or len(group.streams) > STREAMS_MAX:
                group.make_room(self._group_bytes, now_ms)

    def source_end(self, place: Place, group: str, stream: str) -> int:
        """How much of the file behind a stream was taken; 0 for a stream that is not there."""
        with self._lock:
            held = self._groups.get((place, group))
            found = held.streams.get(stream) if held else None
            return found.source_end if found else 0


def _make(parent: Path, name: str, facts: Mapping[str, object]) -> Path:
    quoted = "n" + quote(name, safe="")
    if len(quoted) > 200:  # file names end at 255 bytes
        quoted = "h" + hashlib.sha256(name.encode()).hexdigest()
    folder = parent / quoted
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(folder / "name.json", json.dumps({"name": name, **facts}).encode())
    return folder


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
