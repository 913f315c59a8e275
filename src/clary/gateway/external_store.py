"""S3 calls passed on to the external store: checked here by clary's keys and policies, signed there with the store's.

    verified request -> who may -> what goes on (wire.s3_forwarding) -> signature -> the store -> its answer, as it is

Bodies stream both ways in pieces. What is verified here (signed chunks, the hash of a document) is verified before the
last piece goes on, so what the store makes visible is what the client signed. An answer that speaks of the store's
keys is not passed on: the client would look for the mistake in its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from clary.domain.errors import AccessDenied, ClaryError
from clary.domain.names import DEFAULT_REGION
from clary.gateway.authentication import Authenticated
from clary.gateway.body import ClientGone, StreamingBody
from clary.gateway.external_connections import STALL_LIMIT_S, Body, ExternalConnections
from clary.services.base import Members
from clary.services.s3.actions import needed
from clary.services.s3.errors import wire_error
from clary.services.s3.intake import PUT_MAX_BYTES
from clary.store.external.keys import KEYS_REFUSED, SETTING, KeyFile
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.http import Request, Response
from clary.wire.s3_answers import NAMESPACE
from clary.wire.s3_forwarding import Outgoing, chunk, last_chunk, outgoing, passed_back
from clary.wire.sigv4 import PayloadMode
from clary.wire.sigv4_signing import sign

BLOCK_BYTES = 64 * 1024
ERROR_MAX_BYTES = 64 * 1024
_CHUNKED = (
    PayloadMode.STREAMING_SIGNED,
    PayloadMode.STREAMING_SIGNED_TRAILER,
    PayloadMode.STREAMING_UNSIGNED_TRAILER,
)
_CODE = re.compile(rb"<Code>([A-Za-z]+)</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")


class ExternalStore:
    """The front of the external store."""

    def __init__(self, url: str, region: str, key_file: KeyFile, account: str, now: Callable[[], datetime]) -> None:
        self._connections = ExternalConnections(url)
        self._region = region
        self._key_file = key_file
        self._account = account
        self._now = now

    async def respond(
        self, call: Call, authenticated: Authenticated, request: Request, params: Members, body: StreamingBody | None
    ) -> Response:
        """The store's answer. Raises: WireError, ClientGone."""
        try:
            self._admit(call.operation.name, authenticated, params)
            if call.operation.name == "CreateBucket":
                request = self._created_there(request, params)
            return await self._pass_on(authenticated, request, body)
        except ClaryError as error:
            raise wire_error(error) from error

    def _admit(self, operation: str, authenticated: Authenticated, params: Members) -> None:
        """Raises: AccessDenied, Unsupported, WireError."""
        for action, resource in needed(operation, params, authenticated.region):
            authenticated.authorize(action, resource)
        for member in ("ExpectedBucketOwner", "ExpectedSourceBucketOwner"):
            if params.get(member) not in (None, self._account):
                message = f"Access Denied: buckets here belong to account {self._account}, not to {params[member]}"
                raise WireError("AccessDenied", 403, message)

    def _created_there(self, request: Request, params: Members) -> Request:
        """CreateBucket with the store's region, the one it has, in the place of the client's."""
        if set(params.get("CreateBucketConfiguration") or ()) - {"LocationConstraint"}:
            return request
        constraint = (
            "" if self._region == DEFAULT_REGION else f"<LocationConstraint>{self._region}</LocationConstraint>"
        )
        document = f'<CreateBucketConfiguration xmlns="{NAMESPACE}">{constraint}</CreateBucketConfiguration>'
        headers = tuple(
            (name, value)
            for name, value in request.headers
            if name != b"content-md5" and not name.startswith((b"x-amz-checksum-", b"x-amz-sdk-checksum-"))
        )
        return Request(request.method, request.target, headers, document.encode() if constraint else b"")

    async def _pass_on(self, authenticated: Authenticated, request: Request, body: StreamingBody | None) -> Response:
        if body is None:
            digest = hashlib.sha256(request.body).hexdigest()
            out = outgoing(request, authenticated.verdict, digest)
            if authenticated.verdict.payload in _CHUNKED:  # its checksum stayed behind with the trailers
                out = replace(out, headers=_with_md5(out, request.body))
            return await self._exchange(out, len(request.body), request.body)
        out = outgoing(request, authenticated.verdict)
        if body.length_bytes is None:
            raise WireError("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
        if body.length_bytes > PUT_MAX_BYTES:
            told = {"ProposedSize": body.length_bytes, "MaxSizeAllowed": PUT_MAX_BYTES}
            message = "Your proposed upload exceeds the maximum allowed size; use a multipart upload"
            raise WireError("EntityTooLarge", 400, message, told)
        if authenticated.verdict.payload is PayloadMode.SIGNED:
            body.claim_sha256()  # the store compares: the hash goes on under its own signature
        if body.length_bytes == 0 and not out.is_chunked:
            async for _ in _pieces(body):
                pass  # verified: nothing could be held back of an empty body
            return await self._exchange(out, 0, b"")
        if out.is_chunked:
            return await self._exchange(out, None, _chunks(body))
        return await self._exchange(out, body.length_bytes, _held_back(body))

    async def _exchange(self, out: Outgoing, length_bytes: int | None, body: Body) -> Response:
        keys = self._key_file.keys()  # a look at the file's times; a hop to a thread would take longer
        host = (b"host", self._connections.origin.authority.encode("ascii"))
        headers = sign(out.method, out.target, (host, *out.headers), out.payload_hash, keys, self._region, self._now())
        if length_bytes is None:
            framing = (b"transfer-encoding", b"chunked")
        else:
            framing = (b"content-length", str(length_bytes).encode())
        has_framing = out.method in ("PUT", "POST") or bool(length_bytes)
        sent = (*headers, framing) if has_framing else headers
        answer = await self._connections.ask(out.method, out.target, sent, body)
        if not answer.has_body or answer.status >= 300:
            found = await answer.read(ERROR_MAX_BYTES)
            if answer.has_body:
                self._check_keys(found)
            return passed_back(answer.status, answer.headers, found)
        return passed_back(answer.status, answer.headers, answer)

    def _check_keys(self, document: bytes) -> None:
        """Raises: AccessDenied when the store's complaint is about its own keys."""
        code = _CODE.search(document)
        if code is None or (name := code[1].decode()) not in KEYS_REFUSED:
            return
        message = _MESSAGE.search(document)
        told = message[1].decode("utf-8", errors="replace") if message is not None else ""
        raise AccessDenied(
            action="every request",
            resource=f"the external object store {self._connections.url}",
            reason=f"it refuses clary's own keys there, those of {SETTING} ({name}: {told}); yours are right",
        )

    def close(self) -> None:
        """Twice is fine."""
        self._connections.close()


def _with_md5(out: Outgoing, body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest())
    kept = [
        (name, value) for name, value in out.headers if name not in (b"content-md5", b"x-amz-sdk-checksum-algorithm")
    ]
    return (*kept, (b"content-md5", md5))


async def _pieces(body: StreamingBody) -> AsyncGenerator[bytes, None]:
    """The content, verified, each piece within its time. Raises: WireError, ClientGone."""
    async with aclosing(aiter(body)) as stream:  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout(STALL_LIMIT_S):
                    piece = await anext(stream, b"")
            except TimeoutError as error:
                raise ClientGone from error
            if not piece:
                return
            yield piece


async def _held_back(body: StreamingBody) -> AsyncGenerator[bytes, None]:
    """The content; its last piece only when all of it has been found right."""
    held = b""
    async for piece in _pieces(body):
        if held:
            yield held
        held = piece
    if held:
        yield held


async def _chunks(body: StreamingBody) -> AsyncGenerator[bytes, None]:
    """The content as aws-chunked, with the client's checksum behind it; its end only when all has been found right."""
    held: list[bytes] = []
    size = 0
    async for piece in _pieces(body):
        held.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:  # chunks of a client may be tiny, those of S3 have 8 KiB and more
            yield chunk(b"".join(held))
            held, size = [], 0
    yield (chunk(b"".join(held)) if held else b"") + last_chunk(body.trailers)
