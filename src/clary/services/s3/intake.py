"""An object's body on its way from the socket to the store.

Its last block rides with the commit: an object of one block costs one thread hop in all. What the client claimed
(length, MD5, SHA-256, checksum) is compared in the commit, before anything shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from clary.services.base import Members
from clary.services.s3 import checksum_members
from clary.services.s3.blocks import Block, write_but_last
from clary.services.s3.conditions import only_new
from clary.services.s3.lanes import Lanes
from clary.store.checksums import Checksum, ChecksumAlgorithm
from clary.store.put_session import PutSession
from clary.wire.errors import WireError

T = TypeVar("T")

# S3 user guide, "Uploading objects": one PUT or one part.
PUT_MAX_BYTES = 5 * 1024**3


class IncomingBody(Protocol):
    """A body that is still coming; iterate once. `trailers` are there afterwards, their names before."""

    length_bytes: int | None
    trailer_names: frozenset[str]
    trailers: dict[str, str]

    def claim_sha256(self) -> str | None:
        """The SHA-256 that was signed, in hex, which the caller now has to check; None when none was."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Claims:
    """What a client says about a body before it comes."""

    body: IncomingBody | bytes
    length_bytes: int
    md5: bytes | None
    algorithm: ChecksumAlgorithm | None
    checksum: Checksum | None
    if_match: str | None = None
    if_none_match: str | None = None


def claims_of(params: Members) -> Claims:
    """The claims of a PutObject or UploadPart. Raises: WireError for contradictions and for what S3 has no room for."""
    body: IncomingBody | bytes = params.get("Body") or b""
    length = len(body) if isinstance(body, bytes) else body.length_bytes
    if length is None:
        raise WireError("MissingContentLength", 411, "You must provide the Content-Length HTTP header.")
    if length > PUT_MAX_BYTES:
        raise WireError(
            "EntityTooLarge",
            400,
            "Your proposed upload exceeds the maximum allowed size; use a multipart upload",
            {"ProposedSize": length, "MaxSizeAllowed": PUT_MAX_BYTES},
        )
    checksum = checksum_members.given(params)
    trailers = frozenset() if isinstance(body, bytes) else body.trailer_names
    asked = checksum_members.asked_algorithm(params)
    sent = checksum_members.announced(trailers) if checksum is None else checksum.algorithm
    if asked is not None and sent is not None and asked is not sent:
        message = f"Value for x-amz-sdk-checksum-algorithm header is invalid: it says {asked}, the checksum is {sent}."
        raise WireError("InvalidRequest", 400, message)
    return Claims(
        body=body,
        length_bytes=length,
        md5=checksum_members.content_md5(params),
        algorithm=sent or asked,
        checksum=checksum,
        if_match=params.get("IfMatch"),
        if_none_match=only_new(params),
    )


async def take_in(lanes: Lanes, claims: Claims, begin: Callable[[bool], PutSession[T]]) -> T:
    """Stores a body and returns what its session's commit gives.

    `begin(hash_sha256)` runs on a lane. Nothing stays when this raises, be it what the session or the body raised.
    """
    body = claims.body
    sha256 = None if isinstance(body, bytes) else body.claim_sha256()
    upload = _Upload(lambda: begin(sha256 is not None))
    try:
        last: Block
        if isinstance(body, bytes):
            last, trailer = (body,), None
        else:
            last = await write_but_last(lanes, aiter(body), claims.length_bytes, upload.write)
            trailer = checksum_members.trailing(body.trailers)
        checksum = claims.checksum or trailer

        def finish() -> T:
            upload.write(last)
            return upload.give_up_session().commit(
                expect_md5=claims.md5,
                expect_sha256=sha256,
                expect_checksum=checksum,
                expect_length=claims.length_bytes,
                if_match=claims.if_match,
                if_none_match=claims.if_none_match,
            )

        return await lanes.commit(finish)
    finally:
        if upload.is_open:
            await lanes.inward(upload.abort)


class _Upload(Generic[T]):
    """The session, begun with the first write; used by one thread at a time."""

    def __init__(self, begin: Callable[[], PutSession[T]]) -> None:
        self._begin = begin
        self._session: PutSession[T] | None = None

    @property
    def session(self) -> PutSession[T]:
        if self._session is None:
            self._session = self._begin()
        return self._session

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def write(self, block: Block) -> None:
        for piece in block:
            self.session.write(piece)

    def give_up_session(self) -> PutSession[T]:
        """For the commit, which ends the session whatever comes of it."""
        session, self._session = self.session, None
        return session

    def abort(self) -> None:
        if self._session is not None:
            self._session.abort()
            self._session = None
