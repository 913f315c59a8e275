"""AWS's own Signature Version 4 vectors: the canonical text, the verdict, and every one-byte change refused."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import Credential, authenticate, canonical_path, canonical_query, canonical_request
from clary.wire.sigv4_scope import parse_claim, split_authorization

VECTORS = Path(__file__).parents[2] / "data" / "sigv4"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
KEY = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
# The token header is not signed: refused here, because anyone on the path could swap it.
REFUSED = {"post-sts-header-after"}
# No strict HTTP parser lets these through (a folded header, a raw blank): only their canonical text is checked.
UNPARSABLE = {"get-header-value-multiline", "get-space"}

FOLDERS = sorted(path.parent for path in VECTORS.rglob("*.sreq"))


class Ring:
    def __init__(self, *keys: Credential) -> None:
        self._keys = {key.access_key_id: key for key in keys}

    def find(self, access_key_id: str) -> Credential | None:
        return self._keys.get(access_key_id)


def ring_for(request: Request) -> Ring:
    token = request.header("x-amz-security-token")
    return Ring(Credential(KEY.access_key_id, KEY.secret_access_key, token) if token else KEY)


def read(folder: Path) -> Request:
    raw = (folder / f"{folder.name}.sreq").read_bytes().replace(b"\r\n", b"\n")
    head, _, body = raw.partition(b"\n\n")
    lines = head.split(b"\n")
    method, _, rest = lines[0].partition(b" ")
    target = rest.rpartition(b" ")[0]
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if line[:1] in b" \t":  # obsolete folding: the next value of the same header
            headers[-1] = (headers[-1][0], headers[-1][1] + b" " + line.strip())
        else:
            name, _, value = line.partition(b":")
            headers.append((name.lower(), value.strip(b" ")))
    # The signature is the .authz file's: one .sreq carries that of another vector.
    authorization = (folder / f"{folder.name}.authz").read_bytes().strip()
    headers = [(name, authorization if name == b"authorization" else value) for name, value in headers]
    return Request(method.decode(), target, tuple(headers), body)


def joined(request: Request) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in request.headers:
        found[name] = b",".join((found[name], value.strip())) if name in found else value
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_canonical_request_is_awss_byte_for_byte(folder: Path) -> None:
    request = read(folder)
    headers = joined(request)
    claim, _ = split_authorization(headers[b"authorization"])
    payload = sha256(request.body).hexdigest().encode()
    path, query = canonical_path(request.raw_path, False), canonical_query(request.raw_query)
    expected = (folder / f"{folder.name}.creq").read_bytes().replace(b"\r\n", b"\n")
    assert canonical_request(request.method, path, query, claim, headers, payload) == expected


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if f.name not in REFUSED | UNPARSABLE], ids=lambda folder: folder.name
)
def test_every_vector_is_accepted(folder: Path) -> None:
    request = read(folder)
    verdict = authenticate(request, ring_for(request), NOW)
    assert (verdict.access_key_id, verdict.region, verdict.service) == ("AKIDEXAMPLE", "us-east-1", "service")


def test_a_token_that_the_signature_does_not_cover_is_refused() -> None:
    request = read(VECTORS / "post-sts-token" / "post-sts-header-after")
    with pytest.raises(WireError) as caught:
        authenticate(request, ring_for(request), NOW)
    assert caught.value.code in (
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
    )


def mutations(request: Request):
    """The request with one byte changed, in turn in the method, the target, each signed header, and the body."""
    yield Request(request.method[:-1] + chr(ord(request.method[-1]) ^ 1), request.target, request.headers, request.body)
    for at in range(len(request.target)):
        if request.target[at : at + 1] in b"/.%":
            continue  # a changed separator may well mean the same path
        target = request.target[:at] + bytes([request.target[at] ^ 1]) + request.target[at + 1 :]
        if b"?" not in target[:1]:
            yield Request(request.method, target, request.headers, request.body)
    signed = set(dict(request.headers)[b"authorization"].partition(b"SignedHeaders=")[2].partition(b",")[0].split(b";"))
    for number, (name, value) in enumerate(request.headers):
        if name not in signed and name != b"authorization":
            continue
        start = value.rfind(b"=") + 1 if name == b"authorization" else 0
        for at in range(start, len(value)):
            if value[at : at + 1].isspace():
                continue
            changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
            headers = (*request.headers[:number], (name, changed), *request.headers[number + 1 :])
            yield Request(request.method, request.target, headers, request.body)
    yield Request(request.method, request.target, request.headers, request.body + b"x")
    for at in range(len(request.body)):
        body = request.body[:at] + bytes([request.body[at] ^ 1]) + request.body[at + 1 :]
        yield Request(request.method, request.target, request.headers, body)


@pytest.mark.parametrize(
    "folder",
    [f for f in FOLDERS if f.name not in REFUSED | UNPARSABLE and f.parent.name != "normalize-path"],
    ids=lambda folder: folder.name,
)
def test_one_changed_byte_is_refused(folder: Path) -> None:
    request = read(folder)
    ring = ring_for(request)
    for changed in mutations(request):
        assert refused(changed, ring), changed


def refused(request: Request, ring: Ring) -> bool:
    try:
        authenticate(request, ring, NOW)
    except WireError:
        return True
    return False


def test_a_credential_with_slashes_in_its_key_keeps_them() -> None:
    claim = parse_claim(b"a/b/20150830/us-east-1/s3/aws4_request", b"host")
    assert claim.scope.access_key_id == "a/b"
