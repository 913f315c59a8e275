"""The two raw usage files as control reads them: the supervisor's journal and the proxy's counters.

Both have one writer, which is another process; nothing here writes. The journal is read in whole lines from a byte
position on; the counters are looked at where they lie, a slot is copied out only when its scalars moved.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.domain.fleet_name import account_of
from clary.domain.usage import COUNTERS, HEADER_BYTES, NAME_BYTES, NUMBERS, SLOT_BYTES, Usage

READ_BYTES = 4 * 1024 * 1024
_SCALAR_BYTES = 8 * len(COUNTERS)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the journal was read, and enough of the last line to know the place again."""

    position: int = 0
    seq: int = 0
    boot: str = ""
    line_bytes: int = 0
    line_crc: int = 0


@dataclass(frozen=True, slots=True)
class JournalPart:
    """Events in the order of the file, where they end, and whether that was the end of the file."""

    events: tuple[Mapping[str, Any], ...]
    mark: Mark
    at_end: bool


class JournalFile:
    """The supervisor's journal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aligned = False

    def read(self, mark: Mark, limit_bytes: int = READ_BYTES) -> JournalPart:
        """The whole lines after `mark`; none when the file is not there yet.

        Raises: OSError; ValueError for a line that is no JSON object.
        """
        try:
            with self._path.open("rb") as file:
                if not self._aligned:
                    mark = _aligned(file.read, file.seek, mark)
                    self._aligned = True
                file.seek(mark.position)
                data = file.read(limit_bytes)
        except FileNotFoundError:
            return JournalPart((), mark, True)
        whole = data[: data.rfind(b"\n") + 1]
        at_end = len(data) < limit_bytes
        if not whole:
            return JournalPart((), mark, at_end)
        lines = whole.splitlines(keepends=True)
        events = tuple(json.loads(line) for line in lines)
        return JournalPart(events, _after(mark.position + len(whole), events[-1], lines[-1]), at_end)


def _after(position: int, event: Mapping[str, Any], line: bytes) -> Mark:
    return Mark(position, int(event["seq"]), str(event["boot"]), len(line), zlib.crc32(line))


def _aligned(read: Any, seek: Any, mark: Mark) -> Mark:
    """`mark` where its line still lies before its position; else the place after all that was read already.

    A power cut may take lines that were read and let others be written in their place: those of the mark's boot up to
    its sequence number were read, and so was everything before them.
    """
    if mark.position == 0:
        return mark
    seek(mark.position - mark.line_bytes)
    if zlib.crc32(read(mark.line_bytes)) == mark.line_crc:
        return mark
    seek(0)
    data: bytes = read()
    found, position = Mark(), 0
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        position += len(line)
        event = json.loads(line)
        if event["boot"] == mark.boot and event["seq"] <= mark.seq:
            found = _after(position, event, line)
    return found


def instance_of(event: Mapping[str, Any]) -> tuple[str, int]:
    """(account, instance) whose time a journal line is about: that of all containers of the instance, and the host's,
    for a worker on instances of another fleet."""
    where = event.get("host", event)
    return account_of(where["fleet"]), int(where["instance"])


class CounterFile:
    """The proxy's counters."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._confirmed: dict[int, bytes] = {}

    def changed(self) -> dict[int, Usage]:
        """The slots that moved since `confirm` was told of them, by their number; all of them at first.

        Raises: OSError.
        """
        if self._map is None and not self._open():
            return {}
        assert self._map is not None
        moved = {}
        used = int.from_bytes(self._map[:8], "little")
        for slot in range(used):
            start = HEADER_BYTES + slot * SLOT_BYTES + NAME_BYTES
            scalars = self._map[start : start + _SCALAR_BYTES]
            if self._confirmed.get(slot) != scalars:
                moved[slot] = self._usage(slot)
        return moved

    def confirm(self, usages: Mapping[int, Usage]) -> None:
        """What `changed` gave was written down."""
        for slot, usage in usages.items():
            self._confirmed[slot] = struct.pack(f"={len(COUNTERS)}Q", *usage.numbers[: len(COUNTERS)])

    def _usage(self, slot: int) -> Usage:
        assert self._map is not None
        start = HEADER_BYTES + slot * SLOT_BYTES
        # One copy: the same bytes that are charged are remembered as seen.
        data = self._map[start : start + SLOT_BYTES]
        numbers = struct.unpack_from(f"={NUMBERS}Q", data, NAME_BYTES)
        return Usage(data[:NAME_BYTES].rstrip(b"\0").decode(), numbers)

    def _open(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes <= HEADER_BYTES:
                return False  # the proxy has made it this moment and not given it its size
            self._map = mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        return True


def heartbeat_ns(path: Path) -> int:
    """Wall-clock nanoseconds at which the supervisor was last known to live; 0 when it never was."""
    try:
        data = path.read_bytes()[:8]
    except FileNotFoundError:
        return 0
    return int(struct.unpack("<q", data)[0]) if len(data) == 8 else 0
