"""Workers' log files to log streams, on a thread of its own.

A worker writes its own append-only file; nobody stands between. This thread reads what was added, cuts it into lines
and appends them to the stream `<variant>/<worker id>` of the endpoint's group, or `<job>/<worker id>` of the jobs';
of a model of several containers to `<variant>/<worker id>/<container>`.
A stream's records say how far the file was read, so a restart goes on exactly there.

Work is bounded: one step reads at most 1 MiB of one file, files take turns, and a busy step is followed by a rest of
the same length, so a worker that prints a hundred megabytes costs others at most half a core. What was taken is given
back to the disk by punching a hole (the file's size and everybody's offsets stay as they are), only the end is kept for
whoever wants the last lines. Files of workers that are gone are removed ten minutes after their last line.
With no worker alive and everything taken, the thread sleeps until it is told of a worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.domain.fleet_name import INFERENCE_COMPONENT, TRANSFORM_JOB, FleetName, parse_fleet_name
from clary.domain.names import Place
from clary.store.log_segments import NewEvent
from clary.store.logs import LogStore

log = logging.getLogger(__name__)

STEP_BYTES = 1024 * 1024
LINE_BYTES = 16 * 1024
POLL_S = 0.2
CALM_POLL_S = 1.0
CALM_AFTER_S = 10.0  # nothing grew for so long
SCAN_EVERY_S = 2.0
# A line without its end is told of after this long, or when its worker is gone.
PARTIAL_AFTER_S = 2.0
PUNCH_BYTES = 8 * 1024 * 1024
KEPT_TAIL_BYTES = 64 * 1024
REMOVE_AFTER_S = 600.0
RETRY_AFTER_S = 1.0
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

Workers = Callable[[], Iterable[Mapping[str, Any]]]


def group_of(fleet: FleetName) -> str:
    """The log group of a fleet (SageMaker developer guide, "Amazon CloudWatch Logs for Amazon SageMaker AI")."""
    if fleet.kind == TRANSFORM_JOB:
        return "/aws/sagemaker/TransformJobs"
    if fleet.kind == INFERENCE_COMPONENT:
        return f"/aws/sagemaker/InferenceComponents/{fleet.owner}"
    return f"/aws/sagemaker/Endpoints/{fleet.endpoint}"


@dataclass(slots=True)
class _File:
    path: Path
    fleet: FleetName
    worker: str
    taken: int  # bytes that are in the stream
    grew_s: float  # monotonic time at which more was last seen
    seen_bytes: int = 0
    punched: int = 0
    done: bool = False


class LogTail:
    """See the module. `workers` are the supervisor's records of what lives now."""

    def __init__(self, folder: Path, store: LogStore, account: str, workers: Workers) -> None:
        self._folder = folder
        self._store = store
        self._account = account
        self._workers = workers
        self._files: dict[Path, _File] = {}
        self._poked = threading.Event()
        self._stopping = threading.Event()
        self._scan_at_s = 0.0
        self._punches = True

    def poke(self) -> None:
        """A worker came or went."""
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled. What the thread did not foresee is raised here."""
        lane = ThreadPoolExecutor(1, thread_name_prefix="log-tail")
        work = asyncio.get_running_loop().run_in_executor(lane, self._run)
        try:
            await asyncio.shield(work)
        finally:
            self._stopping.set()
            self._poked.set()
            lane.shutdown(wait=False)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                wait_s = self.step(began_s)
            except OSError:
                log.exception("event=log_tail_failed again_in_s=%s", RETRY_AFTER_S)
                wait_s = RETRY_AFTER_S
            if wait_s == 0.0:
                self._stopping.wait(time.monotonic() - began_s)  # as long as the step took
            else:
                self._poked.wait(wait_s)

    def step(self, now_s: float) -> float | None:
        """One turn over all files. Returns the seconds to wait: 0 when there is more, None when only a poke helps.

        Raises: OSError when a stream cannot be written; nothing is lost then.
        """
        poked = self._poked.is_set()
        self._poked.clear()
        live = {record["worker"] for record in self._workers()}
        if poked or now_s >= self._scan_at_s:
            self._scan(now_s)
            self._scan_at_s = now_s + SCAN_EVERY_S
        more = False
        for file in list(self._files.values()):
            lives = file.worker in live
            if not file.done or lives or _size_bytes(file.path) > file.seen_bytes:
                file.done = False  # it was seen before its worker was told of
                more = self._take(file, lives, now_s) or more
            elif time.time() - self._changed_s(file) >= REMOVE_AFTER_S:
                file.path.unlink(missing_ok=True)
                del self._files[file.path]
        if more:
            return 0.0
        open_files = [file for file in self._files.values() if not file.done]
        if live or open_files:
            calm = all(now_s - file.grew_s > CALM_AFTER_S for file in open_files)
            return CALM_POLL_S if calm else POLL_S
        if self._files:
            oldest_s = min(self._changed_s(file) for file in self._files.values())
            return max(CALM_POLL_S, oldest_s + REMOVE_AFTER_S - time.time())
        return None

    def _scan(self, now_s: float) -> None:
        """Takes note of files that are new."""
        if not self._folder.is_dir():
            return
        for folder in os.scandir(self._folder):
            try:
                fleet = parse_fleet_name(folder.name.replace("~", "/"))
            except ValueError:
                continue
            for entry in os.scandir(folder.path):
                path = Path(entry.path)
                if path.suffix == ".log" and path not in self._files:
                    taken = self._store.source_end(*self._stream(fleet, path.stem))
                    self._files[path] = _File(path, fleet, path.stem, taken, now_s)

    def _stream(self, fleet: FleetName, worker: str) -> tuple[Place, str, str]:
        first = fleet.owner if fleet.kind == TRANSFORM_JOB else fleet.variant
        stream = f"{first}/{worker}/{fleet.container}" if fleet.container else f"{first}/{worker}"
        return Place(self._account, fleet.region), group_of(fleet), stream

    @staticmethod
    def _changed_s(file: _File) -> float:
        try:
            return file.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _take(self, file: _File, lives: bool, now_s: float) -> bool:
        """Takes at most one step's bytes of a file. Returns whether there may be more at once."""
        try:
            size_bytes = file.path.stat().st_size
        except FileNotFoundError:
            del self._files[file.path]
            return False
        if size_bytes != file.seen_bytes:
            file.seen_bytes, file.grew_s = size_bytes, now_s
        if size_bytes < file.taken:  # its worker cut it: what follows is new
            file.taken = file.punched = 0
        if size_bytes == file.taken:
            # Its exit may be told before its last words are seen: a second look, a poll later, settles it.
            file.done = not lives and now_s - file.grew_s > POLL_S
            return False
        ripe = not lives or now_s - file.grew_s > PARTIAL_AFTER_S
        data, start = _read(file.path, file.taken)
        events, taken = split(data, start, time.time_ns() // 1_000_000, ripe and start + len(data) >= size_bytes)
        if events:
            place, group, stream = self._stream(file.fleet, file.worker)
            self._store.take(place, group, stream, events)
        advanced = taken > file.taken
        file.taken = taken
        self._punch(file)
        return advanced and taken < size_bytes

    def _punch(self, file: _File) -> None:
        end = file.taken - KEPT_TAIL_BYTES
        if not self._punches or end - file.punched < PUNCH_BYTES:
            return
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if _libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, file.punched, end - file.punched) != 0:
                self._punches = False
                reason = errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
                log.warning("event=no_holes path=%s reason=%s: log files of workers keep their size", file.path, reason)
        finally:
            os.close(descriptor)
        file.punched = end


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, position: int) -> tuple[bytes, int]:
    """At most a step's bytes from `position` on, and where they begin: behind a hole that a worker may have left."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return b"", os.fstat(descriptor).st_size  # nothing but a hole up to the end
        return os.pread(descriptor, STEP_BYTES, position), position
    finally:
        os.close(descriptor)


def split(data: bytes, start: int, at_ms: int, ripe: bool) -> tuple[list[NewEvent], int]:
    """Lines as events, and how far the file is taken. A last line without its end stays unless `ripe`.

    Lines over 16 KiB become several events; empty lines none.
    """
    events: list[NewEvent] = []
    position = start
    *lines, rest = data.split(b"\n")
    for line in lines:
        end = position + len(line) + 1
        _events(events, line, position, end, at_ms)
        position = end
    if rest and (ripe or len(rest) >= LINE_BYTES):
        keep = 0 if ripe else len(rest) % LINE_BYTES
        whole = rest[: len(rest) - keep]
        _events(events, whole, position, position + len(whole), at_ms)
        position += len(whole)
    return events, position


def _events(events: list[NewEvent], line: bytes, start: int, end: int, at_ms: int) -> None:
    text = line.rstrip(b"\r")
    for at in range(0, len(text), LINE_BYTES):
        last = at + LINE_BYTES >= len(text)
        piece = text[at : at + LINE_BYTES].strip(b"\0")  # the edges of a hole read as zeros
        if piece:
            events.append(NewEvent(at_ms, piece, end if last else start + at + LINE_BYTES))
