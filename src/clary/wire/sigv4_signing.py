"""Signature Version 4, made: the other direction of `sigv4`, for requests that clary itself sends.

It signs the host, every x-amz-* header and what says how the body is to be read; ranges and conditions travel unsigned,
as SDKs send them. The target must already have the canonical form (`canonical_path` of sigv4), because what is sent and
what is signed are the same bytes then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from clary.wire.sigv4 import canonical_query, canonical_request, signing_key
from clary.wire.sigv4_scope import ALGORITHM, TERMINATOR, Claim, Scope

Headers = tuple[tuple[bytes, bytes], ...]

_SIGNED = frozenset({b"host", b"content-type", b"content-md5"})


@dataclass(frozen=True, slots=True, repr=False)
class SecretKeys:
    """A key to sign with. Never printed."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


def sign(
    method: str, target: bytes, headers: Headers, payload_hash: str, keys: SecretKeys, region: str, now: datetime
) -> Headers:
    """The headers of an S3 request with its signature among them.

    `headers` have lower-case names, each once, `host` among them and none that a signature adds. `payload_hash` is a
    lower-case hex SHA-256 or one of AWS's markers.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ").encode("ascii")
    day = moment[:8]
    added = [(b"x-amz-date", moment), (b"x-amz-content-sha256", payload_hash.encode("ascii"))]
    if keys.session_token:
        added.append((b"x-amz-security-token", keys.session_token.encode("ascii")))
    found = dict((*headers, *added))
    names = tuple(sorted(name for name in found if name in _SIGNED or name.startswith(b"x-amz-")))
    raw_scope = b"/".join((day, region.encode("ascii"), b"s3", TERMINATOR))
    scope = Scope(keys.access_key_id, day.decode("ascii"), region, "s3")
    claim = Claim(scope, raw_scope, day, names, frozenset(names), b";".join(names), True)
    path, _, query = target.partition(b"?")
    canonical = canonical_request(method, path, canonical_query(query), claim, found, payload_hash.encode("ascii"))
    text = b"\n".join((ALGORITHM, moment, raw_scope, sha256(canonical).hexdigest().encode("ascii")))
    signature = signing_key(keys.secret_access_key, day, region, "s3").sign(text)
    authorization = (
        f"{ALGORITHM.decode()} Credential={keys.access_key_id}/{raw_scope.decode()}, "
        f"SignedHeaders={claim.joined_headers.decode()}, Signature={signature}"
    )
    return (*headers, *added, (b"authorization", authorization.encode("ascii")))
