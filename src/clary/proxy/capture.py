"""Sampled calls on their way to the object store: the hot path hands over references, a thread writes them down.

    capture/N.open       being written: a line of facts (destination, endpoint, variant, time), then the records
    capture/N.ready      complete; control delivers it and takes it away

What waits to be written is bounded; over that a call is not captured, which is counted and told. A clean stop writes
everything that waits; after a crash the next process completes the open files up to their last whole line.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from clary.domain.capture import Capture, Kept, line

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64 << 20
FILE_BYTES = 8 << 20
FILE_AGE_S = 20.0
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 60.0


class Call(NamedTuple):
    """One answered invocation. `request` is the head and the body as the worker got them."""

    capture: Capture
    account: str
    region: str
    endpoint: str
    variant: str
    at_s: float
    request: bytes
    request_body_bytes: int
    output_type: bytes
    output: bytes


@dataclass(slots=True)
class _File:
    """One open file: of one variant, one hour."""

    path: Path
    stream: IO[str]
    opened_s: float
    size_bytes: int = 0


class CaptureSpool:
    """`take` is called in the event loop and never waits; everything else is the thread's."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._waiting: deque[Call] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._told_s = 0.0
        self._files: dict[tuple[str, str, str, str, str], _File] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def take(self, call: Call) -> None:
        size = len(call.request) + len(call.output)
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting_bytes += size
        self._waiting.append(call)
        if self._thread is None:
            self._begin()
        self._wake.set()

    def _begin(self) -> None:
        """The thread starts with the first call: an endpoint without capture costs nothing."""
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def recover(self) -> None:
        """Completes what an earlier process left open."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.glob("*.open"):
            whole = path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if whole.count(b"\n", 0, end) < 2:
                path.unlink()
                continue
            os.truncate(path, end)
            path.rename(path.with_suffix(".ready"))

    def stop(self) -> None:
        """Returns when everything that waited is on the disk."""
        if self._thread is not None:
            self._stopping = True
            self._wake.set()
            self._thread.join(10.0)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(None if not self._files else LOOK_EVERY_S)
            self._wake.clear()
            self._drain()
            self._finish_old()
            self._tell_dropped()
        self._drain()
        for key in list(self._files):
            self._finish(key)

    def _drain(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            self._waiting_bytes -= len(call.request) + len(call.output)
            try:
                self._write(call)
            except OSError as error:
                self._dropped += 1
                log.warning("event=capture_not_written reason=%s", error)

    def _write(self, call: Call) -> None:
        free = os.statvfs(self._folder)
        if free.f_bavail * free.f_frsize < self._reserve_bytes:
            self._dropped += 1
            return
        at = datetime.fromtimestamp(call.at_s, UTC)
        key = (call.region, call.endpoint, call.variant, call.capture.destination, f"{at:%Y%m%d%H}")
        file = self._files.get(key) or self._open(key, call, at)
        text = line(_kept(call, at), call.capture) + "\n"
        file.stream.write(text)
        file.size_bytes += len(text)
        if file.size_bytes >= FILE_BYTES:
            self._finish(key)

    def _open(self, key: tuple[str, str, str, str, str], call: Call, at: datetime) -> _File:
        path = self._folder / f"{uuid.uuid4().hex}.open"
        stream = path.open("w", encoding="utf-8")
        facts = {
            "account": call.account,
            "region": call.region,
            "endpoint": call.endpoint,
            "variant": call.variant,
            "destination": call.capture.destination,
            "at": at.isoformat(),
        }
        stream.write(json.dumps(facts) + "\n")
        file = self._files[key] = _File(path, stream, time.monotonic())
        return file

    def _finish_old(self) -> None:
        now_s = time.monotonic()
        for key, file in list(self._files.items()):
            file.stream.flush()
            if now_s - file.opened_s >= FILE_AGE_S:
                self._finish(key)

    def _finish(self, key: tuple[str, str, str, str, str]) -> None:
        file = self._files.pop(key)
        file.stream.flush()
        os.fsync(file.stream.fileno())
        file.stream.close()
        file.path.rename(file.path.with_suffix(".ready"))

    def _tell_dropped(self) -> None:
        now_s = time.monotonic()
        if self._dropped and now_s - self._told_s > TELL_EVERY_S:
            log.warning("event=calls_not_captured count=%d reason=too much waits, or the disk is full", self._dropped)
            self._dropped, self._told_s = 0, now_s


def _kept(call: Call, at: datetime) -> Kept:
    head, _, _ = call.request.partition(b"\r\n\r\n")
    fields = {}
    for entry in head.split(b"\r\n")[1:]:
        name, _, value = entry.partition(b":")
        fields[name.lower()] = value.strip().decode("latin-1")
    body = call.request[len(call.request) - call.request_body_bytes :]
    return Kept(
        at=at,
        event_id=str(uuid.uuid4()),
        inference_id=fields.get(b"x-amzn-sagemaker-inference-id", ""),
        custom_attributes=fields.get(b"x-amzn-sagemaker-custom-attributes", ""),
        input_type=fields.get(b"content-type", ""),
        input=body,
        output_type=call.output_type.decode("latin-1"),
        output=call.output,
    )
