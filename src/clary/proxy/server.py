"""The front door of the one port: one strict HTTP/1.1 parser, and two ways on.

Invocations (`POST /endpoints/NAME/invocations`) are read whole (they are bounded, and their signature covers the
body), authenticated, and handed to the dispatcher. Every other request goes to control's gateway, head untouched and
body streamed (`relay`). Requests of one connection are answered in order; a client that pipelines waits its turn.

Nothing here awaits. Bounds: 64 KiB and 100 fields of head, 10 s for a head, 30 s without progress of a body or of a
reader (rules R6, R7), and the framing rules of the project's security page: what is ambiguous is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from time import perf_counter_ns
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools

from clary.proxy import answers
from clary.proxy.answers import Refusal
from clary.proxy.authentication import Authenticator
from clary.proxy.chain import Chain
from clary.proxy.dispatch import FORWARDED, Dispatcher
from clary.proxy.forward import FIRST_LINE, Exchange
from clary.proxy.kinds import PLAIN, Wish, fitting
from clary.proxy.meter import Answered, Slot
from clary.proxy.receipts import Receipts
from clary.proxy.relay import Relay, RelayPool
from clary.proxy.sessions import NEW_SESSION

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 100
DEFAULT_LIMIT_BYTES = 25 * 1024 * 1024
HEAD_LIMIT_S = 10.0
STALL_LIMIT_S = 30.0
SWEEP_EVERY_S = 1.0
MAX_BUFFERED_BYTES = 512 * 1024 * 1024  # all bodies being read, over all connections
HIGH_WATER_BYTES = 1 << 20
TAIL_LOOK_S = 0.001  # how soon to look whether the rest of an answer has left
TAIL_LOOK_LATE_S = 0.05  # ... of a client that reads slowly

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]", "::1"))
_INVOCATIONS = (b"/invocations", b"/invocations-response-stream")
_ACTIONS = ("sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointWithResponseStream")
_HEAD_TOO_LARGE = "the request's head exceeds 64 KiB or 100 fields"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# Members of InvokeEndpoint that need a kind of endpoint which has not been built yet: refused by name, never ignored.
_NOT_SERVED = {
    b"x-amzn-sagemaker-enable-explanations": "EnableExplanations: the endpoint has no explainer",
}

Headers = list[tuple[bytes, bytes]]


class Request(NamedTuple):
    """A parsed request: raw target, lower-cased header names in order, and the whole body of an invocation."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


class FrontDoor:
    """What all connections share."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        relays: RelayPool,
        authenticator: Authenticator,
        host_names: frozenset[str],
        receipts: Receipts,
    ) -> None:
        self.dispatcher = dispatcher
        self.receipts = receipts
        self.relays = relays
        self.authenticator = authenticator
        self.host_names = host_names | _LOOPBACK_NAMES
        self.buffered_bytes = 0
        self.connections: set[FrontConnection] = set()
        self.reading: dict[FrontConnection, float] = {}  # mid-message since, or last progress
        self.congested: dict[FrontConnection, float] = {}  # clients that do not read
        self.owing: dict[FrontConnection, float] = {}  # answers whose last byte has not left; since, or last progress

    def connection(self) -> FrontConnection:
        return FrontConnection(self)

    async def sweep(self) -> None:
        """Cuts off what makes no progress."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now_s = loop.time()
            for connection, since_s in list(self.reading.items()):
                if now_s - since_s > (STALL_LIMIT_S if connection.in_body else HEAD_LIMIT_S):
                    connection.abort()
            for connection, since_s in [*self.congested.items(), *self.owing.items()]:
                if now_s - since_s > STALL_LIMIT_S:
                    connection.abort()


class FrontConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, door: FrontDoor) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._parser = httptools.HttpRequestParser(self)
        self.keep_open = True
        self.in_body = False
        self.congested = False
        self._mid_message = False
        self._closing = False
        # the message being read
        self._target = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._limit_bytes = 0
        self._refused: Refusal | None = None
        self._arrived_ns = 0
        self._relay: Relay | None = None  # takes the body of the message being read
        # the message being answered, and those behind it
        self._current: Exchange | Chain | Relay | None = None
        self._behind: deque[Request | Relay | Refusal] = deque()
        self._left = 0  # bytes of it that the transport held when it was last looked

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._descriptor = transport.get_extra_info("socket").fileno()
        self._door.connections.add(self)
        self._door.reading[self] = self._loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        door = self._door
        door.connections.discard(self)
        door.reading.pop(self, None)
        door.congested.pop(self, None)
        door.owing.pop(self, None)
        door.buffered_bytes -= self._body_bytes
        self._body_bytes = 0
        if isinstance(self._current, Exchange):
            door.dispatcher.client_gone(self._current)
        elif self._current is not None:
            self._current.client_gone()
        for waiting in self._behind:
            if isinstance(waiting, Relay):
                waiting.client_gone()
        if self._relay is not None:
            self._relay.client_gone()
        self._current = None
        self._behind.clear()

    def eof_received(self) -> bool:
        return False  # a half-closed client has left: its request is cancelled

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._bad_request("Upgrade is not supported")
        except httptools.HttpParserError as error:
            cause = error.__context__  # what one of our callbacks raised, wrapped by the parser
            self._bad_request(str(cause if isinstance(cause, _Malformed) else error) or "malformed HTTP")
        if self._mid_message:
            self._door.reading[self] = self._loop.time() if self.in_body else self._door.reading.get(self, 0.0)
        elif self in self._door.reading:
            del self._door.reading[self]

    def pause_writing(self) -> None:
        self.congested = True
        self._door.congested[self] = self._loop.time()

    def resume_writing(self) -> None:
        self.congested = False
        self._door.congested.pop(self, None)
        current = self._current
        if isinstance(current, Exchange):
            if current.upstream is not None:
                current.upstream.resume()
        elif current is not None:
            current.resume_upstream()

    # -- httptools -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._mid_message = True
        self.in_body = False
        self._door.reading[self] = self._loop.time()
        self._arrived_ns = perf_counter_ns()
        self._target = b""
        self._headers = []
        self._head_bytes = 0
        self._body = []
        self._refused = None
        self._relay = None

    def on_url(self, data: bytes) -> None:
        self._target += data
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _Malformed(_HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        headers.append((name.lower(), value))
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(headers) > MAX_FIELDS:
            raise _Malformed(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self.in_body = True
        length, expects, chunked = self._check_framing()
        if self._target.startswith(b"/endpoints/") and self._target.partition(b"?")[0].endswith(_INVOCATIONS):
            self._begin_invocation(length, expects)
            return
        self._relay = self._door.relays.open(
            self, self._parser.get_method(), self._target, self._headers, length, chunked
        )

    def on_body(self, data: bytes) -> None:
        if self._relay is not None:
            self._relay.body(data)
            return
        if self._refused is not None:
            return
        self._body_bytes += len(data)
        self._door.buffered_bytes += len(data)
        if self._body_bytes > self._limit_bytes:
            self._refuse_body(self._too_large())
            return
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._mid_message = False
        self.keep_open = self._parser.should_keep_alive() and self.keep_open
        self._door.buffered_bytes -= self._body_bytes
        self._body_bytes = 0
        if self._relay is not None:  # it was put in line when its head came
            relay, self._relay = self._relay, None
            relay.body_complete()
            return
        item: Request | Refusal
        if self._refused is not None:
            item = self._refused
        else:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            item = Request(self._parser.get_method(), self._target, self._headers, body)
            self._body = []
        if self._current is None and not self._behind:
            self._begin(item)
        else:
            self._line_up(item)

    # -- one after the other ---------------------------------------------------------------------

    def enter(self, relay: Relay) -> None:
        """A relay whose body is still coming: it may start when the answers before it are out."""
        if self._current is None and not self._behind:
            self._current = relay
            relay.start()
        else:
            self._line_up(relay)

    def _line_up(self, item: Request | Relay | Refusal) -> None:
        self._behind.append(item)
        if self._transport is not None:
            self._transport.pause_reading()

    def _begin(self, item: Request | Relay | Refusal) -> None:
        if isinstance(item, Refusal):
            self.refuse(item)
        elif isinstance(item, Relay):
            self._current = item
            item.start()
        else:
            self._invoke(item)

    def next(self) -> None:
        """The current answer is out: the next request's turn."""
        self._current = None
        if not self.keep_open and not self._behind:
            self.close()
            return
        while self._behind and self._current is None and not self._closing:
            self._begin(self._behind.popleft())
        if not self._behind and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- invocations -----------------------------------------------------------------------------

    def _check_framing(self) -> tuple[int | None, bool, bool]:
        """(Content-Length or None, Expect: 100-continue, chunked). Raises: _Malformed."""
        host = length = encoding = None
        expects = False
        for name, value in self._headers:
            if name == b"host":
                if host is not None:
                    raise _Malformed("two Host headers")
                host = value
            elif name == b"content-length":
                if length is not None or not value.isdigit():
                    raise _Malformed("a bad or repeated Content-Length")
                length = int(value)
            elif name == b"transfer-encoding":
                if encoding is not None or value.lower() != b"chunked" or self._parser.get_http_version() != "1.1":
                    raise _Malformed("a Transfer-Encoding other than chunked")
                encoding = value
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
            elif name == b"origin" or (name == b"sec-fetch-site" and value == b"cross-site"):
                raise _CrossSite
        if host is None and self._parser.get_http_version() == "1.1":
            raise _Malformed("no Host header")
        if length is not None and encoding is not None:
            raise _Malformed("both Content-Length and Transfer-Encoding")
        if not self._target.startswith(b"/") and self._target != b"*":
            raise _Malformed("the target is not a path")
        if not self._door.authenticator.required and not self._known_host(host or b""):
            raise _CrossSite
        return length, expects, encoding is not None

    def _known_host(self, host: bytes) -> bool:
        """Without signatures only names of this machine are served, so that no web page can reach us by rebinding."""
        text = host.decode("latin-1").lower()
        name = text if text.endswith("]") else text.rpartition(":")[0] or text
        return name in self._door.host_names or name.endswith(".localhost")

    def _begin_invocation(self, length: int | None, expects: bool) -> None:
        self._limit_bytes = self._body_limit()
        if length is not None and length > self._limit_bytes:
            self._refuse_body(self._too_large())
        elif self._door.buffered_bytes + (length or 0) > MAX_BUFFERED_BYTES:
            self._refuse_body(answers.unavailable("too many request bodies are being read at once", 1))
        elif expects and self._transport is not None and self._current is None:
            self._transport.write(_CONTINUE)

    def _body_limit(self) -> int:
        """The largest body any variant of any endpoint of that name takes; `_submit` holds the variant's own."""
        name = self._target[len(b"/endpoints/") :].partition(b"/")[0]
        return self._door.dispatcher.body_limits.get(name, DEFAULT_LIMIT_BYTES)

    def _too_large(self) -> Refusal:
        return answers.validation(
            f"The request body exceeds {self._limit_bytes} bytes (setting max_request_bytes of the variant).",
            status=413,
            close=True,
        )

    def _refuse_body(self, refusal: Refusal) -> None:
        """Told at once, before the body is read; the connection then cannot be used again."""
        self._refused = refusal
        if self._current is None and not self._behind:
            self.refuse(refusal)
            self.close()

    def _invoke(self, request: Request) -> None:
        identity = self._door.authenticator.check(request.method, request.target, request.headers, request.body)
        if isinstance(identity, Refusal):
            self.refuse(identity)
            return
        result = self._submit(request, identity.region, identity)
        if isinstance(result, Refusal):
            self.refuse(result)
        elif not result.done:
            self._current = result

    def carry_on(self, current: Exchange | Chain) -> None:
        """The request that is being answered is another's now: its endpoint was updated while it waited."""
        self._current = current

    def _submit(self, request: Request, region: str, identity: Any) -> Exchange | Chain | Refusal:
        dispatcher = self._door.dispatcher
        path = request.target.partition(b"?")[0]
        stream = path.endswith(b"-response-stream")
        raw_name = path[len(b"/endpoints/") : -len(_INVOCATIONS[stream])].decode("latin-1")
        if request.method != b"POST":
            return answers.validation(f"{request.method.decode('latin-1')} is not allowed here; use POST.", 405)
        name = unquote(raw_name) if "%" in raw_name else raw_name
        endpoint = dispatcher.endpoint(region, name)
        if endpoint is None:
            if not _NAME.fullmatch(name):
                return answers.validation(
                    f"1 validation error detected: Value '{name[:200]}' at 'endpointName' failed to satisfy "
                    "constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9](-*[a-zA-Z0-9])*"
                )
            denied = self._door.authenticator.authorize(identity, region, name, _ACTIONS[stream])
            return denied or dispatcher.not_found(name)
        if endpoint.asynchronous:
            return answers.validation(f"Endpoint {name} only takes InvokeEndpointAsync.")
        target_variant = component = None
        target_model = session = container = ""
        lines = [FIRST_LINE]
        for field, value in request.headers:
            if field in FORWARDED and not (stream and field == b"accept"):
                lines.append(b"%b: %b\r\n" % (field, value))
            elif field.startswith(b"x-amzn-sagemaker-"):
                problem = self._sagemaker_header(field, value)
                if problem is not None:
                    return problem
                if field == b"x-amzn-sagemaker-target-variant":
                    target_variant = value.decode("latin-1")
                elif field == b"x-amzn-sagemaker-target-model":
                    target_model = value.decode("latin-1")
                elif field == b"x-amzn-sagemaker-inference-component":
                    component = value.decode("latin-1")
                elif field == b"x-amzn-sagemaker-session-id":
                    session = value.decode("latin-1")
                elif field == b"x-amzn-sagemaker-target-container-hostname":
                    container = value.decode("latin-1")
                elif stream and field == b"x-amzn-sagemaker-accept":
                    field = b"accept"
                lines.append(b"%b: %b\r\n" % (field, value))
        denied = self._door.authenticator.authorize(identity, region, name, _ACTIONS[stream], target_model)
        if denied is not None:
            return denied
        if component is not None or endpoint.hosts_components:
            route = dispatcher.component(endpoint, component, target_variant)
        else:
            route = dispatcher.variant(endpoint, target_variant)
        if isinstance(route, Refusal):
            return route
        if len(request.body) > route.max_request_bytes:
            return answers.validation(
                f"The request body exceeds {route.max_request_bytes} bytes (setting max_request_bytes).", 413
            )
        wish = (
            Wish(target_model, stream, session, container) if target_model or stream or session or container else PLAIN
        )
        if route.containers or container or route.multi_model != bool(target_model):
            route = fitting(name, route, wish)
            if isinstance(route, Refusal):
                return route
        if target_model and session:
            return answers.validation("SessionId is not supported by multi-model endpoints.")
        if stream and (target_model or session == NEW_SESSION):
            return answers.validation(
                "A stream cannot open a session; open it by InvokeEndpoint and give its SessionId."
                if session
                else "TargetModel is not supported by InvokeEndpointWithResponseStream."
            )
        if route.containers:
            return dispatcher.pipeline(self, route, lines[1:], request.body, self._arrived_ns, wish)
        lines.append(b"Content-Length: %d\r\n\r\n" % len(request.body))
        if target_model:
            del lines[0]  # that of the model comes with its worker
        return dispatcher.submit(self, route, b"".join(lines), request.body, self._arrived_ns, wish)

    def _sagemaker_header(self, field: bytes, value: bytes) -> Refusal | None:
        if field in _NOT_SERVED:
            return answers.validation(_NOT_SERVED[field] + ".")
        if field == b"x-amzn-sagemaker-custom-attributes" and len(value) > 1024:
            return answers.validation(
                "1 validation error detected: Value at 'customAttributes' failed to satisfy constraint: "
                "Member must have length less than or equal to 1024"
            )
        if field == b"x-amzn-sagemaker-target-model" and not 1 <= len(value) <= 1024:
            return answers.validation(
                "1 validation error detected: Value at 'targetModel' failed to satisfy constraint: "
                "Member must have length between 1 and 1024"
            )
        if field == b"x-amzn-sagemaker-inference-id" and not 1 <= len(value) <= 64:
            return answers.validation(
                "1 validation error detected: Value at 'inferenceId' failed to satisfy constraint: "
                "Member must have length less than or equal to 64"
            )
        return None

    # -- answering -------------------------------------------------------------------------------

    def answer(self, data: bytes) -> None:
        """The whole (rest of the) answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
        self.next()

    def settle(self, data: bytes, slot: Slot, answered: Answered) -> None:
        """The whole (rest of the) answer; it is counted in `slot` when its last byte has left (see `receipts`)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            slot.add("clients_gone")
            self.next()
            return
        owing = self._door.owing
        sent, left = 0, transport.get_write_buffer_size()
        if not left:
            try:
                sent = self._door.receipts.send(self._descriptor, data, slot, answered)
            except OSError:
                slot.add("clients_gone")
                self.abort()
            if sent == len(data) or transport.is_closing():
                owing.pop(self, None)
                self.next()
                return
        # More than the kernel takes at once: the transport has all but the last byte, and that one is the receipt.
        if len(data) - sent > 1:
            transport.write(data[sent:-1])
        now_s = self._loop.time()
        if self not in owing or left != self._left:
            owing[self], self._left = now_s, left
        pause_s = min(TAIL_LOOK_S + (now_s - owing[self]) / 4, TAIL_LOOK_LATE_S)
        self._loop.call_later(pause_s, self.settle, data[-1:], slot, answered)

    def write(self, data: bytes) -> None:
        """A part of the answer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def refuse(self, refusal: Refusal) -> None:
        if refusal.close:
            self.keep_open = False
        self.answer(answers.encode(refusal, self.keep_open))

    def _bad_request(self, text: str) -> None:
        """Framing is lost: one answer, then the end of the connection."""
        self.keep_open = False
        if self._current is None:
            self.write(answers.encode(answers.validation(f"Bad request: {text}."), keep_open=False))
        self.close()

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection where an honest end of the answer cannot be written."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._behind:
            self._transport.resume_reading()


class _Malformed(Exception):
    """The request's framing is ambiguous or over a bound."""


class _CrossSite(_Malformed):
    """A browser on another site, or a name that is not ours."""

    def __str__(self) -> str:
        return "requests from other web origins, or to host names that are not this server's, are not served"
