"""Our signatures are botocore's, and hold before our own verifier."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import Credential, authenticate, canonical_path, canonical_query
from clary.wire.sigv4_signing import SecretKeys, sign

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HASH = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"


class Keyring:
    def __init__(self, token: str = "") -> None:
        self._token = token or None

    def find(self, access_key_id: str) -> Credential | None:
        return Credential(access_key_id, SECRET, self._token)


class AtThatMoment(botocore.auth.S3SigV4Auth):
    """botocore's signer with the moment, and the payload's hash, of the test."""

    def payload(self, request: Any) -> str:
        return HASH


def theirs(
    monkeypatch: pytest.MonkeyPatch, method: str, target: str, headers: dict[str, str], token: str
) -> dict[str, str]:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None))
    request = AWSRequest(method, "http://store.example:9000" + target, headers=headers)
    AtThatMoment(Credentials("AKID", SECRET, token or None), "s3", "eu-west-3").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize("token", ["", "a-token"])
@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/b/a%20b/%C3%BC?list-type=2&prefix=a%2Fb", {}),
        ("PUT", "/b/k", {"content-type": "text/plain", "x-amz-meta-b": "2", "x-amz-meta-a": "1  1"}),
        ("POST", "/b?delete=", {"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}),
    ],
)
def test_the_signature_is_botocores(
    monkeypatch: pytest.MonkeyPatch, method: str, target: str, headers: dict[str, str], token: str
) -> None:
    expected = theirs(monkeypatch, method, target, headers, token)
    given_headers = ((b"host", b"store.example:9000"), *((n.encode(), v.encode()) for n, v in headers.items()))
    made = dict(sign(method, target.encode(), given_headers, HASH, SecretKeys("AKID", SECRET, token), "eu-west-3", NOW))
    assert made[b"authorization"].decode() == expected["authorization"]
    assert made[b"x-amz-date"].decode() == expected["x-amz-date"]


@given(
    path=st.binary(max_size=40),
    query=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=4),
    meta=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)
def test_what_is_signed_holds_before_our_verifier(path: bytes, query: list[tuple[str, str]], meta: str) -> None:
    raw_query = "&".join(f"{name}={value}" for name, value in query).encode("utf-8", "surrogatepass")
    target = canonical_path(b"/b/" + path.replace(b"?", b""), True) + b"?" + canonical_query(raw_query)
    headers = ((b"host", b"h"), (b"range", b"bytes=0-1"), (b"x-amz-meta-m", meta.encode()))
    made = sign("GET", target, headers, HASH, SecretKeys("AKID", SECRET, "t"), "eu-west-3", NOW)
    verdict = authenticate(Request("GET", target, made), Keyring("t"), NOW)
    assert (verdict.access_key_id, verdict.region, verdict.payload_sha256) == ("AKID", "eu-west-3", HASH)
    other = tuple((name, b"other" if name == b"x-amz-meta-m" else value) for name, value in made)
    if meta != "other":
        with pytest.raises(WireError):
            authenticate(Request("GET", target, other), Keyring("t"), NOW)


def test_keys_are_never_printed() -> None:
    assert SECRET not in repr(SecretKeys("AKID", SECRET))
