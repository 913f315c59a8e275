"""HTTP/1.1 connections to the external store: asyncio for the bytes, h11 for the framing, deadlines everywhere.

A request whose body streams asks for "100 Continue" first and watches for an answer while it sends, so that a refusal
comes before gigabytes do. Connections are kept for the next request that may be sent a second time, should the other
side have closed one meanwhile; a POST, or a body that streams, gets a fresh one. At most `CONNECTIONS`
requests are under way: the next ones wait, a while.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from clary.domain.errors import StoreFailed
from clary.wire.sigv4_signing import Headers

CONNECTIONS = 128
IDLE_KEPT = 32
IDLE_S = 15.0  # servers close idle connections after 20 s and more
SLOT_LIMIT_S = 30.0
CONNECT_LIMIT_S = 5.0
CONTINUE_S = 2.0  # RFC 9110, section 10.1.1: who waits for 100 must not do so for ever
STALL_LIMIT_S = 60.0  # between two pieces, either way
ANSWER_LIMIT_S = 300.0  # a large copy, or the end of a multipart upload, is answered when it is done
READ_BYTES = 256 * 1024
HEAD_MAX_BYTES = 64 * 1024

Body = bytes | AsyncGenerator[bytes, None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the store is, from its URL."""

    host: str
    port: int
    is_tls: bool
    authority: str  # of the Host header

    @classmethod
    def of(cls, url: str) -> Origin:
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls, parts.netloc)


class Broken(Exception):
    """A connection failed; `is_unanswered` when nothing at all had come back on it."""

    def __init__(self, why: str, *, is_unanswered: bool) -> None:
        super().__init__(why)
        self.is_unanswered = is_unanswered


class ExternalConnections:
    """The connections to one store."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.origin = Origin.of(url)
        # Like every client here it trusts whom the system and SSL_CERT_FILE do.
        self._tls = ssl.create_default_context() if self.origin.is_tls else None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._idle: deque[tuple[float, _Connection]] = deque(maxlen=IDLE_KEPT)

    async def ask(self, method: str, target: bytes, headers: Headers, body: Body) -> Answer:
        """The head of the answer, its body to be streamed and closed.

        A streaming body's own errors come through; with them the request is broken off and has no effect there.
        Raises: StoreFailed when the store is lost or does not answer in time.
        """
        try:
            async with asyncio.timeout(SLOT_LIMIT_S):
                await self._slots.acquire()
        except TimeoutError as error:
            raise self._failed(f"{CONNECTIONS} requests are under way already") from error
        try:
            answer = await self._ask(method, target, headers, body)
        except BaseException:
            self._slots.release()
            raise
        return answer

    async def _ask(self, method: str, target: bytes, headers: Headers, body: Body) -> Answer:
        while True:
            # What may be sent twice may meet a connection that the other side is just closing.
            connection = self._kept() if isinstance(body, bytes) and method != "POST" else None
            is_fresh = connection is None
            if connection is None:
                connection = await self._connect()
            try:
                head = await connection.exchange(method, target, headers, body)
                return Answer(self, connection, head, has_body=method != "HEAD")
            except Broken as error:
                connection.abort()
                if is_fresh or not error.is_unanswered:
                    raise self._failed(str(error)) from error
            except BaseException:
                connection.abort()
                raise

    def _kept(self) -> _Connection | None:
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            since_s, connection = self._idle.pop()
            if now_s - since_s < IDLE_S and connection.is_open():
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        origin = self.origin
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                reader, writer = await asyncio.open_connection(origin.host, origin.port, ssl=self._tls)
        except TimeoutError as error:
            raise self._failed(f"no connection within {CONNECT_LIMIT_S:g} s") from error
        except OSError as error:
            raise self._failed(str(error)) from error
        return _Connection(reader, writer)

    def give_back(self, connection: _Connection) -> None:
        """After a request: keeps the connection where it can serve another."""
        self._slots.release()
        if not connection.renew():
            connection.abort()
            return
        if len(self._idle) == IDLE_KEPT:
            self._idle.popleft()[1].abort()
        self._idle.append((asyncio.get_running_loop().time(), connection))

    def _failed(self, why: str) -> StoreFailed:
        return StoreFailed(f"asking the external object store {self.url}", detail=why)

    def close(self) -> None:
        """Twice is fine."""
        while self._idle:
            self._idle.pop()[1].abort()


class Answer:
    """An answer whose body still comes: iterate once, and `aclose` in any case; twice is fine."""

    def __init__(
        self, owner: ExternalConnections, connection: _Connection, head: h11.Response, *, has_body: bool
    ) -> None:
        self._owner = owner
        self._connection: _Connection | None = connection
        self.status = head.status_code
        self.headers: list[tuple[bytes, bytes]] = list(head.headers.raw_items())
        self.has_body = has_body and self.status not in (204, 304)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body's pieces. Raises: StoreFailed when it breaks off."""
        while self._connection is not None:
            try:
                event = await self._connection.next_event(STALL_LIMIT_S)
            except Broken as error:
                raise StoreFailed(
                    f"reading from the external object store {self._owner.url}", detail=str(error)
                ) from error
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                await self.aclose()

    async def read(self, most_bytes: int) -> bytes:
        """The body, which is expected to be short; cut at `most_bytes`. Closes."""
        found = b""
        try:
            async for piece in self:
                found += piece
                if len(found) > most_bytes:
                    break
        finally:
            await self.aclose()
        return found[:most_bytes]

    async def aclose(self) -> None:
        """Lets go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._owner.give_back(connection)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._heard = False

    def is_open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    def renew(self) -> bool:
        """Ready for another request; False when this connection is used up."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE or not self.is_open():
            return False
        self._http.start_next_cycle()
        self._heard = False
        return True

    def abort(self) -> None:
        self._writer.transport.abort()

    async def exchange(self, method: str, target: bytes, headers: Headers, body: Body) -> h11.Response:
        """Sends a request; the head of its answer. Raises: Broken, and what the body raises."""
        streams = not isinstance(body, bytes)
        sent = [*headers, (b"expect", b"100-continue")] if streams else list(headers)
        self._send(h11.Request(method=method.encode("latin-1"), target=target, headers=sent))
        if isinstance(body, bytes):
            if body:
                self._send(h11.Data(data=body))
            self._send(h11.EndOfMessage())
            await self._drain()
            return await self._head(ANSWER_LIMIT_S)
        watch = asyncio.create_task(self._head(ANSWER_LIMIT_S, continued := asyncio.Event()))
        told = asyncio.create_task(continued.wait())
        try:
            await asyncio.wait({watch, told}, timeout=CONTINUE_S, return_when=asyncio.FIRST_COMPLETED)
            async with aclosing(body):
                await self._stream(body, watch)
            # While the body came nobody counted the time: from here on the store has all of it.
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await watch
        except TimeoutError as error:
            raise Broken(f"no answer within {ANSWER_LIMIT_S:g} s", is_unanswered=True) from error
        finally:
            told.cancel()
            watch.cancel()
            await asyncio.gather(watch, told, return_exceptions=True)

    async def _stream(self, body: AsyncGenerator[bytes, None], watch: asyncio.Task[h11.Response]) -> None:
        """Sends a body; when it is refused meanwhile, no more than was sent by then."""
        async for piece in body:
            if watch.done():
                return
            self._send(h11.Data(data=piece))
            try:
                await self._drain()
            except Broken:
                await asyncio.wait({watch}, timeout=CONTINUE_S)  # what it said before it hung up
                if watch.done() and watch.exception() is None:
                    return
                raise
        if not watch.done():
            self._send(h11.EndOfMessage())
            await self._drain()

    async def _head(self, limit_s: float, continued: asyncio.Event | None = None) -> h11.Response:
        while True:
            event = await self.next_event(None if continued is not None else limit_s)
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse) and continued is not None:
                continued.set()

    async def next_event(self, limit_s: float | None) -> h11.Event:
        """Raises: Broken."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Broken(f"what it answers is no HTTP ({error})", is_unanswered=False) from error
            if isinstance(event, h11.Event):
                return event
            try:
                async with asyncio.timeout(limit_s):
                    data = await self._reader.read(READ_BYTES)
            except TimeoutError as error:
                raise Broken(f"nothing came for {limit_s:g} s", is_unanswered=False) from error
            except OSError as error:
                raise Broken(str(error), is_unanswered=not self._heard) from error
            if not data and not self._heard:
                raise Broken("it closed the connection without an answer", is_unanswered=True)
            self._heard = True
            self._http.receive_data(data)

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                await self._writer.drain()
        except TimeoutError as error:
            raise Broken(f"it took nothing for {STALL_LIMIT_S:g} s", is_unanswered=False) from error
        except OSError as error:
            raise Broken(str(error), is_unanswered=not self._heard) from error
