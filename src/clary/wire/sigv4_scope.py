"""What a signed request says about itself: who signed it, for which day, region and service, and over which headers.

Nothing here verifies anything. The text before `Signature=` is the same in all requests of a client on one day, so its
parsed form is cached; the rest of verification starts from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final
from urllib.parse import unquote_to_bytes

from clary.wire import timestamps
from clary.wire.errors import WireError
from clary.wire.http import Request

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
TERMINATOR: Final = b"aws4_request"
MAX_AUTHORIZATION_BYTES: Final = 4096  # a real one has about 300; longer ones would only fill the cache


@dataclass(frozen=True, slots=True)
class Scope:
    """The claim in a credential scope. `date` is YYYYMMDD; empty for Signature Version 2, which has no scope."""

    access_key_id: str
    date: str
    region: str
    service: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A parsed `Credential` and `SignedHeaders`, in the forms that the string to sign needs."""

    scope: Scope
    raw_scope: bytes  # date/region/service/aws4_request
    raw_date: bytes
    signed_headers: tuple[bytes, ...]
    signed_set: frozenset[bytes]
    joined_headers: bytes
    is_s3: bool


def refusal(is_s3: bool, code: str, s3_code: str, status: int, message: str) -> WireError:
    """A refused signature, under the name that S3 or the other services have for it."""
    return WireError(s3_code if is_s3 else code, status, message)


def incomplete(is_s3: bool, message: str, *, in_query: bool = False) -> WireError:
    s3_code = "AuthorizationQueryParametersError" if in_query else "AuthorizationHeaderMalformed"
    return refusal(is_s3, "IncompleteSignature", s3_code, 400, message)


def parse_claim(credential: bytes, signed_headers: bytes, *, in_query: bool = False) -> Claim:
    """Raises: WireError when a part is missing, when the headers are unsorted or repeated, or lack `host`."""
    # The access key may hold slashes; the four parts behind it may not.
    parts = credential.rsplit(b"/", 4)
    is_s3 = len(parts) == 5 and parts[3] == b"s3"
    if len(parts) != 5 or not all(parts):
        text = "Credential must have the form <access key>/<YYYYMMDD>/<region>/<service>/aws4_request."
        raise incomplete(is_s3, text, in_query=in_query)
    key, date, region, service, terminator = parts
    if terminator != TERMINATOR:
        raise incomplete(is_s3, "The credential scope must end with aws4_request.", in_query=in_query)
    if len(date) != 8 or not date.isdigit():
        raise incomplete(is_s3, "The date of the credential scope must have the form YYYYMMDD.", in_query=in_query)
    names = tuple(signed_headers.split(b";"))
    if any(not name or name != name.lower() for name in names):
        raise incomplete(is_s3, "SignedHeaders must hold lower-case names, parted by semicolons.", in_query=in_query)
    if any(one >= other for one, other in pairwise(names)):
        raise incomplete(is_s3, "SignedHeaders must be sorted and hold each name once.", in_query=in_query)
    if b"host" not in names:
        raise incomplete(is_s3, "SignedHeaders must hold host.", in_query=in_query)
    try:
        scope = Scope(key.decode("ascii"), date.decode("ascii"), region.decode("ascii"), service.decode("ascii"))
    except UnicodeDecodeError as error:
        raise incomplete(is_s3, "Credential must be ASCII.", in_query=in_query) from error
    raw_scope = b"/".join((date, region, service, terminator))
    return Claim(scope, raw_scope, date, names, frozenset(names), signed_headers, is_s3)


@lru_cache(maxsize=1024)
def parse_prefix(prefix: bytes) -> Claim:
    """The claim in an Authorization header without its signature. Raises: WireError."""
    algorithm, _, rest = prefix.partition(b" ")
    if algorithm != ALGORITHM:
        shown = algorithm[:40].decode("latin-1")
        text = f'The authorization mechanism "{shown}" is not supported; sign with AWS4-HMAC-SHA256.'
        raise WireError("IncompleteSignature", 400, text)
    fields: dict[bytes, bytes] = {}
    for part in rest.split(b","):
        name, found, value = part.strip().partition(b"=")
        if not name and not found:
            continue
        if name in fields or name not in (b"Credential", b"SignedHeaders"):
            raise WireError(
                "IncompleteSignature", 400, "Authorization must hold Credential, SignedHeaders and Signature once."
            )
        fields[name] = value
    if len(fields) != 2:
        raise WireError("IncompleteSignature", 400, "Authorization requires Credential, SignedHeaders and Signature.")
    return parse_claim(fields[b"Credential"], fields[b"SignedHeaders"])


def split_authorization(value: bytes) -> tuple[Claim, bytes]:
    """The claim and the signature of an Authorization header. Raises: WireError."""
    if len(value) > MAX_AUTHORIZATION_BYTES:
        raise WireError("IncompleteSignature", 400, f"Authorization is longer than {MAX_AUTHORIZATION_BYTES} bytes.")
    prefix, found, signature = value.partition(b"Signature=")
    if not found:
        parse_prefix(prefix)
        raise WireError("IncompleteSignature", 400, "Authorization requires Signature.")
    if b"," in signature:  # the signature does not stand last: put it there
        signature, _, rest = signature.partition(b",")
        prefix += rest
    return parse_prefix(prefix), signature.strip()


def query_pairs(raw_query: bytes) -> list[tuple[bytes, bytes]]:
    """Raw names and values of the query, in their order; empty parts are dropped."""
    pairs: list[tuple[bytes, bytes]] = []
    for part in raw_query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((name, value))
    return pairs


def signing_parameters(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The decoded parameters that a presigned URL consists of. Raises: WireError when one of them is repeated."""
    found: dict[bytes, bytes] = {}
    for raw_name, raw_value in pairs:
        name = unquote_to_bytes(raw_name)
        if name.lower().startswith(b"x-amz-") or name in (b"AWSAccessKeyId", b"Signature", b"Expires"):
            if name in found:
                shown = name.decode("latin-1")
                raise WireError("AuthorizationQueryParametersError", 400, f"The query parameter {shown} is repeated.")
            found[name] = unquote_to_bytes(raw_value)
    return found


def scope_of(request: Request) -> Scope | None:
    """Who says to have signed the request, unverified: for routing. None for an unsigned or unreadable request."""
    for name, value in request.headers:
        if name == b"authorization":
            try:
                return split_authorization(value)[0].scope
            except WireError:
                return None  # verification will say what is wrong with it
    query = request.raw_query
    if b"X-Amz-Credential=" not in query and b"AWSAccessKeyId=" not in query:
        return None
    try:
        given = signing_parameters(query_pairs(query))
        if b"X-Amz-Credential" in given:
            return parse_claim(given[b"X-Amz-Credential"], given.get(b"X-Amz-SignedHeaders", b"host")).scope
        key_id = given.get(b"AWSAccessKeyId")
        return None if key_id is None else Scope(key_id.decode("ascii"), "", "us-east-1", "s3")
    except (WireError, UnicodeDecodeError):
        return None  # as above


@lru_cache(maxsize=256)
def moment_of(text: bytes) -> tuple[float, bytes, bytes]:
    """X-Amz-Date or Date as (epoch seconds, YYYYMMDD, the basic ISO form). Raises: ValueError."""
    if len(text) == 16 and text[8:9] == b"T" and text[15:] == b"Z" and (text[:8] + text[9:15]).isdigit():
        moment = datetime.strptime(text.decode("ascii"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    else:
        moment = timestamps.parse(text.decode("ascii"))
    basic = moment.strftime("%Y%m%dT%H%M%SZ").encode("ascii")
    return moment.timestamp(), basic[:8], basic
