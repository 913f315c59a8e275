"""An S3 request as it goes on to another S3: what is kept of it, and how its body is bound to the new signature.

The client's signature has been verified and ends here: with it go its date, its token, the parameters of a presigned
URL, and the framing of an aws-chunked body. What a presigned URL moved from headers into its query goes back to the
headers. A bucket in the host name becomes the first segment of the path. Expected owners are ours to compare, because
the other store's account is not the one that our clients know.

    declared by the client                     sent on
    a SHA-256                                  the same, so that the other store verifies it
    UNSIGNED-PAYLOAD                           the same
    STREAMING-...-PAYLOAD                      UNSIGNED-PAYLOAD, decoded; the chunks' signatures are ours to verify
    STREAMING-...-TRAILER                      STREAMING-UNSIGNED-PAYLOAD-TRAILER: the other store checks and keeps the
                                               checksum behind the body; chunks' signatures are ours to verify
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from clary.wire.http import Request, Response, text_of
from clary.wire.sigv4 import PayloadMode, Verdict, canonical_path, canonical_query
from clary.wire.sigv4_scope import query_pairs
from clary.wire.sigv4_signing import Headers
from clary.wire.virtual_host import bucket_in_host

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

_KEPT = frozenset({
    b"cache-control", b"content-disposition", b"content-encoding", b"content-language", b"content-md5",
    b"content-type", b"expires", b"range",
})  # fmt: skip
_ENDS_HERE = frozenset({
    b"x-amz-content-sha256", b"x-amz-date", b"x-amz-decoded-content-length", b"x-amz-expected-bucket-owner",
    b"x-amz-security-token", b"x-amz-source-expected-bucket-owner", b"x-amz-trailer",
})  # fmt: skip
_PRESIGNED = frozenset({
    b"x-amz-algorithm", b"x-amz-credential", b"x-amz-date", b"x-amz-expires", b"x-amz-signedheaders",
    b"x-amz-signature", b"x-amz-security-token", b"x-amz-content-sha256",
})  # fmt: skip
_VERSION_2 = frozenset({b"AWSAccessKeyId", b"Signature", b"Expires"})
# RFC 9110, section 7.6.1; and the date, which our own server tells.
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
    b"upgrade", b"date",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request to send on, still without host, length and signature. `target` has the canonical form."""

    method: str
    target: bytes
    headers: Headers
    payload_hash: str
    is_chunked: bool  # the body is to be framed as aws-chunked, with the trailers behind it


def outgoing(request: Request, verdict: Verdict, payload_sha256: str = "") -> Outgoing:
    """What goes on of a verified request. `payload_sha256`: of a body that is already here, in lower-case hex."""
    kept, moved = _query(request)
    headers: dict[bytes, bytes] = dict(moved)
    for name, value in request.headers:
        if not (name in _KEPT or name.startswith((b"if-", b"x-amz-"))) or name in _ENDS_HERE:
            continue
        value = value.strip()
        headers[name] = value if name not in headers or name in moved else headers[name] + b"," + value
    encoding = _without_chunked(headers.pop(b"content-encoding", b""))
    payload_hash, is_chunked = _payload(verdict, payload_sha256)
    if is_chunked:
        names = b",".join(value for name, value in request.headers if name == b"x-amz-trailer")
        headers[b"x-amz-trailer"] = names
        headers[b"x-amz-decoded-content-length"] = (request.header("x-amz-decoded-content-length") or "").encode()
        encoding = b"aws-chunked" + (b"," + encoding if encoding else b"")
    if encoding:
        headers[b"content-encoding"] = encoding
    return Outgoing(request.method, _path(request) + kept, tuple(headers.items()), payload_hash, is_chunked)


def chunk(piece: bytes) -> bytes:
    """A piece of an aws-chunked body that is not signed."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def last_chunk(trailers: Mapping[str, str]) -> bytes:
    """The end of that body."""
    lines = b"".join(b"%b:%b\r\n" % (name.encode(), value.encode()) for name, value in trailers.items())
    return b"0\r\n" + lines + b"\r\n"


def passed_back(status: int, headers: Iterable[tuple[bytes, bytes]], body: object) -> Response:
    """The other store's answer as ours; the length of a body that is here is left to whoever sends it."""
    left_out = _HOP_BY_HOP | {b"content-length"} if body else _HOP_BY_HOP
    if not isinstance(body, bytes):
        left_out = _HOP_BY_HOP
    kept = [(text_of(name), text_of(value)) for name, value in headers if name.lower() not in left_out]
    return Response(status, kept, body)


def _payload(verdict: Verdict, payload_sha256: str) -> tuple[str, bool]:
    if payload_sha256:
        return payload_sha256, False
    match verdict.payload:
        case PayloadMode.SIGNED if verdict.payload_sha256 is not None:
            return verdict.payload_sha256, False
        case PayloadMode.STREAMING_SIGNED_TRAILER | PayloadMode.STREAMING_UNSIGNED_TRAILER:
            return UNSIGNED_TRAILER, True
        case _:
            return UNSIGNED, False


def _path(request: Request) -> bytes:
    path = canonical_path(request.raw_path, True)
    bucket = bucket_in_host(request.header("host") or "")
    if bucket is None:
        return path
    return b"/" + quote(bucket, safe="-_.~").encode() + (b"" if path == b"/" else path)


def _query(request: Request) -> tuple[bytes, dict[bytes, bytes]]:
    """The query that stays, and headers that a presigned URL carried in it."""
    pairs = query_pairs(request.raw_query)
    names = {unquote_to_bytes(name) for name, _ in pairs}
    ends = _VERSION_2 if b"AWSAccessKeyId" in names else frozenset()
    is_presigned = bool(ends) or any(name.lower() == b"x-amz-signature" for name in names)
    kept: list[bytes] = []
    moved: dict[bytes, bytes] = {}
    for raw_name, raw_value in pairs:
        name = unquote_to_bytes(raw_name)
        lowered = name.lower()
        if is_presigned and (name in ends or lowered in _PRESIGNED):
            continue
        if is_presigned and lowered.startswith(b"x-amz-"):
            if lowered not in _ENDS_HERE:
                moved[lowered] = unquote_to_bytes(raw_value)
            continue
        kept.append((raw_name + b"=" + raw_value).replace(b"+", b"%20"))  # a blank, as `rest_binding` reads it
    return (b"?" + canonical_query(b"&".join(kept)) if kept else b""), moved


def _without_chunked(encoding: bytes) -> bytes:
    words = [word.strip() for word in encoding.split(b",")]
    return b",".join(word for word in words if word and word.lower() != b"aws-chunked")
