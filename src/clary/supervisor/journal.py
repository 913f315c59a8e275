"""What happened to every worker, in a file that only this process writes and nobody rewrites.

One JSON line an event. A line is in the page cache before the event is told on, so kill -9 of anything loses none;
a thread of its own calls fsync at most every half second, so a power cut loses at most the last second. While
workers live, a heartbeat (eight bytes of wall-clock nanoseconds in a mapped file) proves every 50 ms that the
supervisor lives: after its violent death the next start closes the open lives at the last beat. Lives are charged up
to it too, so it stands still while lines wait.

While the disk is full, lines wait in memory, in order and with the time at which they were true, and `write_on` tries
again: a full disk must not end the supervisor, which would end everything.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

HEARTBEAT_S = 0.05
FSYNC_EVERY_S = 0.5
MAX_WAITING_BYTES = 64 * 1024 * 1024  # weeks of a worker that dies every five seconds


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Heartbeat:
    """The last moment at which this supervisor was alive, as another process or the next start reads it."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < mmap.PAGESIZE:
                os.ftruncate(descriptor, mmap.PAGESIZE)
            self._map = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)

    def beat(self) -> None:
        struct.pack_into("<q", self._map, 0, time.time_ns())

    def last_ns(self) -> int:
        """Wall-clock nanoseconds; 0 when it never beat."""
        value: int = struct.unpack_from("<q", self._map, 0)[0]
        return value


class Journal:
    """Append-only record of worker lives; see the module for what survives what."""

    def __init__(self, path: Path, heartbeat: Heartbeat) -> None:
        self._path = path
        self._heartbeat = heartbeat
        self._boot = boot_id()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._sequence = 0
        self._waiting = b""  # what the disk has not taken yet
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._close_open_lives(heartbeat.last_ns())
        self._syncer = threading.Thread(target=self._sync, name="journal-fsync", daemon=True)
        self._syncer.start()

    def record(self, event: str, at_ns: int | None = None, **fields: Any) -> None:
        """Appends one event; `at_ns` defaults to now (wall clock)."""
        self._sequence += 1
        line = {
            "seq": self._sequence,
            "event": event,
            "at_ns": time.time_ns() if at_ns is None else at_ns,
            "mono_ns": time.monotonic_ns(),
            "boot": self._boot,
            **fields,
        }
        self._waiting += json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self.write_on()

    def beat(self) -> None:
        """The supervisor lives. While lines wait the heartbeat stands: whoever reads it takes every life that the
        journal has not ended to go on until the last beat, so it never passes an end that is not in the file."""
        if not self.behind:
            self._heartbeat.beat()

    @property
    def behind(self) -> bool:
        """Whether lines wait for room on the disk."""
        return bool(self._waiting)

    def write_on(self) -> None:
        """Writes what waits, as far as there is room. Raises: OSError when too much waits."""
        while self._waiting:
            try:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or len(self._waiting) > MAX_WAITING_BYTES:
                    raise
                return
            self._dirty.set()

    def close(self) -> None:
        self._closing.set()
        self._dirty.set()
        self._syncer.join(timeout=5)
        os.fsync(self._file)
        os.close(self._file)

    def _sync(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            os.fsync(self._file)
            self._closing.wait(FSYNC_EVERY_S)

    def _close_open_lives(self, last_beat_ns: int) -> None:
        """Ends on paper what ended with the supervisor before this one: its lifeline took every worker with it."""
        raw = self._path.read_bytes()
        if raw and not raw.endswith(b"\n"):  # a power cut in the middle of a line: that event was never told on
            os.truncate(self._path, raw.rfind(b"\n") + 1)
            raw = raw[: raw.rfind(b"\n") + 1]
        open_lives: dict[str, dict[str, Any]] = {}
        for line in raw.splitlines():
            entry = json.loads(line)
            self._sequence = entry["seq"]
            if entry["event"] == "started":
                open_lives[entry["worker"]] = entry
            elif entry["event"] == "exited":
                open_lives.pop(entry["worker"], None)
        for worker, entry in open_lives.items():
            self.record(
                "exited",
                at_ns=max(last_beat_ns, entry["at_ns"]),
                worker=worker,
                fleet=entry["fleet"],
                instance=entry["instance"],
                reason="SupervisorLost",
                **({"host": entry["host"]} if "host" in entry else {}),
            )
