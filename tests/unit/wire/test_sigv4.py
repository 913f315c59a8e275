"""Verification against botocore's own signers, and everything that must be refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import (
    KEY_HINT,
    Credential,
    PayloadMode,
    authenticate,
    canonical_path,
    canonical_query,
    check_payload,
    scope_of,
)

KEY = Credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SESSION = Credential("ASIAEXAMPLE", "secret-of-session", "token-1", datetime.now(UTC) + timedelta(days=1))
OFF = Credential("AKIDOFF", "secret", active=False)


class _Now:
    """The moment of use, which botocore signs at as well: a suite may reach these tests long after their import."""

    def __add__(self, delta: timedelta) -> datetime:
        return datetime.now(UTC) + delta

    def __sub__(self, delta: timedelta) -> datetime:
        return datetime.now(UTC) - delta

    def __format__(self, form: str) -> str:
        return format(datetime.now(UTC), form)


NOW = _Now()


class Ring:
    def find(self, access_key_id: str) -> Credential | None:
        return {key.access_key_id: key for key in (KEY, SESSION, OFF)}.get(access_key_id)


RING = Ring()


def signed(
    service: str = "sagemaker",
    method: str = "POST",
    url: str = "http://localhost:8787/endpoints/a/invocations",
    body: bytes = b"x",
    headers: dict[str, str] | None = None,
    key: Credential = KEY,
    signer: Any = None,
    **options: Any,
) -> Request:
    """A request signed by botocore, as it would arrive."""
    made = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    credentials = Credentials(key.access_key_id, key.secret_access_key, key.session_token)
    kind = signer or (botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth)
    if kind is botocore.auth.HmacV1QueryAuth:
        kind(credentials, **options).add_auth(made)
    else:
        kind(credentials, service, "eu-west-1", **options).add_auth(made)
    split = urlsplit(made.url)
    target = split.path + (f"?{split.query}" if split.query else "")
    pairs = [(b"host", split.netloc.encode())]
    pairs += [
        (name.lower().encode(), as_bytes(value)) for name, value in made.headers.items() if name.lower() != "host"
    ]
    return Request(method, target.encode(), tuple(pairs), body)


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def changed(request: Request, **headers: str | None) -> Request:
    """The request with headers replaced, added or (None) removed; underscores in names mean hyphens."""
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    kept = [(name, value) for name, value in request.headers if name not in given]
    kept += [(name, value.encode()) for name, value in given.items() if value is not None]
    return Request(request.method, request.target, tuple(kept), request.body)


def code_of(request: Request, now: datetime | None = None, **options: Any) -> str:
    with pytest.raises(WireError) as caught:
        authenticate(request, RING, now or datetime.now(UTC), **options)
    assert KEY.secret_access_key not in str(caught.value)
    return caught.value.code


# Paths as botocore sends them: keys such as `(1)`, `a+b` and `%41` leave as %281%29, a%2Bb and %2541.
PATHS = [
    "/", "/b/k", "/b//k", "/b/../k", "/b/./k/", "/b/a%20b", "/b/%C3%A9", "/b/a%2Fb", "/b/%2541", "/b/a%2Bb",
    "/b/a%3Db%26c", "/b/~x", "/b/%281%29", "/b/a%3Ab%40c", "/b/%25",
]  # fmt: skip
QUERIES = ["", "?list-type=2&prefix=a%2Fb&delimiter=%2F", "?uploads", "?b=2&a=1&a=0&b", "?x=%20&y=%2B", "?k=%E2%82%AC"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("service", ["s3", "sagemaker"])
def test_what_botocore_signs_is_accepted(service: str, path: str, query: str) -> None:
    request = signed(service, "PUT", f"http://localhost:8787{path}{query}", headers={"x-amz-meta-a": " b   c "})
    verdict = authenticate(request, RING, datetime.now(UTC))
    assert (verdict.access_key_id, verdict.region, verdict.service) == (KEY.access_key_id, "eu-west-1", service)
    if service == "s3":
        assert verdict.payload is PayloadMode.SIGNED
    else:
        assert verdict.payload is PayloadMode.BODY_HASH_IN_SIGNATURE


@pytest.mark.parametrize("path", PATHS)
def test_presigned_urls_of_version_4_are_accepted(path: str) -> None:
    request = signed("s3", "GET", f"http://h{path}", b"", signer=botocore.auth.S3SigV4QueryAuth, expires=60)
    verdict = authenticate(request, RING, datetime.now(UTC))
    assert (verdict.payload, verdict.presigned, verdict.service) == (PayloadMode.UNSIGNED, True, "s3")


@pytest.mark.parametrize("url", ["http://h/b/k", "http://h/b/a%20b?versionId=1&acl", "http://b.s3.localhost/k%2Bx"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize("key", [KEY, SESSION], ids=["key", "session"])
def test_presigned_urls_of_version_2_are_accepted(url: str, method: str, key: Credential) -> None:
    signer = botocore.auth.HmacV1QueryAuth
    if "s3.localhost" in url:  # a virtual host: the resource is signed as /bucket/key
        request = version_2_of_virtual_host(method, key)
    else:
        request = signed("s3", method, url, b"", {"content-type": "text/csv"}, key, signer, expires=60)
        request = changed(request, content_type=None)
    verdict = authenticate(request, RING, datetime.now(UTC))
    assert (verdict.access_key_id, verdict.service, verdict.payload) == (key.access_key_id, "s3", PayloadMode.UNSIGNED)
    assert code_of(request, allow_sigv2=False) == "InvalidRequest"
    assert code_of(request, NOW + timedelta(seconds=70)) == "AccessDenied"
    assert code_of(Request("DELETE", request.target, request.headers, b"")) == "AccessDenied"
    assert code_of(
        Request(method, request.target.replace(b"/k", b"/j", 1).replace(b"/a%", b"/c%"), request.headers)
    ) in ("SignatureDoesNotMatch",)


def version_2_of_virtual_host(method: str, key: Credential) -> Request:
    made = AWSRequest(method=method, url="http://b.s3.localhost/k%2Bx", data=b"")
    made.auth_path = "/b/k%2Bx"
    botocore.auth.HmacV1QueryAuth(
        Credentials(key.access_key_id, key.secret_access_key, key.session_token), expires=60
    ).add_auth(made)
    split = urlsplit(made.url)
    return Request(method, f"{split.path}?{split.query}".encode(), ((b"host", b"b.s3.localhost"),), b"")


def test_utf8_in_a_signed_header_is_verified_as_received() -> None:
    request = signed(headers={"X-Amzn-SageMaker-Custom-Attributes": "größe €"})
    assert authenticate(request, RING, datetime.now(UTC)).service == "sagemaker"


def test_a_session_is_accepted_with_its_token_and_until_it_expires() -> None:
    request = signed(key=SESSION)
    assert authenticate(request, RING, datetime.now(UTC)).access_key_id == SESSION.access_key_id
    presigned = signed("s3", "GET", "http://h/b/k", b"", key=SESSION, signer=botocore.auth.S3SigV4QueryAuth)
    assert authenticate(presigned, RING, datetime.now(UTC)).presigned
    late = NOW + timedelta(hours=2)
    stale = signed(key=SESSION)

    class Stale:
        def find(self, access_key_id: str) -> Credential | None:
            return Credential(SESSION.access_key_id, SESSION.secret_access_key, "token-1", NOW - timedelta(seconds=1))

    with pytest.raises(WireError) as caught:
        authenticate(stale, Stale(), datetime.now(UTC))
    assert caught.value.code == "ExpiredTokenException"
    assert code_of(request, late) == "RequestTimeTooSkewed"


def test_a_token_is_refused_on_a_permanent_key_and_required_on_a_session() -> None:
    with_token = Credential(KEY.access_key_id, KEY.secret_access_key, "made-up")
    assert code_of(signed(key=with_token)) == "UnrecognizedClientException"
    without = Credential(SESSION.access_key_id, SESSION.secret_access_key)
    assert code_of(signed(key=without)) == "UnrecognizedClientException"
    wrong = Credential(SESSION.access_key_id, SESSION.secret_access_key, "token-2")
    assert code_of(signed(key=wrong)) == "UnrecognizedClientException"
    assert code_of(signed("s3", key=wrong)) == "InvalidToken"


@pytest.mark.parametrize("key", [Credential("NOBODY", "secret"), OFF], ids=["unknown", "switched off"])
def test_an_unknown_or_disabled_key_is_refused_with_the_hint(key: Credential) -> None:
    assert code_of(signed(key=key)) == "UnrecognizedClientException"
    assert code_of(signed("s3", key=key)) == "InvalidAccessKeyId"
    with pytest.raises(WireError) as caught:
        authenticate(signed(key=key), RING, datetime.now(UTC))
    assert caught.value.message.endswith(KEY_HINT)
    assert caught.value.status == 403


def test_a_wrong_secret_is_refused() -> None:
    key = Credential(KEY.access_key_id, "wrong")
    assert code_of(signed(key=key)) == "InvalidSignatureException"
    assert code_of(signed("s3", key=key)) == "SignatureDoesNotMatch"


def test_an_unsigned_request_is_refused() -> None:
    assert code_of(Request("GET", b"/", ((b"host", b"h"),))) == "MissingAuthenticationToken"


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_more_than_fifteen_minutes_off_is_refused(minutes: int) -> None:
    assert code_of(signed(), NOW + timedelta(minutes=minutes)) == "RequestTimeTooSkewed"


@pytest.mark.parametrize("minutes", [-14, 14])
def test_a_clock_less_than_fifteen_minutes_off_is_accepted(minutes: int) -> None:
    assert authenticate(signed(), RING, NOW + timedelta(minutes=minutes)).service == "sagemaker"


HEADER_CASES: list[tuple[str, dict[str, str | None], str]] = [
    ("an unsigned header that changes the meaning", {"x_amz_copy_source": "/b/k"}, "InvalidSignatureException"),
    ("an unsigned sagemaker header", {"x_amzn_sagemaker_target_variant": "v"}, "InvalidSignatureException"),
    ("another host", {"host": "evil"}, "InvalidSignatureException"),
    ("no date", {"x_amz_date": None}, "IncompleteSignature"),
    ("a date that is none", {"x_amz_date": "yesterday"}, "IncompleteSignature"),
    ("no host", {"host": None}, "InvalidSignatureException"),
    ("version 2", {"authorization": "AWS AKIDEXAMPLE:abc"}, "IncompleteSignature"),
    ("another scheme", {"authorization": "Bearer abc"}, "IncompleteSignature"),
    ("an empty header", {"authorization": ""}, "IncompleteSignature"),
    ("a very long header", {"authorization": "AWS4-HMAC-SHA256 " + "a" * 9000}, "IncompleteSignature"),
]


@pytest.mark.parametrize(("case", "headers", "code"), HEADER_CASES, ids=[case[0] for case in HEADER_CASES])
def test_a_request_with_changed_headers_is_refused(case: str, headers: dict[str, str | None], code: str) -> None:
    assert code_of(changed(signed(), **headers)) == code


AUTHORIZATIONS = [
    ("Credential=AKIDEXAMPLE/20260101/r/s/aws4_request, SignedHeaders=host", "IncompleteSignature"),
    ("Credential=AKIDEXAMPLE/20260101/r/s/aws5_request, SignedHeaders=host, Signature=a", "IncompleteSignature"),
    ("Credential=AKIDEXAMPLE/2026011/r/s/aws4_request, SignedHeaders=host, Signature=a", "IncompleteSignature"),
    ("Credential=AKIDEXAMPLE/20260101//s/aws4_request, SignedHeaders=host, Signature=a", "IncompleteSignature"),
    ("Credential=AKIDEXAMPLE, SignedHeaders=host, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=x-amz-date;host, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=host;host, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=Host, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=x-amz-date, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=, Signature=a", "IncompleteSignature"),
    ("Credential=A/20260101/r/s3/aws4_request, SignedHeaders=x-amz-date, Signature=a", "AuthorizationHeaderMalformed"),
    ("Credential=A/20260101/r/s/aws4_request, Credential=A/20260101/r/s/aws4_request, SignedHeaders=host, Signature=a",
     "IncompleteSignature"),
    ("Credential=A/20260101/r/s/aws4_request, SignedHeaders=host, Other=1, Signature=a", "IncompleteSignature"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code"), AUTHORIZATIONS)
def test_a_malformed_authorization_is_refused(fields: str, code: str) -> None:
    assert code_of(changed(signed(), authorization=f"AWS4-HMAC-SHA256 {fields}")) == code


def test_the_order_of_the_authorizations_parts_does_not_matter() -> None:
    request = signed()
    value = request.header("authorization") or ""
    algorithm, _, fields = value.partition(" ")
    turned = ",".join(reversed([field.strip() for field in fields.split(",")]))
    assert (
        authenticate(changed(request, authorization=f"{algorithm} {turned}"), RING, datetime.now(UTC)).service
        == "sagemaker"
    )


def test_the_scopes_day_must_be_the_dates_day() -> None:
    request = signed()
    day = f"{NOW:%Y%m%d}"
    other = f"{NOW - timedelta(days=1):%Y%m%d}"
    value = (request.header("authorization") or "").replace(f"/{day}/", f"/{other}/")
    assert code_of(changed(request, authorization=value)) == "InvalidSignatureException"


@pytest.mark.parametrize("name", ["authorization", "host", "x-amz-date", "x-amz-security-token"])
def test_a_repeated_header_is_refused(name: str) -> None:
    request = signed(key=SESSION)
    twice = (*request.headers, (name.encode(), (request.header(name) or "").encode()))
    assert code_of(Request(request.method, request.target, twice, request.body)) == "IncompleteSignature"


def test_two_ways_to_sign_at_once_are_refused() -> None:
    presigned = signed("s3", "GET", "http://h/b/k", b"", signer=botocore.auth.S3SigV4QueryAuth)
    both = changed(presigned, authorization="AWS4-HMAC-SHA256 Credential=a")
    assert code_of(both) == "InvalidArgument"
    twice = Request("GET", presigned.target + b"&X-Amz-Date=1", presigned.headers)
    assert code_of(twice) == "AuthorizationQueryParametersError"
    mixed = Request("GET", presigned.target + b"&AWSAccessKeyId=a&Signature=b&Expires=9", presigned.headers)
    assert code_of(mixed) == "InvalidArgument"


def test_a_presigned_url_ends_and_cannot_be_stretched() -> None:
    request = signed("s3", "GET", "http://h/b/k", b"", signer=botocore.auth.S3SigV4QueryAuth, expires=60)
    assert code_of(request, NOW + timedelta(seconds=70)) == "AccessDenied"
    assert code_of(request, NOW - timedelta(minutes=16)) == "RequestTimeTooSkewed"
    stretched = Request("GET", request.target.replace(b"Expires=60", b"Expires=600"), request.headers)
    assert code_of(stretched) == "SignatureDoesNotMatch"
    endless = Request("GET", request.target.replace(b"Expires=60", b"Expires=604801"), request.headers)
    assert code_of(endless) == "AuthorizationQueryParametersError"
    added = Request("GET", request.target + b"&versionId=1", request.headers)
    assert code_of(added) == "SignatureDoesNotMatch"
    assert code_of(changed(request, x_amz_meta_a="b")) == "AccessDenied"


def test_an_unsigned_body_needs_a_secure_transport() -> None:
    class Unsigned(botocore.auth.S3SigV4Auth):
        def _should_sha256_sign_payload(self, request: Any) -> bool:
            return False

    request = signed("s3", "PUT", "https://h/b/k", b"x", signer=Unsigned)
    assert authenticate(request, RING, datetime.now(UTC), secure_transport=True).payload is PayloadMode.UNSIGNED
    assert code_of(request) == "AccessDenied"


def test_s3_needs_the_content_hash_and_knows_its_forms() -> None:
    assert code_of(signed("s3", signer=botocore.auth.SigV4Auth)) == "InvalidRequest"
    request = signed("s3", "PUT", "http://h/b/k")
    assert code_of(changed(request, x_amz_content_sha256="abc")) == "InvalidArgument"
    assert (
        code_of(changed(request, x_amz_content_sha256="STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")) == "InvalidArgument"
    )


def test_a_body_that_is_not_the_signed_one_is_refused() -> None:
    verdict = authenticate(signed("s3", "PUT", "http://h/b/k", b"hello"), RING, datetime.now(UTC))
    check_payload(verdict, sha256(b"hello").hexdigest())
    with pytest.raises(WireError) as caught:
        check_payload(verdict, sha256(b"hellO").hexdigest())
    assert caught.value.code == "XAmzContentSHA256Mismatch"


def test_the_scope_can_be_read_without_verifying() -> None:
    for request in (signed(), changed(signed(), x_amz_date="nonsense")):
        scope = scope_of(request)
        assert scope is not None
        assert (scope.service, scope.region, scope.access_key_id) == ("sagemaker", "eu-west-1", KEY.access_key_id)
    presigned = scope_of(signed("s3", "GET", "http://h/b/k", b"", signer=botocore.auth.S3SigV4QueryAuth))
    assert presigned is not None
    assert presigned.service == "s3"
    version_2 = scope_of(Request("GET", b"/b/k?AWSAccessKeyId=A&Signature=x&Expires=1", ()))
    assert version_2 is not None
    assert (version_2.service, version_2.access_key_id) == ("s3", "A")
    assert scope_of(Request("GET", b"/b/k?x=1", ((b"authorization", b"Bearer x"),))) is None
    assert scope_of(Request("GET", b"/b/k", ())) is None
    assert scope_of(Request("GET", b"/b/k?xAWSAccessKeyId=1", ())) is None


SAMPLES = [
    signed(body=b"1,2,3\n"),
    signed("s3", "PUT", "http://h/b/some/key?tagging&x=1", b"<a/>", {"x-amz-meta-a": "1"}),
    signed("s3", "GET", "http://h/b/k?versionId=7", b"", signer=botocore.auth.S3SigV4QueryAuth, expires=60),
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_in_what_is_signed_is_refused(data: st.DataObject) -> None:
    request = data.draw(st.sampled_from(SAMPLES))
    flip = data.draw(st.integers(1, 255))
    places: list[tuple[int, int]] = [(-1, at) for at in range(len(request.target))]
    unsigned = {b"authorization", b"user-agent", b"content-length", b"accept", b"connection"}
    places += [
        (number, at)
        for number, (name, value) in enumerate(request.headers)
        if name not in unsigned
        for at in range(len(value))
    ]
    number, at = data.draw(st.sampled_from(places))
    headers, target = list(request.headers), request.target
    if number < 0:
        target = target[:at] + bytes([target[at] ^ flip]) + target[at + 1 :]
    else:
        name, value = headers[number]
        headers[number] = (name, value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :])
    mutated = Request(request.method, target, tuple(headers), request.body)
    if same_meaning(request, mutated):
        return
    with pytest.raises(WireError):
        authenticate(mutated, RING, datetime.now(UTC))


def same_meaning(one: Request, other: Request) -> bool:
    """Spellings that mean the same to every reader: %7E and ~, a dropped empty query part, blanks around a value."""

    def reading(request: Request) -> tuple[Any, ...]:
        headers = {name: b" ".join(value.split()) for name, value in request.headers}
        is_s3 = b"/b/" in request.target[:3]
        return canonical_path(request.raw_path, is_s3), canonical_query(request.raw_query), headers

    return reading(one) == reading(other)
