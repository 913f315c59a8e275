"""The API's front: an ASGI application that is one visible list of steps.

    read the head -> route -> (read the body) -> authenticate -> decode -> validate -> handle -> (hold) -> encode

A request that fails at any step is answered in its own protocol's shape. The last step is one of the three places
where every exception is caught: what nobody foresaw is logged with its request id and told as InternalFailure.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from clary.domain.errors import ClaryError
from clary.domain.names import Place
from clary.gateway.authentication import Authenticated, Authentication
from clary.gateway.body import MAX_CALL_BYTES, ClientGone, Receive, StreamingBody, read_whole
from clary.gateway.digests import check_digests
from clary.gateway.distribution import Distribution
from clary.gateway.external_store import ExternalStore
from clary.services.base import Context, Members, Service
from clary.wire.aws_chunked import ChunkDecoder
from clary.wire.catalog import Call, protocol_of, route
from clary.wire.errors import WireError
from clary.wire.http import Request, Response
from clary.wire.protocols import decode, encode, encode_error
from clary.wire.sigv4 import PayloadMode, check_payload
from clary.wire.sigv4_scope import scope_of
from clary.wire.validate import check

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Hold = Callable[[Call, Context, Members], Awaitable[None]]

_STREAMING = (
    PayloadMode.STREAMING_SIGNED,
    PayloadMode.STREAMING_SIGNED_TRAILER,
    PayloadMode.STREAMING_UNSIGNED_TRAILER,
)
# The runtime says ValidationError where the control plane says ValidationException.
_VALIDATION_CODES = {"sagemaker-runtime": "ValidationError", "s3": "InvalidRequest"}


class Gateway:
    """The ASGI application."""

    def __init__(
        self,
        services: Mapping[str, Service],
        authentication: Authentication,
        account: str,
        hold: Hold,
        at_the_door: Callable[[Request], None] = lambda head: None,
        distribution: Distribution | None = None,
        external: ExternalStore | None = None,
    ) -> None:
        """`at_the_door` may refuse (WireError) by a request's head, before anything of its body is read. With
        `external`, S3 is another one's to answer."""
        self._external = external
        self._distribution = distribution
        self._services = services
        self._authentication = authentication
        self._account = account
        self._hold = hold
        self._at_the_door = at_the_door

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        request_id = str(uuid.uuid4())
        head = _head(scope)
        asked = False

        async def receive_body() -> dict[str, Any]:
            nonlocal asked
            asked = True
            return await receive()

        try:
            response = await self._respond(head, receive_body, request_id)
        except ClientGone:
            return None
        # Who waits for "100 Continue" and gets an answer keeps its body back: nothing may follow on this connection,
        # because the server still counts on those bytes (RFC 9110, section 10.1.1).
        if not asked and head.header("expect") is not None:
            response.headers.append(("Connection", "close"))
        return await _send(response, head.method == "HEAD", receive, send)

    async def _respond(self, head: Request, receive: Receive, request_id: str) -> Response:
        call: Call | None = None
        try:
            if self._distribution is not None and self._distribution.serves(head):
                return await self._distribution.respond(head, receive)
            scope = scope_of(head)
            call, request, authenticated, body = await self._read(head, receive, scope.service if scope else None)
            params = decode(call, request, body)
            check(call, params, _VALIDATION_CODES.get(call.service))
            if self._external is not None and call.service == "s3":
                return await self._external.respond(call, authenticated, request, params, body)
            result = await self._handle(call, authenticated, params, request, request_id)
            return encode(call, result, request_id)
        except WireError as error:
            return encode_error(call or error.protocol or _protocol(head), error, request_id)
        except ClientGone:
            raise
        except Exception:  # the gateway's border
            log.exception("request_id=%s method=%s target=%r", request_id, head.method, head.target)
            unforeseen = WireError("InternalFailure", 500, f"An unforeseen error; control's log names {request_id}.")
            return encode_error(call or _protocol(head), unforeseen, request_id)

    async def _read(
        self, head: Request, receive: Receive, signing_name: str | None
    ) -> tuple[Call, Request, Authenticated, StreamingBody | None]:
        """The call, the whole request, who sent it, and its stream where it has one."""
        request = head
        # Whether a body streams is told by the route, and for all but S3 a route may need the body (query protocol).
        if signing_name not in (None, "s3"):
            self._at_the_door(head)
            request = _with_body(head, await read_whole(receive))
        call = route(request, signing_name)
        signing = call.operation.service.signing_name
        if call.operation.has_streaming_input and call.service == "s3":
            authenticated = self._authentication.check(request, signing)
            return call, request, authenticated, _stream(request, authenticated, receive)
        if request is head:
            if call.service != "s3":
                self._at_the_door(head)
            request = _with_body(head, await read_whole(receive))
            call = route(request, signing_name)
        authenticated = self._authentication.check(request, signing)
        if authenticated.verdict.payload in _STREAMING:
            decoder = ChunkDecoder.of(request, authenticated.verdict)
            pieces = decoder.feed(request.body)
            decoder.finish()
            request = _with_body(request, b"".join(pieces))
        else:
            check_payload(authenticated.verdict, hashlib.sha256(request.body).hexdigest())
            if call.service != "s3" and (request.header("content-encoding") or "").lower() == "gzip":
                request = _with_body(request, _unzipped(request.body))  # boto3 packs large PutMetricData calls
        if call.operation.has_body_checksum:
            check_digests(request)
        return call, request, authenticated, None

    async def _handle(
        self, call: Call, authenticated: Authenticated, params: Members, request: Request, request_id: str
    ) -> Members:
        service = self._services.get(call.service)
        handler = service.operations.get(call.operation.name) if service is not None else None
        if service is None or handler is None:
            raise WireError(
                "UnsupportedOperation",
                400,
                f"{call.operation.name} of {call.service} is known, but this version of clary does not serve it.",
            )
        context = Context(
            place=Place(self._account, authenticated.region),
            caller=authenticated.caller,
            request_id=request_id,
            token=request.header("amz-sdk-invocation-id") or "",
            base_url=f"http://{request.header('host') or 'localhost'}",
            authorize=authenticated.authorize,
        )
        try:
            result = await handler(context, params)
            await self._hold(call, context, params)
        except ClaryError as error:
            raise service.wire_error(error) from error
        return result


def _head(scope: Mapping[str, Any]) -> Request:
    query: bytes = scope["query_string"]
    target: bytes = scope["raw_path"] + (b"?" + query if query else b"")
    return Request(scope["method"], target, tuple((name.lower(), value) for name, value in scope["headers"]))


def _with_body(request: Request, body: bytes) -> Request:
    return Request(request.method, request.target, request.headers, body)


def _unzipped(body: bytes) -> bytes:
    """A packed call's body. Raises: WireError when it is not gzip, or larger than a call may be."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        found = unpacker.decompress(body, MAX_CALL_BYTES + 1)
    except zlib.error as error:
        raise WireError("SerializationException", 400, f"The body is not gzip: {error}") from error
    if len(found) > MAX_CALL_BYTES:
        raise WireError("RequestEntityTooLarge", 413, f"The unpacked body exceeds {MAX_CALL_BYTES} bytes.")
    return found


def _protocol(head: Request) -> str:
    scope = scope_of(head)
    return protocol_of(head, scope.service if scope else None)


def _stream(request: Request, authenticated: Authenticated, receive: Receive) -> StreamingBody:
    verdict = authenticated.verdict
    if verdict.payload in _STREAMING:
        decoder = ChunkDecoder.of(request, verdict)  # raises for a length that is none
        length = request.header("x-amz-decoded-content-length")
        return StreamingBody(receive, length_bytes=int(length) if length else None, decoder=decoder)
    length = request.header("content-length")
    return StreamingBody(receive, length_bytes=int(length) if length else None, sha256=verdict.payload_sha256)


async def _send(response: Response, is_head: bool, receive: Receive, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode("utf-8")) for name, value in response.headers]
    body = response.body
    if isinstance(body, (bytes, bytearray)):
        if not is_head and response.status not in (204, 304) and not any(n == b"content-length" for n, _ in headers):
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if is_head else bytes(body)})
        return
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    # The server takes what is sent to a client that has left, so its leaving is watched for: the stream ends then.
    gone = asyncio.ensure_future(_until_gone(receive))
    stream: AsyncGenerator[bytes] = body
    try:
        async with aclosing(stream):
            async for piece in stream:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
