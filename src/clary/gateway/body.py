"""The body of a request as it comes in: whole and bounded for calls, a checked stream for objects.

A stream is verified while it is read: its digest against the signed one, or chunk by chunk; whoever reads it to its
end without an error has the very bytes that were signed. What is stored becomes visible only after that.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from clary.wire.errors import WireError

Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_CALL_BYTES = 16 * 1024 * 1024


class ClientGone(Exception):
    """The client left before its body was complete."""


async def pieces(receive: Receive) -> AsyncIterator[bytes]:
    """The raw body, as ASGI delivers it. Raises: ClientGone."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        if event.get("body"):
            yield event["body"]
        if not event.get("more_body"):
            return


async def read_whole(receive: Receive, limit_bytes: int = MAX_CALL_BYTES) -> bytes:
    """The body of an ordinary call. Raises: WireError when it is over the limit, ClientGone."""
    found: list[bytes] = []
    size = 0
    async for piece in pieces(receive):
        size += len(piece)
        if size > limit_bytes:
            raise WireError("RequestEntityTooLarge", 413, f"The request body exceeds {limit_bytes} bytes.")
        found.append(piece)
    return b"".join(found)


class StreamingBody:
    """An object's content on its way in. Iterate once; `length_bytes` is that of the content, None when unknown.

    `trailer_names` are announced in the head, `trailers` are there when the iteration has ended.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        length_bytes: int | None,
        sha256: str | None = None,
        decoder: Any = None,
    ) -> None:
        self._receive = receive
        self._sha256 = sha256
        self._decoder = decoder
        self.length_bytes = length_bytes
        self.trailer_names: frozenset[str] = frozenset() if decoder is None else decoder.trailer_names
        self.trailers: dict[str, str] = {}

    def claim_sha256(self) -> str | None:
        """Hands the check over: the digest, in lower-case hex, that the content must have; None when none was signed.

        For a reader that hashes on a thread of its own: from then on this stream no longer does.
        """
        claimed, self._sha256 = self._sha256, None
        return claimed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces of the content. Raises: WireError when it is not what was signed, ClientGone."""
        digest = hashlib.sha256() if self._sha256 is not None else None
        async for piece in pieces(self._receive):
            if self._decoder is not None:
                for part in self._decoder.feed(piece):
                    yield part
                continue
            if digest is not None:
                digest.update(piece)
            yield piece
        if self._decoder is not None:
            self.trailers = dict(self._decoder.finish())
        if digest is not None and digest.hexdigest() != self._sha256:
            raise WireError(
                "XAmzContentSHA256Mismatch", 400, "The provided 'x-amz-content-sha256' header does not match the body."
            )
