"""Requests that are not invocations: their head untouched, their body streamed, to control's gateway and back.

The gateway's answer goes to the client byte for byte; a parser beside it only finds where it ends. Both directions
keep the slower side's pace. When control is away the client gets a 503 that says so; nothing here waits on it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import httptools

from clary.proxy.answers import Refusal

if TYPE_CHECKING:
    from clary.proxy.server import FrontConnection, Headers

MAX_IDLE = 16
CONNECT_LIMIT_S = 1.0
HIGH_WATER_BYTES = 1 << 18  # of a body that control takes in later: what lies here is new memory, and its page faults
# Of a body whose request is answered already: read and thrown away, because whoever is still sending hears a reset, not
# the answer, when the connection is closed under him. Beyond this it is closed all the same.
DRAIN_MAX_BYTES = 64 << 20
DRAIN_LIMIT_S = 10.0


class RelayPool:
    """Idle connections to the gateway."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.idle: list[GatewayConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def open(
        self,
        client: FrontConnection,
        method: bytes,
        target: bytes,
        headers: Headers,
        length: int | None,
        chunked: bool,
    ) -> Relay:
        """A relay for the request whose head has just been read; it enters the client's line of answers."""
        head = [b"%b %b HTTP/1.1\r\n" % (method, target)]
        head += [b"%b: %b\r\n" % field for field in headers if field[0] not in (b"connection", b"keep-alive")]
        head.append(b"\r\n")
        relay = Relay(self, client, b"".join(head), chunked, is_head=method == b"HEAD")
        client.enter(relay)
        return relay

    def connect(self, relay: Relay) -> None:
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                connection.take(relay)
                return
        task = asyncio.get_running_loop().create_task(self._connect(relay))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, relay: Relay) -> None:
        loop = asyncio.get_running_loop()
        connection = GatewayConnection(self)
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                await loop.create_unix_connection(lambda: connection, str(self.path))
        except (OSError, TimeoutError):
            relay.unreachable()
            return
        connection.take(relay)


class Relay:
    """One request on its way through."""

    def __init__(self, pool: RelayPool, client: FrontConnection, head: bytes, chunked: bool, is_head: bool) -> None:
        self.client = client
        self.is_head = is_head
        self._pool = pool
        self._pending: list[bytes] = [head]
        self._chunked = chunked
        self._connection: GatewayConnection | None = None
        self._answered = False
        self._body_done = False
        self._drained_bytes = 0
        self._drain_ends: asyncio.TimerHandle | None = None
        self.answer_begun = False

    def start(self) -> None:
        """Its turn has come."""
        self._pool.connect(self)

    def connected(self, connection: GatewayConnection) -> None:
        if self._answered:
            connection.abort()
            return
        self._connection = connection
        connection.write(b"".join(self._pending))
        self._pending.clear()
        self.client.resume_reading()

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""
        if self._answered:
            self._drained_bytes += len(data)
            if self._drained_bytes > DRAIN_MAX_BYTES:
                self.client.close()
            return
        piece = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if self._connection is None:
            self._pending.append(piece)
            self.client.pause_reading()
            return
        self._connection.write(piece)
        if self._connection.congested:
            self.client.pause_reading()

    def body_complete(self) -> None:
        self._body_done = True
        if self._drain_ends is not None:
            self._drain_ends.cancel()
            self._drain_ends = None
            self.client.next()
            return
        if self._chunked and not self._answered:
            if self._connection is None:
                self._pending.append(b"0\r\n\r\n")
            else:
                self._connection.write(b"0\r\n\r\n")

    def finished(self, keep_alive: bool) -> None:
        """The gateway's answer is out. `keep_alive`: it does not tell the client that the connection ends."""
        self._answered = True
        self._connection = None
        if self._body_done:
            self.client.next()
        elif keep_alive:  # refused before the body was read (a bucket that is not there, say)
            self._drain_ends = asyncio.get_running_loop().call_later(DRAIN_LIMIT_S, self.client.close)
            self.client.resume_reading()
        else:
            self.client.close()

    def failed(self) -> None:
        """The gateway has gone before its answer was complete."""
        self._answered = True
        self._connection = None
        if self.answer_begun:
            self.client.abort()
        else:
            self._refuse("clary's control plane went away while it answered; endpoints keep serving")

    def unreachable(self) -> None:
        self._answered = True
        self._refuse("clary's control plane is not reachable; endpoints keep serving")

    def _refuse(self, text: str) -> None:
        if not self._body_done:
            self.client.keep_open = False
        # The JSON protocols read the code from the body, the others from the header or the status.
        self.client.refuse(Refusal("ServiceUnavailable", 503, text, {"__type": "ServiceUnavailable"}, retry_after_s=1))

    def client_gone(self) -> None:
        self._answered = True
        if self._drain_ends is not None:
            self._drain_ends.cancel()
        if self._connection is not None:
            self._connection.abort()

    def resume_upstream(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()


class GatewayConnection(asyncio.Protocol):
    """A connection to the gateway; carries one relay at a time."""

    def __init__(self, pool: RelayPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._relay: Relay | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._complete = self._reusable = False
        self._head_complete = False
        self.congested = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self in self._pool.idle:
            self._pool.idle.remove(self)
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.failed()

    def take(self, relay: Relay) -> None:
        self._relay = relay
        self._parser = httptools.HttpResponseParser(self)
        self._complete = self._head_complete = self._reusable = False
        relay.connected(self)

    def write(self, data: bytes) -> None:
        if self.usable:
            assert self._transport is not None
            self._transport.write(data)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self._relay is not None:
            self._relay.client.resume_reading()

    def resume_reading(self) -> None:
        if self.usable:
            assert self._transport is not None
            self._transport.resume_reading()

    def abort(self) -> None:
        self._relay = None
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()
            relay.failed()
            return
        relay.answer_begun = True
        relay.client.write(data)
        if self._complete or (relay.is_head and self._head_complete):
            self._relay = None
            reusable = self._complete and not relay.is_head and self._reusable
            if reusable and relay._body_done and len(self._pool.idle) < MAX_IDLE:
                self._pool.idle.append(self)
            else:
                self.abort()
            relay.finished(self._reusable)
        elif relay.client.congested and self._transport is not None:
            self._transport.pause_reading()  # not for an answer's end: nobody would resume it for the next one

    # -- httptools: only to find the end ---------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._head_complete = self._parser.get_status_code() >= 200

    def on_message_complete(self) -> None:
        self._complete = self._head_complete  # not the end of a 100 Continue
        self._reusable = self._parser.should_keep_alive()
