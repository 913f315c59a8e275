"""One keep-alive connection of the model server: bytes to requests and responses to bytes, in the order of arrival.

Theory of operation. httptools cuts the stream; a finished request becomes an `Exchange` in the connection's queue and
goes to the batcher. Responses may come back in any order (requests are batched over all connections), so each is kept
in its exchange and written when it is at the head of the queue: pipelining is safe, and in the usual case of one
exchange a response is one `transport.write` of one bytes object with a prepared head.

Limits are met before memory is: a Content-Length over the limit is refused on the head, a chunked body as soon as it
grows over it, a head at 64 KiB. After a refusal the rest of what the peer sends is read and dropped for a moment, so
that it gets to see the answer rather than a reset.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections import deque
from http import HTTPStatus
from typing import Any, Deque, Dict, Iterator, List, Optional

import httptools

from .batching import Submits
from .contract import TEXT, Request, Response
from .handler import failure

MAX_HEAD_BYTES = 64 * 1024
_LINGER_S = 2.0  # how long a refused peer may go on sending before the connection is cut
_CUSTOM_ATTRIBUTES_CHARS = 1024  # visible ASCII, InvokeEndpoint's limit
_TEXTS_KEPT = 256

_heads: Dict[str, bytes] = {}
_texts: Dict[bytes, str] = {}


def head(response: Response) -> bytes:
    """Everything of the response's head but its length and connection lines."""
    if response.status == 200 and not response.headers:
        found = _heads.get(response.content_type)
        if found is None:
            found = b"HTTP/1.1 200 OK\r\n"
            if response.content_type:
                found += _line("Content-Type", response.content_type)
            if len(_heads) < _TEXTS_KEPT:
                _heads[response.content_type] = found
        return found
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Status"
    lines = [("HTTP/1.1 %d %s\r\n" % (response.status, phrase)).encode()]
    if response.content_type:
        lines.append(_line("Content-Type", response.content_type))
    for name, value in response.headers or ():
        lines.append(_line(name, value[:_CUSTOM_ATTRIBUTES_CHARS]))
    return b"".join(lines)


def _line(name: str, value: str) -> bytes:
    # A value comes from the user's script: a line break in it must not begin a header of its own.
    visible = "".join(char if " " <= char <= "~" else "?" for char in value)
    return ("%s: %s\r\n" % (name, visible)).encode("ascii")


def text(raw: Optional[bytes]) -> str:
    """A header's value as text; the few that an endpoint's callers send are decoded once."""
    if not raw:
        return ""
    found = _texts.get(raw)
    if found is None:
        found = raw.decode("latin-1").strip()
        if len(_texts) < _TEXTS_KEPT:
            _texts[raw] = found
    return found


class Exchange:
    """One request and, once it is known, its response's bytes or stream."""

    __slots__ = ("_connection", "bodyless", "cancelled", "data", "keep_alive", "old", "request", "response")

    def __init__(self, connection: Connection, request: Request, keep_alive: bool, bodyless: bool, old: bool) -> None:
        self._connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.bodyless = bodyless  # answer to HEAD
        self.old = old  # HTTP/1.0: no chunks, keep-alive only when said
        self.cancelled = False
        self.data: Optional[bytes] = None
        self.response: Optional[Response] = None

    def answer(self, response: Response) -> None:
        self._connection.answer(self, response)


class Service:
    """What all connections share: the batcher, the limits, the open connections, and whether the worker is leaving."""

    def __init__(self, batcher: Submits, max_payload_bytes: int, parameters: bytes, loop: Any) -> None:
        self.batcher = batcher
        self.max_payload_bytes = max_payload_bytes
        self.parameters = parameters  # body of GET /execution-parameters
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.connections: set[Connection] = set()
        self.draining = False
        self.on_lost: Any = None
        self.models: Any = None  # of a multi-model worker


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: Any = None
        self._parser: Any = None
        self._queue: Deque[Exchange] = deque()
        self._url = b""
        self._headers: Dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._body: List[bytes] = []
        self._body_bytes = 0
        self._in_body = False
        self._busy = False  # inside a message
        self._deaf = False  # refused or closing: what still comes is dropped
        self._full = False  # the peer reads slower than we write
        self._stream: Optional[Iterator[Any]] = None

    # -- transport's side

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._service.connections.add(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._deaf = True
        for exchange in self._queue:
            exchange.cancelled = True
        self._queue.clear()
        self._end_stream()
        self._service.connections.discard(self)
        if self._service.on_lost is not None:
            self._service.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "This server does not upgrade connections.")
        except httptools.HttpParserError as error:
            self._refuse(400, "The request is not valid HTTP: %s." % error)
        # Bytes of an unfinished head; a finished one was set to 0 and its own lines counted in on_header.
        if self._head_bytes > MAX_HEAD_BYTES and not self._in_body:
            self._refuse(431, "The request's head is over %d bytes." % MAX_HEAD_BYTES)

    def eof_received(self) -> Optional[bool]:
        # A half-closed peer still gets its answers; the last one closes.
        if not self._queue and not self._busy:
            return None
        if self._busy:
            self._deaf = True
            if not self._queue:
                return None
        for exchange in self._queue:
            exchange.keep_alive = False
        return True

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._transport.resume_reading()
        if self._stream is not None:
            self._service.call_soon(self._pump)

    # -- parser's side

    def on_message_begin(self) -> None:
        self._busy = True
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        size = len(self._url)
        for name in self._headers:
            size += len(name) + len(self._headers[name]) + 4  # ": " and the line's end
        self._head_bytes = 0
        self._in_body = True
        if size > MAX_HEAD_BYTES:
            self._refuse(431, "The request's head is over %d bytes." % MAX_HEAD_BYTES)
            return
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._service.max_payload_bytes:
            self._refuse_size(int(length))
        elif b"expect" in self._headers and not self._queue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._service.max_payload_bytes:
            self._body = []
            self._refuse_size(0)
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        pieces = self._body
        body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._body = []
        self._body_bytes = 0
        self._in_body = False
        self._busy = False
        self._head_bytes = 0
        self._dispatch(body)

    # -- requests

    def _dispatch(self, body: bytes) -> None:
        headers = self._headers
        parser = self._parser
        method = parser.get_method()
        request = Request(body, text(headers.get(b"content-type")), text(headers.get(b"accept")), headers)
        keep_alive = parser.should_keep_alive()
        old = parser.get_http_version() == "1.0"
        keep_alive = keep_alive and not old
        exchange = Exchange(self, request, keep_alive, method == b"HEAD", old)
        self._queue.append(exchange)
        if not keep_alive:
            self._deaf = True
        if self._url == b"/invocations" and method == b"POST":
            self._service.batcher.submit(exchange)
            return
        path = self._url.partition(b"?")[0]
        if self._service.models is not None and (path == b"/models" or path.startswith(b"/models/")):
            self._service.models.take(method, path, exchange)
        else:
            exchange.answer(self._answer_other(method, path, exchange))

    def _answer_other(self, method: bytes, path: bytes, exchange: Exchange) -> Response:
        read = method in (b"GET", b"HEAD")
        if path == b"/ping" and read:
            return Response(b"", "")
        if path == b"/execution-parameters" and read:
            return Response(self._service.parameters, "application/json")
        asked = (method + b" " + path).decode("latin-1")
        known = {b"/ping": "GET", b"/execution-parameters": "GET", b"/invocations": "POST"}
        if path in known:
            return Response(("%s is not taken; use %s.\n" % (asked, known[path])).encode(), TEXT, 405)
        return Response(
            ("%s is not known here; there are GET /ping and POST /invocations.\n" % asked).encode("utf-8"), TEXT, 404
        )

    def _refuse_size(self, length: int) -> None:
        limit = self._service.max_payload_bytes
        told = "%d bytes" % length if length else "larger"
        self._refuse(413, "The request's body is %s; at most %d bytes are taken." % (told, limit))

    def _refuse(self, status: int, words: str) -> None:
        """Answers after those before it, and ends the connection; once."""
        if self._deaf:
            return
        exchange = Exchange(self, Request(b""), False, False, False)
        self._queue.append(exchange)
        exchange.answer(Response((words + "\n").encode(), TEXT, status))
        self._deaf = True
        self._service.call_later(_LINGER_S, self._transport.abort)

    # -- responses

    def answer(self, exchange: Exchange, response: Response) -> None:
        if exchange.cancelled:
            if not isinstance(response.body, bytes):
                _close(response.body)
            return
        if not isinstance(response.body, bytes):
            exchange.response = response
        else:
            exchange.data = self._bytes(exchange, response, response.body)
        if self._queue[0] is exchange:
            self._advance()

    def _bytes(self, exchange: Exchange, response: Response, body: bytes) -> bytes:
        if exchange.keep_alive and not self._service.draining and not exchange.bodyless:
            return b"%bContent-Length: %d\r\n\r\n%b" % (head(response), len(body), body)
        closing = not exchange.keep_alive or self._service.draining
        lines = b"Connection: close\r\n" if closing else b""
        if closing:
            exchange.keep_alive = False
        return b"%bContent-Length: %d\r\n%b\r\n%b" % (
            head(response),
            len(body),
            lines,
            b"" if exchange.bodyless else body,
        )

    def _advance(self) -> None:
        """Writes what is ready at the head of the queue."""
        queue = self._queue
        transport = self._transport
        while queue and self._stream is None:
            exchange = queue[0]
            if exchange.data is not None:
                if transport.is_closing():
                    return
                transport.write(exchange.data)
                queue.popleft()
                if not exchange.keep_alive:
                    self._finish()
                    return
            elif exchange.response is not None:
                self._begin_stream(exchange, exchange.response)
            else:
                return

    def _finish(self) -> None:
        """Ends our side. A peer that is still sending is read from and dropped until it has seen the answer."""
        for exchange in self._queue:
            exchange.cancelled = True
        self._queue.clear()
        if self._busy and not self._transport.is_closing():
            if self._transport.can_write_eof():
                self._transport.write_eof()
            return
        self._transport.close()

    # -- streams

    def _begin_stream(self, exchange: Exchange, response: Response) -> None:
        """Pulls the first chunk before the head is written, so that a generator that fails at once answers 500."""
        stream = iter(response.body)
        try:
            first = next(stream, None)
            chunk = b"" if first is None else _chunk(first)
        except Exception as error:  # the worker's border
            exchange.response = None
            failed = failure(error)
            exchange.data = self._bytes(exchange, failed, failed.body if isinstance(failed.body, bytes) else b"")
            return
        exchange.keep_alive = exchange.keep_alive and not exchange.old and not self._service.draining
        lines = b"" if exchange.old else b"Transfer-Encoding: chunked\r\n"
        if not exchange.keep_alive:
            lines += b"Connection: close\r\n"
        self._stream = stream
        self._transport.write(head(response) + lines + b"\r\n" + self._framed(exchange, chunk))
        self._service.call_soon(self._pump)

    def _framed(self, exchange: Exchange, chunk: bytes) -> bytes:
        if exchange.old or not chunk:
            return chunk
        return b"%x\r\n%b\r\n" % (len(chunk), chunk)

    def _pump(self) -> None:
        """One chunk, then the loop's other work; waits while the peer does not read."""
        stream = self._stream
        if stream is None or self._full:
            return
        if self._transport.is_closing():
            self._end_stream()
            return
        exchange = self._queue[0]
        try:
            chunk = _chunk(next(stream))
        except StopIteration:
            self._stream = None
            self._queue.popleft()
            if not exchange.old:
                self._transport.write(b"0\r\n\r\n")
            if exchange.keep_alive:
                self._advance()
            else:
                self._finish()
            return
        except Exception:  # the worker's border: too late for a status, so the body ends without its last chunk
            traceback.print_exc(file=sys.stderr)
            self._stream = None
            self._transport.abort()
            return
        self._transport.write(self._framed(exchange, chunk))
        self._service.call_soon(self._pump)

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            _close(stream)

    # -- leaving

    def close_idle(self) -> None:
        """Closes the connection unless it is in the middle of something."""
        if not self._queue and not self._busy and self._stream is None:
            self._transport.close()


def _chunk(piece: Any) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytearray, memoryview)):
        return bytes(piece)
    raise TypeError("a streamed response is made of bytes or str, not %s" % type(piece).__name__)


def _close(stream: Any) -> None:
    close = getattr(stream, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception:  # the worker's border: a generator's own clean-up failed after its caller had left
        traceback.print_exc(file=sys.stderr)
