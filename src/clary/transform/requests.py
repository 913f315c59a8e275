"""One batch of records to its output: filtered, sent, tried again where that may help, joined, or refused with a place.

A refusal names the object and, where records are lines, the line: the batch is halved until the record that the
model refuses stands alone.

Seats are how many requests may be at the instance at once. There is a thread more than seats: while a worker computes,
the next batch is made ready, so that the worker is asked again the moment it has answered.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clary.domain.containers import ATTRIBUTES, Headers, handed_on, headers_for
from clary.domain.transform_plan import LOST_ATTEMPTS, Handling, Input, SplitType
from clary.domain.transform_records import CannotProcess, Processing
from clary.domain.transform_split import Splitter
from clary.transform.workers import Worker, Workers
from clary.worker_connection import Answer, Connection, Lost, Misanswered, TimedOut

PARAMETERS_LIMIT_S = 5.0
CONNECTIONS_KEPT = 8
BACKOFF_S = 0.1  # before the first retry of a request that failed; twice as long before each further one


class Refused(Exception):
    """A batch has no output; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one object. `position` and `last_line` are where the input stands after them."""

    of: Input
    raw: bytes
    first_line: int
    last_line: int
    position: int


@dataclass(frozen=True, slots=True)
class Said(Answer):
    """An answer, and of several containers the name of the one that gave it."""

    container: str = ""


@dataclass(slots=True)
class Seat:
    """The right to one request at a time, and its connections by worker; the number chooses among the workers."""

    number: int
    connections: dict[str, Connection] = field(default_factory=dict)


class Asker:
    """Asks the workers of one instance. Used by several threads; those that ask at once have a seat each."""

    def __init__(
        self,
        workers: Workers,
        instance: int,
        handling: Handling,
        processing: Processing | None,
        start_timeout_s: float,
    ) -> None:
        self._workers = workers
        self._instance = instance
        self._handling = handling
        self._processing = processing
        self._start_timeout_s = start_timeout_s
        self._threads = threading.local()  # `seat` of the thread that asks
        self._free: queue.LifoQueue[Seat] = queue.LifoQueue()
        self._free.put(Seat(0))
        named = (("content-type", handling.content_type), ("accept", handling.accept))
        self._headers = [(name, value) for name, value in named if value]

    def parameters(self) -> bytes | None:
        """The (first) container's answer to GET /execution-parameters; None when it gives none. Raises: Refused."""
        with self._seated():
            worker = self._worker(0)
            try:
                answer = self._connection(worker).request("GET", "/execution-parameters", (), b"", PARAMETERS_LIMIT_S)
            except (Lost, TimedOut, Misanswered):
                return None
            return answer.body if answer.status == 200 else None

    def seat(self, count: int) -> None:
        """So many requests may be at the instance at once, one until this is called."""
        for number in range(1, count):
            self._free.put(Seat(number))

    def output_of(self, batch: Batch, splitter: Splitter) -> bytes:
        """What is written for a batch. Raises: Refused."""
        records: list[bytes] = []
        try:
            if self._processing is None:
                body = splitter.payload(batch.raw)
            else:
                records, body = self._processing.before(splitter.records(batch.raw))
            if splitter.split is SplitType.LINE and (not body or body.isspace()):
                return b""  # blank lines are no records
            with self._seated():
                answer = self._ask(body, batch, splitter)
            found = answer.body if self._processing is None else self._processing.after(records, answer.body)
        except CannotProcess as error:
            raise Refused(f"{self._place(batch, splitter, error.record)}: {error}") from error
        if self._handling.assemble_lines and not found.endswith(b"\n"):
            found += b"\n"
        return found

    def stream(self, of: Input, body: Callable[[], Iterator[bytes]], into: Path) -> None:
        """A whole object in one request, in chunks, its answer into a file. Raises: Refused."""

        def once() -> Said:
            with into.open("wb") as file:
                return self._once(body, file.write)

        with self._seated():
            answer = self._with_retries(once, of.uri)
        if not 200 <= answer.status < 300:
            raise Refused(f"{of.uri}: {_told(answer)}")
        if self._handling.assemble_lines:
            with into.open("rb+") as file:
                if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                    file.write(b"\n")

    @contextmanager
    def _seated(self) -> Iterator[None]:
        """With a seat of this thread's own; it waits for one, which every request frees at its deadline."""
        seat = self._threads.seat = self._free.get()
        try:
            yield
        finally:
            self._free.put(seat)

    # -- asking ----------------------------------------------------------------------------------

    def _ask(self, body: bytes, batch: Batch, splitter: Splitter) -> Said:
        answer = self._with_retries(lambda: self._once(body), self._place(batch, splitter, -1))
        if 200 <= answer.status < 300:
            return answer
        raise Refused(self._located(batch, splitter, answer))

    def _with_retries(self, once: Callable[[], Said], place: str) -> Said:
        lost = failed = 0
        while True:
            why = ""
            try:
                answer = once()
                # A refusal (4xx) says something of the request, which stays the same; others may pass.
                if answer.status < 500 and answer.status != 429:
                    return answer
                if failed >= self._handling.max_retries:
                    return answer
                time.sleep(BACKOFF_S * 2**failed)
                failed += 1
            except Lost as error:
                lost += 1
                why = f"the worker ended while it computed ({error})" if lost >= LOST_ATTEMPTS else ""
            except (TimedOut, Misanswered) as error:
                why = f"{error}" if failed >= self._handling.max_retries else ""
                failed += 1
            if why:
                raise Refused(f"{place}: {why}, tried {lost + failed} times")

    def _once(self, body: bytes | Callable[[], Iterable[bytes]], sink: Callable[[bytes], object] | None = None) -> Said:
        """Through all containers, within the time of one request; the answer of the last, or of one that refuses."""
        left_s, headers, last = float(self._handling.timeout_s), self._headers, len(self._workers.containers) - 1
        for place, container in enumerate(self._workers.containers):
            worker = self._worker(place)
            began_s = time.monotonic()
            found = self._ask_one(worker, headers_for(headers, place == last), body, left_s, sink)
            if place == last or not 200 <= found.status < 300:
                return Said(found.status, found.body, found.headers, container)
            left_s = max(0.0, left_s - (time.monotonic() - began_s))
            told = found.headers
            headers = handed_on(headers, told.get("content-type", ""), told.get(ATTRIBUTES, ""))
            body = found.body
        raise AssertionError("a job has a container")

    def _ask_one(
        self,
        worker: Worker,
        headers: Headers,
        body: bytes | Callable[[], Iterable[bytes]],
        limit_s: float,
        sink: Callable[[bytes], object] | None,
    ) -> Answer:
        connection = self._connection(worker)
        try:
            sink_of = None if sink is None else lambda _headers: sink
            return connection.request("POST", "/invocations", headers, body, limit_s, sink_of)
        except Lost:
            self._workers.suspect(worker)
            raise
        except TimedOut:
            self._workers.end(worker)  # it still computes for nobody; its successor is free
            raise

    def _worker(self, place: int) -> Worker:
        seat: Seat = self._threads.seat
        worker = self._workers.pick(place, self._instance, seat.number, self._start_timeout_s)
        if worker is None:
            raise Refused(f"no worker of instance {self._instance} was ready within {self._start_timeout_s:g} s")
        return worker

    def _connection(self, worker: Worker) -> Connection:
        seat: Seat = self._threads.seat
        held = seat.connections
        if worker.id not in held:
            if len(held) >= CONNECTIONS_KEPT:  # of workers that are long gone
                for old in held.values():
                    old.close()
                held.clear()
            held[worker.id] = Connection(worker.address)
        return held[worker.id]

    # -- where it is wrong -----------------------------------------------------------------------

    def _located(self, batch: Batch, splitter: Splitter, answer: Said) -> str:
        """The refusal with its place: of several records, the first that is refused alone as well."""
        records = splitter.records(batch.raw)
        low, high = 0, len(records)
        while high - low > 1:
            middle = (low + high) // 2
            told = self._again(records[low:middle], splitter)
            if told is None or not 200 <= told.status < 300:
                high, answer = middle, told or answer
            else:
                low = middle
        if len(records) > 1:
            told = self._again(records[low:high], splitter)
            if told is not None and 200 <= told.status < 300:  # it is refused only together with others
                return f"{self._place(batch, splitter, -1)}: {_told(answer)}"
            answer = told or answer
        return f"{self._place(batch, splitter, low, skip_blank=False)}: {_told(answer)}"

    def _again(self, records: list[bytes], splitter: Splitter) -> Said | None:
        """None when there was no answer at all."""
        if self._processing is None:
            body = splitter.payload(b"".join(records))
        else:
            body = self._processing.before(records)[1]
        if not body.strip():
            return Said(200, b"")
        try:
            return self._once(body)
        except (Lost, TimedOut, Misanswered):
            return None

    def _place(self, batch: Batch, splitter: Splitter, record: int, skip_blank: bool = True) -> str:
        """The object, and the lines or the record: -1 for all of the batch."""
        if splitter.split is SplitType.NONE:
            return batch.of.uri
        word = "line" if splitter.split is SplitType.LINE else "record"
        if record < 0:
            many = batch.last_line > batch.first_line
            return f"{batch.of.uri} {word}{'s' if many else ''} {batch.first_line}" + (
                f" to {batch.last_line}" if many else ""
            )
        line = batch.first_line
        for one in splitter.records(batch.raw):
            blank = skip_blank and word == "line" and not one.strip()
            if not record and not blank:
                break
            record -= not blank
            line += one.count(b"\n") if word == "line" else 1
        return f"{batch.of.uri} {word} {line}"


def _told(answer: Said) -> str:
    text = answer.body.decode(errors="replace").strip()
    who = f"container {answer.container}" if answer.container else "the model"
    return f"{who} answered {answer.status}" + (f": {text[:400]}" if text else "")
