"""What of an S3 request goes on to another S3, and what of the answer comes back."""

from __future__ import annotations

import pytest

from clary.wire.http import Request
from clary.wire.s3_forwarding import UNSIGNED, UNSIGNED_TRAILER, chunk, last_chunk, outgoing, passed_back
from clary.wire.sigv4 import PayloadMode, Verdict

HASH = "a" * 64


def verdict(payload: PayloadMode, presigned: bool = False) -> Verdict:
    digest = HASH if payload is PayloadMode.SIGNED else None
    return Verdict("AKID", "us-east-1", "s3", payload, digest, None, presigned)


def request(target: str, method: str = "GET", **headers: str) -> Request:
    named = {"host": "127.0.0.1:8787", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(method, target.encode(), tuple((n.encode(), v.encode()) for n, v in named.items()))


def test_a_signature_ends_here_and_the_rest_goes_on() -> None:
    made = outgoing(
        request(
            "/b/a%20b+(1)?list-type=2&prefix=a+b%2Bc",
            authorization="AWS4-HMAC-SHA256 Credential=...",
            x_amz_date="20260304T050607Z",
            x_amz_content_sha256=HASH,
            x_amz_security_token="ours",
            x_amz_expected_bucket_owner="123456789012",
            x_amz_meta_a="1",
            range="bytes=0-1",
            if_none_match='"e"',
            cookie="no",
            user_agent="no",
            accept_encoding="no",
            content_length="0",
            expect="100-continue",
            connection="close",
        ),
        verdict(PayloadMode.SIGNED),
    )
    assert made.target == b"/b/a%20b%2B%281%29?list-type=2&prefix=a%20b%2Bc"
    assert dict(made.headers) == {b"x-amz-meta-a": b"1", b"range": b"bytes=0-1", b"if-none-match": b'"e"'}
    assert (made.payload_hash, made.is_chunked) == (HASH, False)


@pytest.mark.parametrize(
    ("mode", "payload_hash", "is_chunked", "encoding"),
    [
        (PayloadMode.SIGNED, HASH, False, b"gzip"),
        (PayloadMode.UNSIGNED, UNSIGNED, False, b"gzip"),
        (PayloadMode.STREAMING_SIGNED, UNSIGNED, False, b"gzip"),
        (PayloadMode.STREAMING_SIGNED_TRAILER, UNSIGNED_TRAILER, True, b"aws-chunked,gzip"),
        (PayloadMode.STREAMING_UNSIGNED_TRAILER, UNSIGNED_TRAILER, True, b"aws-chunked,gzip"),
    ],
)
def test_each_body_is_bound_to_the_new_signature(
    mode: PayloadMode, payload_hash: str, is_chunked: bool, encoding: bytes
) -> None:
    sent = request(
        "/b/k",
        "PUT",
        content_encoding="aws-chunked, gzip",
        x_amz_decoded_content_length="5",
        x_amz_trailer="x-amz-checksum-crc32",
    )
    made = outgoing(sent, verdict(mode))
    headers = dict(made.headers)
    assert (made.payload_hash, made.is_chunked, headers[b"content-encoding"]) == (payload_hash, is_chunked, encoding)
    kept = {b"x-amz-decoded-content-length", b"x-amz-trailer"} & set(headers)
    assert len(kept) == (2 if is_chunked else 0)


def test_a_presigned_url_loses_its_signature_and_keeps_what_it_says() -> None:
    four = "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=D&X-Amz-Expires=1&X-Amz-SignedHeaders=host"
    made = outgoing(
        request(f"/b/k?{four}&X-Amz-Signature=s&response-content-type=a%2Fb&x-amz-meta-m=v%201&versionId=7"),
        verdict(PayloadMode.UNSIGNED, presigned=True),
    )
    assert made.target == b"/b/k?response-content-type=a%2Fb&versionId=7"
    assert made.headers == ((b"x-amz-meta-m", b"v 1"),)
    two = outgoing(
        request("/b/k?AWSAccessKeyId=K&Signature=s&Expires=1&response-expires=x"),
        verdict(PayloadMode.UNSIGNED, presigned=True),
    )
    assert two.target == b"/b/k?response-expires=x"
    assert outgoing(request("/b/k?Expires=1"), verdict(PayloadMode.UNSIGNED)).target == b"/b/k?Expires=1"


@pytest.mark.parametrize(
    ("target", "expected"), [("/", b"/b"), ("/k%2Fl//m", b"/b/k%2Fl//m"), ("/k?acl", b"/b/k?acl=")]
)
def test_a_bucket_in_the_host_becomes_the_path(target: str, expected: bytes) -> None:
    sent = Request("GET", target.encode(), ((b"host", b"b.s3.localhost:8787"),))
    assert outgoing(sent, verdict(PayloadMode.UNSIGNED)).target == expected


def test_a_chunked_body_is_framed() -> None:
    framed = chunk(b"0123456789abcdef") + last_chunk({"x-amz-checksum-crc32": "AAAAAA=="})
    assert framed == b"10\r\n0123456789abcdef\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert last_chunk({}) == b"0\r\n\r\n"


def test_answers_come_back_less_what_was_for_the_next_hop() -> None:
    headers = [(b"ETag", b'"e"'), (b"Transfer-Encoding", b"chunked"), (b"Date", b"x"), (b"Content-Length", b"3")]
    assert passed_back(200, headers, b"abc").headers == [("ETag", '"e"')]
    assert passed_back(200, headers, b"").headers == [("ETag", '"e"'), ("Content-Length", "3")]  # of a HEAD
