"""One asynchronous invocation, step by step, on a thread: read the input, ask the worker, publish the outcome.

Bodies pass in pieces, so that a gigabyte costs no more memory than a kilobyte; what one container of a pipeline makes
for the next lies in an unnamed file meanwhile. What is published under an invocation's
outcome carries its id in the object's content id: after a crash that tells whether it was done.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clary.domain.asynchronous import ASYNC_MAX_BYTES, MAX_INLINE_BYTES, Invocation, Outcome, Told
from clary.domain.containers import ATTRIBUTES, Headers, handed_on, headers_for
from clary.domain.errors import AccessDenied, NotFound, StoreFailed
from clary.domain.names import S3Uri, parse_s3_uri
from clary.runtimes.leases import Place, Used
from clary.store.object_info import ObjectMetadata
from clary.store.objects_port import Objects, Reader, Session
from clary.worker_connection import Answer, Connection, Lost, Misanswered, TimedOut

CHUNK_BYTES = 1 << 20
Body = bytes | Callable[[], Iterable[bytes]]
DEFAULT_CONTENT_TYPE = "application/octet-stream"


class InputMissing(Exception):
    """The input cannot be read."""


@dataclass(slots=True)
class Asked:
    """The worker's part is over. Without a `session` there is nothing but a reason to publish."""

    used: Used
    session: Session | None = None
    content_type: str = ""
    reason: str = ""
    lost: bool = False  # the worker broke off: whether the model saw the request is unknown
    answer: bytes | None = None  # of a small response, where a notification may carry it
    download_us: int = 0


class AsyncWork:
    """The steps. All methods block; each invocation is one thread's at a time."""

    def __init__(self, objects: Objects, scratch: Path) -> None:
        """`scratch` is a folder on the disk that the data lies on."""
        self._objects = objects
        self._scratch = scratch

    def published(self, invocation: Invocation) -> Told | None:
        """The outcome that an earlier life published; None when there is none."""
        for uri, outcome in ((invocation.output_uri, Outcome.COMPLETED), (invocation.failure_uri, Outcome.FAILED)):
            place = parse_s3_uri(uri)
            if place is None:
                continue
            try:
                info = self._objects.head(place.bucket, place.key)
                if not info.content_id.startswith(invocation.id):
                    continue
                with self._objects.open(place.bucket, place.key) as reader:
                    small = reader.size_bytes <= MAX_INLINE_BYTES
                    body = reader.read() if small or outcome is Outcome.FAILED else None
            except NotFound:
                continue
            reason = (body or b"").decode("utf-8", errors="replace") if outcome is Outcome.FAILED else ""
            return Told(outcome, info.metadata.system.get("content-type", ""), reason, body)
        return None

    def ask(self, invocation: Invocation, places: Sequence[Place]) -> Asked:
        """The (last) worker's answer, written down but not yet visible. Raises: InputMissing, ClaryError."""
        started_ns = time.perf_counter_ns()
        if not invocation.input_uri:
            return self._ask(invocation, places, invocation.content_type, invocation.body, len(invocation.body))
        with self._input(invocation) as reader:
            kind = invocation.content_type or reader.info.metadata.system.get("content-type", "")
            size = reader.size_bytes
            body: Body = reader.read() if size <= CHUNK_BYTES else lambda: reader.chunks(CHUNK_BYTES)
            download_us = (time.perf_counter_ns() - started_ns) // 1000
            asked = self._ask(invocation, places, kind, body, size)
        asked.download_us = download_us
        return asked

    def _input(self, invocation: Invocation) -> Reader:
        place = parse_s3_uri(invocation.input_uri)
        assert place is not None  # checked when it was accepted
        try:
            return self._objects.open(place.bucket, place.key)
        except (NotFound, AccessDenied) as error:
            raise InputMissing(f"the input {invocation.input_uri} cannot be read: {error}") from error

    def _ask(
        self, invocation: Invocation, places: Sequence[Place], content_type: str, body: Body, size_bytes: int
    ) -> Asked:
        place = parse_s3_uri(invocation.output_uri)
        assert place is not None
        taken = _Taken(self._objects, place)
        times_us: list[int] = []
        status, end, reason, lost = 500, "", "", False
        ends_s = time.monotonic() + invocation.timeout_s
        headers = _headers(invocation, content_type or DEFAULT_CONTENT_TYPE)
        kept: list[_Kept] = []
        sent: Body = body
        length_bytes = size_bytes
        try:
            for number, worker in enumerate(places):
                last = number == len(places) - 1
                sink = taken if last else _Kept(self._scratch)
                if isinstance(sink, _Kept):
                    kept.append(sink)
                with _timed(times_us):
                    answer = _request(worker, headers_for(headers, last), sent, length_bytes, ends_s, sink)
                status = answer.status
                if not 200 <= status < 300:
                    text = answer.body.decode("utf-8", errors="replace")
                    kind = "client" if 400 <= status < 500 else "server"
                    reason = f'Received {kind} error ({status}) from {worker.container} with message "{text}".'
                    break
                if isinstance(sink, _Kept):
                    told = answer.headers
                    headers = handed_on(headers, told.get("content-type", ""), told.get(ATTRIBUTES, ""))
                    sent, length_bytes = sink.chunks, sink.size_bytes
                elif taken.session is None:  # a 2xx without a body never called for its sink
                    taken.begin(answer.headers)
        except TimedOut:
            end = "hung"
            reason = f"The model gave no answer within {invocation.timeout_s} s (InvocationTimeoutSeconds)."
        except Lost as error:
            end, lost = "lost", True
            reason = f"The model's process ended while it computed the answer ({error})."
        except Misanswered as error:
            reason = f"The model's answer is malformed: {error}."
        except (NotFound, AccessDenied) as error:
            reason = f"the output {invocation.output_uri} cannot be written: {error}"
        except BaseException:
            taken.abort()
            raise
        finally:
            for one in kept:
                one.close()
        if reason:
            taken.abort()
        return Asked(
            Used(status, tuple(times_us), size_bytes, taken.size_bytes, end),
            None if reason else taken.session,
            taken.content_type,
            reason,
            lost,
            taken.small(),
        )

    def publish(self, invocation: Invocation, asked: Asked) -> Told:
        """The outcome becomes visible. Raises: ClaryError when neither it nor the failure can be written."""
        if asked.session is not None:
            try:
                asked.session.commit(content_id=_content_id(invocation))
                return Told(Outcome.COMPLETED, asked.content_type, "", asked.answer)
            except (NotFound, AccessDenied) as error:
                return self.fail(invocation, f"the output {invocation.output_uri} cannot be written: {error}")
        return self.fail(invocation, asked.reason)

    def fail(self, invocation: Invocation, reason: str) -> Told:
        """Publishes a failure. Raises: ClaryError."""
        place = parse_s3_uri(invocation.failure_uri)
        text = reason.encode()
        if place is not None:
            metadata = ObjectMetadata(system={"content-type": "text/plain; charset=utf-8"})
            try:
                with self._objects.begin_put(place.bucket, place.key, metadata=metadata, hash_sha256=False) as session:
                    session.write(text)
                    session.commit(content_id=_content_id(invocation))
            except (
                NotFound,
                AccessDenied,
            ) as error:  # its bucket has gone: the notification and the log are left to tell it
                reason = f"{reason} (and the failure object could not be written: {error})"
        return Told(Outcome.FAILED, "", reason, text)


@contextmanager
def _timed(times_us: list[int]) -> Iterator[None]:
    """Adds how long it took, however it ends."""
    started_ns = time.perf_counter_ns()
    try:
        yield
    finally:
        times_us.append((time.perf_counter_ns() - started_ns) // 1000)


def _request(
    worker: Place, headers: Headers, body: Body, size_bytes: int, ends_s: float, sink: _Taken | _Kept
) -> Answer:
    """One exchange with one worker. Raises: Lost, TimedOut, Misanswered, and what the sink does."""
    connection = Connection(worker.address)
    left_s = max(0.0, ends_s - time.monotonic())
    try:
        return connection.request("POST", "/invocations", headers, body, left_s, sink.begin, size_bytes)
    finally:
        connection.close()


class _Kept:
    """A response that is the next container's request; in memory while it is small."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(CHUNK_BYTES, dir=str(folder))  # noqa: SIM115
        self.size_bytes = 0

    def begin(self, _headers: Mapping[str, str]) -> _Kept:
        return self

    def __call__(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > ASYNC_MAX_BYTES:
            raise ValueError(f"its body is larger than {ASYNC_MAX_BYTES} bytes")
        try:
            self._file.write(data)
        except OSError as error:
            raise StoreFailed("keeping what a container has made", detail=str(error)) from error

    def chunks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while data := self._file.read(CHUNK_BYTES):
            yield data

    def close(self) -> None:
        self._file.close()


class _Taken:
    """The response on its way into the store."""

    def __init__(self, objects: Objects, place: S3Uri) -> None:
        self._objects = objects
        self._place = place
        self._small: list[bytes] = []
        self.session: Session | None = None
        self.content_type = ""
        self.size_bytes = 0

    def begin(self, headers: Mapping[str, str]) -> _Taken:
        self.content_type = headers.get("content-type", DEFAULT_CONTENT_TYPE)
        self.session = self._objects.begin_put(
            self._place.bucket,
            self._place.key,
            metadata=ObjectMetadata(system={"content-type": self.content_type}),
            hash_sha256=False,
        )
        return self

    def __call__(self, data: bytes) -> None:
        assert self.session is not None
        self.session.write(data)
        self.size_bytes += len(data)
        if self.size_bytes <= MAX_INLINE_BYTES:
            self._small.append(data)

    def small(self) -> bytes | None:
        return b"".join(self._small) if self.size_bytes <= MAX_INLINE_BYTES else None

    def abort(self) -> None:
        if self.session is not None:
            self.session.abort()


def _content_id(invocation: Invocation) -> str:
    """Begins with the invocation's id; its end makes it new, since an earlier one may live on in a copy."""
    return f"{invocation.id}{uuid.uuid4().hex[:8]}"


def _headers(invocation: Invocation, content_type: str) -> list[tuple[str, str]]:
    named = (
        ("content-type", content_type),
        ("accept", invocation.accept),
        (ATTRIBUTES, invocation.custom_attributes),
        ("x-amzn-sagemaker-inference-id", invocation.inference_id),
    )
    return [(name, value) for name, value in named if value]
