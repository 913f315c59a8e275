"""Signature Version 4, verified: one pure function from a request and a keyring to a verdict.

The signer and the verifier each build the same canonical text from the request and sign it with a key derived from the
secret; the signatures must agree. This file builds the text from the raw request, as received: nothing in front of it
may rewrite the target, the host or a signed header.

    Authorization header    parse -> time -> signed headers -> canonical request -> HMAC -> compare
    presigned URL           the same, with the claim in the query
    Signature Version 2     in the query only, for S3's GET, HEAD and PUT: what boto3 still presigns in old regions

It runs before every invocation, so parsed claims, derived keys and canonical paths are cached, each in a bounded cache.
An unknown key takes the same path as a wrong signature, with a dummy secret. No error shows what was expected.
Sources: IAM user guide, "Signature Version 4"; S3 API reference, "Authenticating Requests".
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from clary.wire import sigv2
from clary.wire.errors import WireError
from clary.wire.http import Request, text_of
from clary.wire.sigv4_scope import (
    ALGORITHM,
    Claim,
    Scope,
    incomplete,
    moment_of,
    parse_claim,
    query_pairs,
    refusal,
    scope_of,
    signing_parameters,
    split_authorization,
)

__all__ = [
    "ChunkChain", "Credential", "Keyring", "PayloadMode", "Scope", "Verdict", "authenticate", "canonical_request",
    "check_payload", "declared_payload", "scope_of",
]  # fmt: skip

MAX_SKEW_S: Final = 15 * 60  # S3 API reference, RequestTimeTooSkewed
MAX_EXPIRES_S: Final = 7 * 24 * 3600  # S3 API reference, X-Amz-Expires
EMPTY_SHA256: Final = sha256(b"").hexdigest()
KEY_HINT: Final = 'run eval "$(clary env)" to use this server\'s key'

_UNSIGNED: Final = b"UNSIGNED-PAYLOAD"
_ONCE: Final = frozenset({b"authorization", b"host", b"x-amz-date", b"x-amz-content-sha256", b"x-amz-security-token"})
_MUST_BE_SIGNED: Final = (b"x-amz-", b"x-amzn-sagemaker-")
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
_HEX: Final = b"0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Credential:
    """One key of the keyring. A session has a token and an expiry; a permanent key has neither."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires_at: datetime | None = None
    active: bool = True


class Keyring(Protocol):
    """Where keys are looked up."""

    def find(self, access_key_id: str) -> Credential | None:
        """The credential, or None for a key that does not exist. Must not block."""
        ...


class PayloadMode(StrEnum):
    """How the body is bound to the signature, and so how it must still be checked."""

    BODY_HASH_IN_SIGNATURE = "body-hash-in-signature"  # nothing left to check: the signature covers request.body
    SIGNED = "signed"  # the body must have the hash `payload_sha256`
    UNSIGNED = "unsigned"
    STREAMING_SIGNED = "streaming-signed"  # aws-chunked, each chunk signed
    STREAMING_SIGNED_TRAILER = "streaming-signed-trailer"
    STREAMING_UNSIGNED_TRAILER = "streaming-unsigned-trailer"  # aws-chunked, with a checksum behind it


_STREAMING: Final = {
    b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD": PayloadMode.STREAMING_SIGNED,
    b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": PayloadMode.STREAMING_SIGNED_TRAILER,
    b"STREAMING-UNSIGNED-PAYLOAD-TRAILER": PayloadMode.STREAMING_UNSIGNED_TRAILER,
}


@dataclass(frozen=True, slots=True, repr=False)
class ChunkChain:
    """Where a chain of chunk signatures starts. Holds a derived key: never printed."""

    signing_key: bytes
    moment: bytes
    scope: bytes
    seed_signature: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verified identity. `payload_sha256` is lower-case hex, for SIGNED; `chain` is there for signed chunks."""

    access_key_id: str
    region: str
    service: str
    payload: PayloadMode
    payload_sha256: str | None = None
    chain: ChunkChain | None = None
    presigned: bool = False


def authenticate(
    request: Request,
    keyring: Keyring,
    now: datetime,
    *,
    secure_transport: bool = False,
    allow_sigv2: bool = True,
) -> Verdict:
    """Who signed this request.

    The verdict holds for the service and region it names; the caller must compare the service with the routed one.
    Without x-amz-content-sha256 the signature covers sha256(request.body), except for S3, which requires the header.
    `secure_transport`: the request came over TLS or loopback; unsigned bodies are accepted only then.
    Raises: WireError; its codes are S3's when the scope is S3's, else those of the JSON protocols.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in headers:
            if name in _ONCE:
                raise WireError("IncompleteSignature", 400, f"The header {name.decode('latin-1')} is repeated.")
            headers[name] = b",".join((headers[name].strip(), value.strip()))
        else:
            headers[name] = value
    authorization = headers.get(b"authorization")
    query = request.raw_query
    if query:
        pairs = query_pairs(query)
        given = signing_parameters(pairs)
        v4, v2 = b"X-Amz-Signature" in given or b"X-Amz-Algorithm" in given, b"AWSAccessKeyId" in given
        if (authorization is not None) + v4 + v2 > 1:
            text = "Only one way to sign a request is allowed: the Authorization header or the query."
            raise WireError("InvalidArgument", 400, text)
        if v4:
            return _presigned(request, headers, pairs, given, keyring, now)
        if v2:
            if not allow_sigv2:
                raise WireError("InvalidRequest", 400, "Signature Version 2 is switched off here; sign with version 4.")
            return _version_2(request, headers, pairs, given, keyring, now)
    if authorization is None:
        raise WireError("MissingAuthenticationToken", 403, f"The request is not signed; {KEY_HINT}")
    return _signed(request, headers, authorization, keyring, now, secure_transport)


def _signed(
    request: Request,
    headers: dict[bytes, bytes],
    authorization: bytes,
    keyring: Keyring,
    now: datetime,
    secure_transport: bool,
) -> Verdict:
    claim, signature = split_authorization(authorization)
    date = headers.get(b"x-amz-date") or headers.get(b"date")
    if date is None:
        raise incomplete(claim.is_s3, "A signed request needs the header X-Amz-Date or Date.")
    moment = _checked_moment(claim, date.strip(), now)
    _check_signed_headers(claim, headers)
    declared = headers.get(b"x-amz-content-sha256")
    if declared is None:
        if claim.is_s3:
            raise WireError("InvalidRequest", 400, "Missing required header for this request: x-amz-content-sha256")
        mode, payload_hash = PayloadMode.BODY_HASH_IN_SIGNATURE, sha256(request.body).hexdigest().encode("ascii")
    else:
        payload_hash = declared.strip()
        mode = _payload_mode(payload_hash)
        if mode in (PayloadMode.UNSIGNED, PayloadMode.STREAMING_UNSIGNED_TRAILER) and not secure_transport:
            raise WireError("AccessDenied", 403, "An unsigned body is accepted only over TLS or from this machine.")
    path, _, query = request.target.partition(b"?")
    canonical = canonical_request(
        request.method, canonical_path(path, claim.is_s3), canonical_query(query), claim, headers, payload_hash
    )
    credential = keyring.find(claim.scope.access_key_id)
    key = _verify(claim, credential, moment, canonical, signature)
    _check_session(claim.is_s3, credential, headers.get(b"x-amz-security-token"), now)
    scope = claim.scope
    if mode is PayloadMode.BODY_HASH_IN_SIGNATURE:
        return Verdict(scope.access_key_id, scope.region, scope.service, mode)
    chain = None
    if mode is PayloadMode.STREAMING_SIGNED or mode is PayloadMode.STREAMING_SIGNED_TRAILER:
        chain = ChunkChain(key.raw, moment, claim.raw_scope, signature)
    digest = payload_hash.decode("ascii") if mode is PayloadMode.SIGNED else None
    return Verdict(scope.access_key_id, scope.region, scope.service, mode, digest, chain)


def _presigned(
    request: Request,
    headers: dict[bytes, bytes],
    pairs: list[tuple[bytes, bytes]],
    given: Mapping[bytes, bytes],
    keyring: Keyring,
    now: datetime,
) -> Verdict:
    needed = (b"X-Amz-Algorithm", b"X-Amz-Credential", b"X-Amz-Date", b"X-Amz-SignedHeaders", b"X-Amz-Signature")
    missing = [name.decode("ascii") for name in needed if name not in given]
    if missing:
        raise incomplete(True, f"The presigned URL lacks {', '.join(missing)}.", in_query=True)
    if given[b"X-Amz-Algorithm"] != ALGORITHM:
        raise incomplete(True, "X-Amz-Algorithm only supports AWS4-HMAC-SHA256.", in_query=True)
    claim = parse_claim(given[b"X-Amz-Credential"], given[b"X-Amz-SignedHeaders"], in_query=True)
    expires = given.get(b"X-Amz-Expires", b"")
    if not (expires.isdigit() and len(expires) <= 6 and 1 <= int(expires) <= MAX_EXPIRES_S):
        raise incomplete(claim.is_s3, f"X-Amz-Expires must be 1 to {MAX_EXPIRES_S} seconds.", in_query=True)
    moment = _checked_moment(claim, given[b"X-Amz-Date"], now, lifetime_s=int(expires))
    _check_signed_headers(claim, headers)
    declared = headers.get(b"x-amz-content-sha256") or given.get(b"X-Amz-Content-Sha256")
    if declared is not None:
        payload_hash = declared.strip()
        mode = _payload_mode(payload_hash)
        if mode not in (PayloadMode.SIGNED, PayloadMode.UNSIGNED):
            raise WireError("InvalidRequest", 400, "A presigned URL cannot carry a chunk-signed body.")
    elif claim.is_s3:
        payload_hash, mode = _UNSIGNED, PayloadMode.UNSIGNED
    else:
        payload_hash = sha256(request.body).hexdigest().encode("ascii")
        mode = PayloadMode.BODY_HASH_IN_SIGNATURE
    signed_pairs = [pair for pair in pairs if unquote_to_bytes(pair[0]) != b"X-Amz-Signature"]
    canonical = canonical_request(
        request.method,
        canonical_path(request.raw_path, claim.is_s3),
        _canonical_pairs(signed_pairs),
        claim,
        headers,
        payload_hash,
    )
    credential = keyring.find(claim.scope.access_key_id)
    _verify(claim, credential, moment, canonical, given[b"X-Amz-Signature"])
    token = given.get(b"X-Amz-Security-Token") or headers.get(b"x-amz-security-token")
    _check_session(claim.is_s3, credential, token, now)
    scope = claim.scope
    digest = payload_hash.decode("ascii") if mode is PayloadMode.SIGNED else None
    return Verdict(scope.access_key_id, scope.region, scope.service, mode, digest, None, True)


def _version_2(
    request: Request,
    headers: dict[bytes, bytes],
    pairs: list[tuple[bytes, bytes]],
    given: Mapping[bytes, bytes],
    keyring: Keyring,
    now: datetime,
) -> Verdict:
    expires, signature = given.get(b"Expires", b""), given.get(b"Signature", b"")
    if request.method not in ("GET", "HEAD", "PUT") or not signature or not (expires.isdigit() and len(expires) <= 12):
        text = "Signature Version 2 needs AWSAccessKeyId, Signature and Expires, and a GET, HEAD or PUT."
        raise WireError("AccessDenied", 403, text)
    if int(expires) < now.timestamp():
        raise WireError("AccessDenied", 403, "Request has expired")
    if int(expires) > now.timestamp() + MAX_EXPIRES_S + MAX_SKEW_S:
        raise WireError("AccessDenied", 403, f"Expires must be less than {MAX_EXPIRES_S} seconds from now.")
    key_id = text_of(given[b"AWSAccessKeyId"])
    credential = keyring.find(key_id)
    known = credential is not None and credential.active
    secret = credential.secret_access_key if credential is not None and known else "dummy"
    text_signed = sigv2.string_to_sign(request.method, request.raw_path, headers, pairs, expires)
    matches = hmac.compare_digest(sigv2.sign(secret, text_signed), signature)
    if not known:
        raise unknown_key(True)
    if not matches:
        raise wrong_signature(True)
    tokens = [unquote_to_bytes(value) for name, value in pairs if unquote_to_bytes(name) == b"x-amz-security-token"]
    token = headers.get(b"x-amz-security-token") or (tokens[0] if tokens else None)
    _check_session(True, credential, token, now)
    return Verdict(key_id, "us-east-1", "s3", PayloadMode.UNSIGNED, None, None, True)


def _payload_mode(declared: bytes) -> PayloadMode:
    if len(declared) == 64 and not declared.strip(_HEX):
        return PayloadMode.SIGNED
    if declared == _UNSIGNED:
        return PayloadMode.UNSIGNED
    mode = _STREAMING.get(declared)
    if mode is None:
        shown = declared[:80].decode("latin-1")
        text = f'x-amz-content-sha256 must be a lower-case hex SHA-256 or one of AWS\'s markers; it is "{shown}".'
        raise WireError("InvalidArgument", 400, text)
    return mode


def _checked_moment(claim: Claim, text: bytes, now: datetime, lifetime_s: int | None = None) -> bytes:
    """The moment of signing in the basic ISO form. Raises: WireError when it is not now or not the scope's day."""
    try:
        at, day, basic = moment_of(text)
    except ValueError as error:
        shown = text[:40].decode("latin-1")
        message = f'The date "{shown}" cannot be read; X-Amz-Date has the form 20260102T030405Z.'
        raise incomplete(claim.is_s3, message, in_query=lifetime_s is not None) from error
    age_s = now.timestamp() - at
    if lifetime_s is not None and age_s > lifetime_s:
        raise refusal(claim.is_s3, "AccessDeniedException", "AccessDenied", 403, "Request has expired")
    if age_s < -MAX_SKEW_S or (lifetime_s is None and age_s > MAX_SKEW_S):
        message = (
            "The difference between the request time and the server's time is too large: "
            f"the request says {basic.decode('ascii')}, the server {now:%Y%m%dT%H%M%SZ}; 15 minutes are allowed."
        )
        raise WireError("RequestTimeTooSkewed", 403, message)
    if day != claim.raw_date:
        message = f"The credential scope is for {claim.scope.date}, the request of {day.decode('ascii')}."
        code = "AuthorizationHeaderMalformed" if lifetime_s is None else "AuthorizationQueryParametersError"
        raise refusal(claim.is_s3, "InvalidSignatureException", code, 400 if claim.is_s3 else 403, message)
    return basic


def _check_signed_headers(claim: Claim, headers: Mapping[bytes, bytes]) -> None:
    """Raises: WireError when a header that changes meaning is not covered by the signature."""
    signed = claim.signed_set
    for name in headers:
        if name.startswith(_MUST_BE_SIGNED) and name not in signed:
            message = f"There were headers present in the request which were not signed: {name.decode('latin-1')}"
            raise refusal(claim.is_s3, "InvalidSignatureException", "AccessDenied", 403, message)


def canonical_request(
    method: str, path: bytes, query: bytes, claim: Claim, headers: Mapping[bytes, bytes], payload_hash: bytes
) -> bytes:
    """The text whose hash is signed. `headers` are by lower-cased name, repeated ones joined by commas."""
    lines = [method.encode("latin-1"), path, query]
    for name in claim.signed_headers:
        value = headers.get(name)
        if value is None:
            message = f"The signed header {name.decode('latin-1')} is not in the request."
            raise refusal(claim.is_s3, "InvalidSignatureException", "SignatureDoesNotMatch", 403, message)
        value = value.strip()
        if b"  " in value:
            value = b" ".join(value.split())
        lines.append(name + b":" + value)
    lines += (b"", claim.joined_headers, payload_hash)
    return b"\n".join(lines)


class SigningKey:
    """A derived key with both ends of its HMAC already begun: signing then costs half of a fresh HMAC."""

    __slots__ = ("_inner", "_outer", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        padded = raw.ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in padded))  # RFC 2104: ipad and opad
        self._outer = sha256(bytes(byte ^ 0x5C for byte in padded))

    def sign(self, text: bytes) -> str:
        """HMAC-SHA256 of the text, in lower-case hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()


@lru_cache(maxsize=1024)
def signing_key(secret: str, date: bytes, region: str, service: str) -> SigningKey:
    """The key of one day, region and service; `date` is YYYYMMDD."""
    key = hmac.digest(b"AWS4" + secret.encode(), date, "sha256")
    for part in (region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return SigningKey(key)


def _verify(
    claim: Claim, credential: Credential | None, moment: bytes, canonical: bytes, signature: bytes
) -> SigningKey:
    """The signing key, when the signature is its own. Raises: WireError.

    A key that is unknown or switched off is signed with a dummy secret, so that it costs what a wrong signature costs.
    """
    known = credential is not None and credential.active
    secret = credential.secret_access_key if credential is not None and known else "dummy"
    scope = claim.scope
    key = signing_key(secret, claim.raw_date, scope.region, scope.service)
    to_sign = b"\n".join((ALGORITHM, moment, claim.raw_scope, sha256(canonical).hexdigest().encode("ascii")))
    matches = hmac.compare_digest(key.sign(to_sign).encode("ascii"), signature)
    if not known:
        raise unknown_key(claim.is_s3)
    if not matches:
        raise wrong_signature(claim.is_s3)
    return key


def unknown_key(is_s3: bool) -> WireError:
    message = f"The security token included in the request is invalid; {KEY_HINT}"
    if is_s3:
        message = f"The AWS Access Key Id you provided does not exist in our records; {KEY_HINT}"
    return refusal(is_s3, "UnrecognizedClientException", "InvalidAccessKeyId", 403, message)


def wrong_signature(is_s3: bool) -> WireError:
    message = (
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method."
    )
    return refusal(is_s3, "InvalidSignatureException", "SignatureDoesNotMatch", 403, message)


def _check_session(is_s3: bool, credential: Credential | None, token: bytes | None, now: datetime) -> None:
    """Raises: WireError unless the token is exactly the key's and the session lives. The signature was right."""
    if credential is None:
        raise unknown_key(is_s3)
    expected = credential.session_token
    given = b"" if token is None else token.strip()
    wanted = b"" if expected is None else expected.encode()
    if (token is None) != (expected is None) or not hmac.compare_digest(given, wanted):
        message = "The provided token is malformed or otherwise invalid."
        raise refusal(is_s3, "UnrecognizedClientException", "InvalidToken", 403 if not is_s3 else 400, message)
    if credential.expires_at is not None and now >= credential.expires_at:
        message = "The security token included in the request is expired; ask for a new session."
        raise refusal(is_s3, "ExpiredTokenException", "ExpiredToken", 403 if not is_s3 else 400, message)


def check_payload(verdict: Verdict, digest: str) -> None:
    """Compare the received body's SHA-256 (hex) with the signed one, before anything it does becomes visible.

    Raises: WireError (XAmzContentSHA256Mismatch). Does nothing for modes that do not sign the body's hash.
    """
    expected = verdict.payload_sha256
    if expected is not None and not hmac.compare_digest(expected, digest):
        text = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise WireError("XAmzContentSHA256Mismatch", 400, text)


def declared_payload(declared: str) -> tuple[PayloadMode, str | None]:
    """How a body is framed by its x-amz-content-sha256, and its digest, where no signature is verified."""
    mode = _STREAMING.get(declared.upper().encode("utf-8"))
    if mode is not None:
        return mode, None
    if len(declared) == 64 and not declared.encode("utf-8").lower().translate(None, _HEX):
        return PayloadMode.SIGNED, declared.lower()
    return PayloadMode.UNSIGNED, None


# --- canonical path and query -----------------------------------------------------------------------------------------


def canonical_path(raw_path: bytes, is_s3: bool) -> bytes:
    """S3 keeps every segment as key text; the others resolve dots first and encode what is already encoded again."""
    if not raw_path.translate(None, _UNRESERVED + b"/") and b"//" not in raw_path and b"/." not in raw_path:
        return raw_path or b"/"
    return _canonical_path(raw_path, is_s3)


@lru_cache(maxsize=256)
def _canonical_path(raw_path: bytes, is_s3: bool) -> bytes:
    if is_s3:
        return b"/".join(_encode(unquote_to_bytes(part)) for part in raw_path.split(b"/"))
    kept: list[bytes] = []
    for part in raw_path.split(b"/"):
        if part == b"..":
            del kept[-1:]
        elif part not in (b"", b"."):
            kept.append(_encode(part))
    tail = b"/" if kept and raw_path.endswith(b"/") else b""
    return b"/" + b"/".join(kept) + tail


def _encode(raw: bytes) -> bytes:
    return quote_from_bytes(raw, safe="-_.~").encode("ascii")


def canonical_query(raw_query: bytes) -> bytes:
    return _canonical_pairs(query_pairs(raw_query)) if raw_query else b""


def _canonical_pairs(pairs: list[tuple[bytes, bytes]]) -> bytes:
    encoded = sorted((_encode(unquote_to_bytes(name)), _encode(unquote_to_bytes(value))) for name, value in pairs)
    return b"&".join(b"%b=%b" % pair for pair in encoded)
