"""One instance's share of the objects: read, cut, asked for on a few threads, written in order.

The lane's own thread reads and writes; the requests wait on a pool of a thread more than the instance's concurrency,
which is how many of them ask at once. Between them stands a window of batches in the order of the input, bounded in
number, and in bytes together with all other lanes. A new object begins while the last one's batches are still being
computed.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from clary.domain.transform_plan import Format, Handling, Input, Order, Requests, SplitType, format_of, settle
from clary.domain.transform_records import processing_of
from clary.domain.transform_split import BadRecord, Splitter
from clary.transform.folder import JobFolder
from clary.transform.output import Output
from clary.transform.requests import Asker, Batch, Refused
from clary.transform.source import CHUNK_BYTES, Source, SourceBroken
from clary.transform.workers import Workers

WINDOW_BYTES = 256 * 1024 * 1024  # of batches in all lanes


class Budget:
    """Bytes that may be under way at once; one batch always may."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._freed = threading.Condition()

    def take(self, count: int, wait: bool) -> bool:
        """False when there is no room and the caller would rather free some of its own first."""
        with self._freed:
            while self._used and self._used + count > self._total:
                if not wait:
                    return False
                self._freed.wait()
            self._used += count
            return True

    def give(self, count: int) -> None:
        with self._freed:
            self._used -= count
            self._freed.notify_all()


@dataclass(slots=True)
class Told:
    """A lane's progress; written by its own thread only."""

    bytes: int = 0
    lines: int = 0
    requests: int = 0
    objects: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Work:
    """One object under way."""

    of: Input
    output: Output
    reason: str = ""


@dataclass(slots=True)
class _Pending:
    """A batch's output to be, or, without one, the end of its object."""

    work: _Work
    batch: Batch | None = None
    result: Future[bytes] | None = None
    reason: str = ""


class Lane(threading.Thread):
    """`done` when every object of its share has a whole output or a reason; it dies of anything unforeseen."""

    def __init__(
        self,
        number: int,
        order: Order,
        folder: JobFolder,
        workers: Workers,
        budget: Budget,
        finished: set[int],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(daemon=True, name=f"instance-{number}")
        self.told = Told()
        self.done = False
        self._number = number
        self._order = order
        self._folder = folder
        self._budget = budget
        self._finished = finished
        self._say = say
        self._asker = Asker(workers, number, order.handling, processing_of(order.handling), order.start_timeout_s)
        self._window: deque[_Pending] = deque()

    def run(self) -> None:
        requests: Requests | None = None
        for one in self._folder.inputs():
            if one.number % self._order.instances != self._number:
                continue
            if one.number in self._finished:
                self.told.objects += 1
                self.told.bytes += one.size_bytes
                continue
            if requests is None:
                requests = self._settled()
                self._asker.seat(requests.concurrent)
                pool = ThreadPoolExecutor(requests.concurrent + 1, thread_name_prefix=f"requests-{self._number}")
                splitter = _splitter(self._order.handling, requests)
            if not requests.payload_bytes and not requests.single:
                self._stream(one)
            else:
                self._object(one, splitter, pool, 2 * requests.concurrent)
        while self._window:
            self._settle_first()
        self.done = True

    def _settled(self) -> Requests:
        """Asks the container what it can do. It may take its start's time to be there to be asked."""
        try:
            body = self._asker.parameters()
            told = json.loads(body) if body else None
        except (Refused, ValueError):
            told = None  # the requests will say that no worker came; nonsense counts as no answer
        found = settle(self._order.handling, told if isinstance(told, dict) else None, self._order.processes)
        if not self._number:
            payload_mb = found.payload_bytes // (1024 * 1024)
            self._say(
                f"MaxConcurrentTransforms={found.concurrent}, MaxPayloadInMB={payload_mb}, "
                f"BatchStrategy={'SINGLE_RECORD' if found.single else 'MULTI_RECORD'}"
            )
        return found

    # -- an object, batch by batch ---------------------------------------------------------------

    def _object(self, one: Input, splitter: Splitter, pool: ThreadPoolExecutor, window: int) -> None:
        work = _Work(one, Output(self._folder, one.number))
        if work.output.position:
            self._say(f"{one.uri} goes on after {work.output.position} bytes")
        reason = ""
        try:
            for batch in self._batches(work, splitter):
                self._make_room(len(batch.raw), window)
                if work.reason:
                    self._budget.give(len(batch.raw))
                    break
                self._window.append(_Pending(work, batch, pool.submit(self._asker.output_of, batch, splitter)))
        except SourceBroken as error:
            reason = f"{one.uri}: {error}"
        except Refused as error:
            reason = str(error)
        self._window.append(_Pending(work, reason=reason))

    def _batches(self, work: _Work, splitter: Splitter) -> Iterator[Batch]:
        """Raises: SourceBroken, Refused for a record that cannot be sent."""
        position, lines = work.output.position, work.output.lines
        self.told.bytes += position if not self._order.handling.compressed else 0
        buffer, start, final = bytearray(), 0, False
        with Source(self._folder.inputs_folder, work.of, self._order.handling.compressed, position) as source:
            while True:
                while start < len(buffer):
                    try:
                        end = splitter.cut(buffer, start, final)
                    except BadRecord as error:
                        raise Refused(self._bad(work, splitter, lines, buffer, start, error)) from error
                    if end is None:
                        break
                    raw = bytes(memoryview(buffer)[start:end])
                    first, lines = lines + 1, lines + _lines(raw, splitter)
                    position += len(raw)
                    start = end
                    yield Batch(work.of, raw, first, max(first, lines), position)
                if final:
                    return
                del buffer[:start]
                start = 0
                data = source.read(max(CHUNK_BYTES, splitter.limit_bytes + 1 - len(buffer)))
                buffer += data
                final = not data

    def _bad(self, work: _Work, splitter: Splitter, lines: int, buffer: bytearray, start: int, error: BadRecord) -> str:
        if splitter.split is SplitType.NONE:
            return f"{work.of.uri}: {error}"
        if splitter.split is SplitType.LINE:
            line = lines + 1 + buffer.count(b"\n", start, error.offset_bytes)
            return f"{work.of.uri} line {line}: {error}"
        return f"{work.of.uri} record {lines + 1} or later: {error}"

    def _make_room(self, count: int, window: int) -> None:
        """Writes what has come until one more batch may be under way."""
        while len(self._window) >= window:
            self._settle_first()
        while not self._budget.take(count, wait=not self._window):
            self._settle_first()

    def _settle_first(self) -> None:
        """Takes the oldest of the window: its output is written, or its object ends."""
        pending = self._window.popleft()
        work, batch = pending.work, pending.batch
        if batch is None or pending.result is None:
            self._end(work, pending.reason)
            return
        try:
            found = pending.result.result()
        except Refused as error:
            work.reason = work.reason or str(error)
            found = b""
        self._budget.give(len(batch.raw))
        self.told.requests += 1
        self.told.bytes += len(batch.raw) if not self._order.handling.compressed else 0
        self.told.lines += batch.last_line - batch.first_line + 1
        if not work.reason:
            work.output.write(found)
            work.output.reached(batch.position, batch.last_line)

    def _end(self, work: _Work, reason: str) -> None:
        reason = work.reason or reason
        self.told.objects += 1
        if reason:
            self.told.failed += 1
            self._say(reason)
            work.output.give_up(reason)
        else:
            work.output.finish()

    # -- an object in one endless request --------------------------------------------------------

    def _stream(self, one: Input) -> None:
        """MaxPayloadInMB 0: nothing is cut, nothing is held; body and answer pass in chunks."""
        while self._window:
            self._settle_first()
        work = _Work(one, Output(self._folder, one.number))
        answer = self._folder.parts / f"{one.number}.answer"

        def body() -> Iterator[bytes]:
            with Source(self._folder.inputs_folder, one, self._order.handling.compressed, 0) as source:
                while data := source.read(CHUNK_BYTES):
                    yield data

        try:
            self._asker.stream(one, body, answer)
            work.output.append_file(answer)
        except SourceBroken as error:
            work.reason = f"{one.uri}: {error}"
        except Refused as error:
            work.reason = str(error)
        answer.unlink(missing_ok=True)
        self.told.bytes += one.size_bytes
        self.told.requests += 1
        self._end(work, "")


def _splitter(handling: Handling, requests: Requests) -> Splitter:
    return Splitter(
        handling.split, requests.payload_bytes, requests.single, format_of(handling.content_type) is Format.CSV
    )


def _lines(raw: bytes, splitter: Splitter) -> int:
    """How many lines, or records of a binary kind, a batch has."""
    if splitter.split is SplitType.LINE:
        return raw.count(b"\n") + (not raw.endswith(b"\n"))
    return 1 if splitter.single or splitter.split is SplitType.NONE else len(splitter.records(raw))
