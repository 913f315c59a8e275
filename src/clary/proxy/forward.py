"""One request to one worker and back: connection, deadline, retry where it is safe, and the mapping of a model's error.

An `Exchange` is a request that has been admitted. It waits, is written to an `Upstream` (a kept-alive connection to a
worker), and ends in exactly one of: answered, refused, client gone. Small answers leave in one write; large ones
stream with the client's pace. Nothing here is a task: every step is a callback of the event loop.

Retry (once, on another worker when there is one): only if the connection could not be made, or the worker closed it
with the request still unread, which a unix socket tells from one that was read (reliability rule R5).
"""

from __future__ import annotations

import asyncio
import json
import os
from time import perf_counter_ns
from typing import TYPE_CHECKING

import httptools

from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import REASONS, Refusal
from clary.wire.eventstream import event_frame

if TYPE_CHECKING:
    from clary.proxy.chain import Chain
    from clary.proxy.dispatch import Dispatcher
    from clary.proxy.multimodel import Model
    from clary.proxy.server import FrontConnection

FIRST_LINE = b"POST /invocations HTTP/1.1\r\nHost: worker\r\n"
STREAM_OVER_BYTES = 256 * 1024
EVENT_BYTES = 64 * 1024  # of one PayloadPart at most
ERROR_TEXT_BYTES = 4096
MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 100
INTERIM_BYTES = 64  # what a "100 Continue" counts for at least, so that there is an end to them


class Exchange:
    """One admitted request; see the module for its life."""

    leased = False  # True: somebody else's request (see `leases`), which takes its place only
    chain: Chain | None = None  # of a step of one (see `chain`)
    inner = False  # of a step: its answer is the next one's request

    __slots__ = (
        "arrived_ns",
        "body_bytes",
        "captured",
        "client",
        "deadline_s",
        "done",
        "head_sent",
        "line",
        "model",
        "parts",
        "pool",
        "queued_until_s",
        "request",
        "retried",
        "sent_ns",
        "stream",
        "upstream",
        "waited",
        "worker",
    )

    def __init__(self, client: FrontConnection, pool: Pool, request: bytes, body_bytes: int, arrived_ns: int) -> None:
        self.client = client
        self.pool = pool
        self.request = request
        self.body_bytes = body_bytes
        self.arrived_ns = arrived_ns
        self.sent_ns = 0
        self.deadline_s = 0.0
        self.queued_until_s = 0.0
        self.worker: Worker | None = None
        self.upstream: Upstream | None = None
        self.retried = False
        self.head_sent = False
        self.waited = False
        self.done = False
        self.captured = False
        self.stream = False  # the answer leaves as events, each piece as it comes
        self.line = pool.waiting  # where it waits, when it does
        self.model: Model | None = None  # multi-model: which, and the request without its first line
        self.parts = b""

    @property
    def limit_s(self) -> float:
        """How long a worker may take for it."""
        return self.pool.route.request_timeout_s

    @property
    def patience_s(self) -> float:
        """How long it may wait for a worker."""
        return self.pool.route.queue_timeout_s

    @property
    def asked(self) -> tuple[bytes, int]:
        """The caller's request as data capture keeps it: head and body, and the bytes of the body."""
        return self.request, self.body_bytes

    def granted(self, worker: Worker) -> None:
        """Of a lease: its holder is told whom to ask."""
        raise TypeError("a request of ours is sent, not granted")


class Upstream(asyncio.Protocol):
    """A connection to one worker; carries one exchange at a time."""

    def __init__(self, dispatcher: Dispatcher, worker: Worker) -> None:
        self._dispatcher = dispatcher
        self._worker = worker
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._descriptor = -1
        self._parser = httptools.HttpResponseParser(self)
        self._bytes_in = 0
        self._head_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._complete = self._reusable = False
        self._streaming = False
        self._out: list[bytes] = []
        self._kept: list[bytes] = []  # of a streamed answer that is captured

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._descriptor = transport.get_extra_info("socket").fileno()
        if self._exchange is not None:
            self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self in self._worker.idle:
            self._worker.idle.remove(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.done:
            # A unix socket that was closed with some of our bytes unread says so by a reset, one that had read them
            # all by an end of file: only after a reset has the worker certainly not acted on the request.
            unread = isinstance(exc, (ConnectionResetError, BrokenPipeError))
            self._dispatcher.upstream_lost(exchange, untouched=unread and self._bytes_in == 0)

    def pause_writing(self) -> None:
        pass  # the request is one bounded buffer: there is nothing to hold back

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # a worker that speaks unasked is not to be trusted with the next request
            return
        self._bytes_in += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__  # what one of our callbacks raised, wrapped by the parser
            if isinstance(error, httptools.HttpParserUpgrade):
                cause = _Overflow("it switches protocols")
            self._exchange = None
            self.close()
            self._dispatcher.malformed(exchange, str(cause if isinstance(cause, _Overflow) else error))
            return
        if self._complete:
            self._finish(exchange)
        elif self._streaming and self._out:
            client = exchange.client
            client.write(b"".join(self._out))
            self._out.clear()
            if client.congested and self._transport is not None:
                self._transport.pause_reading()

    # -- httptools -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            raise _Overflow("the worker sent a second answer")

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.stream and 200 <= self._parser.get_status_code() < 300:
            self._streaming = exchange.head_sent = True
            self._out.append(self._answer_head(exchange, 200, None))
            self._dispatcher.stream_begins(exchange)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow_head(len(name) + len(value))
        self._headers.append((name.lower(), value))

    def _grow_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAX_HEAD_BYTES or len(self._headers) >= MAX_FIELDS:
            raise _Overflow("the worker's head exceeds 64 KiB or 100 fields")

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._body_bytes += len(data)
        if exchange.stream and self._streaming:
            for start in range(0, len(data), EVENT_BYTES):
                piece = event_frame("PayloadPart", data[start : start + EVENT_BYTES])
                self._out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            if exchange.captured and self._body_bytes <= exchange.pool.route.max_response_bytes:
                self._kept.append(data)
            return
        if self._body_bytes > exchange.pool.route.max_response_bytes:
            raise _Overflow(f"the answer exceeds {exchange.pool.route.max_response_bytes} bytes")
        if self._streaming:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
            if exchange.captured:
                self._kept.append(data)
            return
        self._body.append(data)
        if self._body_bytes > STREAM_OVER_BYTES and self._parser.get_status_code() < 300 and not exchange.inner:
            self._begin_streaming(exchange)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue and the like: the answer is yet to come
            self._headers = []
            self._grow_head(INTERIM_BYTES)
            return
        self._complete = True
        self._reusable = self._parser.should_keep_alive()  # known in this callback only

    # -- one exchange ----------------------------------------------------------------------------

    def send(self, exchange: Exchange) -> None:
        """Takes the exchange; writes at once when connected."""
        self._exchange = exchange
        self._bytes_in = self._head_bytes = self._body_bytes = 0
        self._headers = []
        self._body = []
        self._complete = self._streaming = False
        exchange.upstream = self
        if self._transport is not None:
            self._write()

    def _write(self) -> None:
        assert self._exchange is not None
        assert self._transport is not None
        request = self._exchange.request
        self._exchange.sent_ns = perf_counter_ns()
        # Written here and now rather than at the end of the loop's turn: sooner, and a worker that has gone is told of
        # by this very call, before it could have read anything.
        try:
            written = os.write(self._descriptor, request)
        except BlockingIOError:
            written = 0
        except (BrokenPipeError, ConnectionResetError):
            exchange, self._exchange = self._exchange, None
            self.close()
            asyncio.get_running_loop().call_soon(self._dispatcher.upstream_lost, exchange, True)
            return
        if written < len(request):
            self._transport.write(memoryview(request)[written:])

    def abandon(self) -> None:
        """The client has left or the deadline has passed: the worker learns it by the closed connection."""
        self._exchange = None
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _begin_streaming(self, exchange: Exchange) -> None:
        """A large answer: its head leaves now, chunked, and the rest at the client's pace."""
        self._streaming = exchange.head_sent = True
        self._out.append(self._answer_head(exchange, self._parser.get_status_code(), None))
        for data in self._body:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
        self._kept = self._body if exchange.captured else []
        self._body = []

    def _answer_head(self, exchange: Exchange, status: int, length: int | None) -> bytes:
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"OK"))]
        if exchange.stream:
            lines.append(b"Content-Type: application/vnd.amazon.eventstream\r\n")
        for name, value in self._headers:
            if name == b"content-type":
                prefix = b"X-Amzn-SageMaker-" if exchange.stream else b""
                lines.append(b"%bContent-Type: %b\r\n" % (prefix, value))
            elif name in _OF_MODELS and len(value) <= 1024 and _visible(value):
                lines.append(b"%b: %b\r\n" % (_OF_MODELS[name], value))
                if name != b"x-amzn-sagemaker-custom-attributes":
                    self._dispatcher.session(exchange, name, value)
        lines.append(
            b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length,
        )
        lines.append(
            b"x-Amzn-Invoked-Production-Variant: %b\r\nx-amzn-RequestId: %b\r\n"
            % (exchange.pool.route.name.encode(), answers.request_id().encode())
        )
        if not exchange.client.keep_open:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _finish(self, exchange: Exchange) -> None:
        now_ns = perf_counter_ns()
        self._exchange = None
        status = self._parser.get_status_code()
        if self._streaming:
            self._out.append(b"0\r\n\r\n")
            data = b"".join(self._out)
            self._out.clear()
        elif status < 300 and exchange.inner:
            self._keep_or_close()
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._dispatcher.passed(exchange, dict(self._headers), body, now_ns)
            return
        elif status < 300:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            data = self._answer_head(exchange, 200, len(body)) + body
        else:
            data = b""
        if exchange.captured and data:
            kept, self._kept = self._kept if self._streaming else self._body, []
            kind = next((value for name, value in self._headers if name == b"content-type"), b"")
            self._dispatcher.capture(exchange, kind, b"".join(kept))
        self._keep_or_close()
        if data:
            self._dispatcher.answered(exchange, data, now_ns, self._body_bytes)
        else:
            self._dispatcher.model_error(exchange, status, b"".join(self._body)[:ERROR_TEXT_BYTES], now_ns)

    def _keep_or_close(self) -> None:
        worker = self._worker
        if self._reusable and worker.keeps_open and not worker.closed and self._transport is not None:
            worker.idle.append(self)  # and its parser expects the next answer
        else:
            self.close()


# What a model may say to the caller besides its body.
_OF_MODELS = {
    b"x-amzn-sagemaker-custom-attributes": b"X-Amzn-SageMaker-Custom-Attributes",
    b"x-amzn-sagemaker-new-session-id": b"X-Amzn-SageMaker-New-Session-Id",
    b"x-amzn-sagemaker-closed-session-id": b"X-Amzn-SageMaker-Closed-Session-Id",
}


class _Overflow(Exception):
    """The worker's answer breaks a bound."""


def _visible(value: bytes) -> bool:
    return all(32 <= byte < 127 for byte in value)


def model_error(
    region: str, account: str, endpoint: str, status: int, text: str, container: str, stream: str = ""
) -> Refusal:
    """ModelError (424) for a container's non-2xx answer, with AWS's wording; the log's place is our own. `stream` is
    the container's log stream, where there are several containers."""
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    kind = "client" if 400 <= status < 500 else "server"
    message = (
        f'Received {kind} error ({status}) from {container} with message "{text}". '
        f"See log group {group} (clary logs {endpoint}) in account {account} for more information."
    )
    arn = f"arn:aws:logs:{region}:{account}:log-group:{group}" + (f":log-stream:{stream}" if stream else "")
    members = {"OriginalStatusCode": status, "OriginalMessage": text, "LogStreamArn": arn}
    return Refusal("ModelError", 424, message, members)


def readable(body: bytes) -> str:
    """A model's error body as text: a JSON string or object stays as it is, undecodable bytes are replaced."""
    text = body.decode("utf-8", errors="replace")
    try:
        decoded = json.loads(text)
    except ValueError:
        return text
    return decoded if isinstance(decoded, str) else text
