"""Whatever bytes arrive, the answer is a parsed value or a WireError: never another exception."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clary.wire import catalog
from clary.wire.aws_chunked import ChunkDecoder
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.eventstream import FrameReader, event_frame
from clary.wire.http import Request
from clary.wire.protocols import decode, encode_error
from clary.wire.sigv4 import Credential, PayloadMode, Verdict, authenticate, scope_of
from clary.wire.validate import check

CALLS = {
    "json": Call("sagemaker", "json", catalog.operation("sagemaker", "CreateEndpointConfig")),
    "cbor": Call("cloudwatch", "smithy-rpc-v2-cbor", catalog.operation("cloudwatch", "PutMetricData")),
    "query": Call("cloudwatch", "query", catalog.operation("cloudwatch", "PutMetricData")),
    "ec2": Call("ec2", "ec2", catalog.operation("ec2", "DescribeSubnets")),
    "rest-xml": Call("s3", "rest-xml", catalog.operation("s3", "DeleteObjects"), {"Bucket": "b"}),
    "rest-json": Call("sagemaker-metrics", "rest-json", catalog.operation("sagemaker-metrics", "BatchPutMetrics")),
}
SEEDS = {
    "json": b'{"EndpointConfigName":"c","ProductionVariants":[{"InitialVariantWeight":1.5,"InitialInstanceCount":1}]}',
    "cbor": b"\xa1\x69Namespace\x61a\xa1\x6aMetricData\x81\xa1\x65Value\xfb\x00\x00\x00\x00\x00\x00\x00\x00",
    "query": b"Action=PutMetricData&Namespace=a&MetricData.member.1.Value=1&MetricData.member.1.Timestamp=2026-01-01",
    "ec2": b"Action=DescribeSubnets&SubnetId.1=a&Filter.1.Name=b&Filter.1.Value.1=c",
    "rest-xml": b"<Delete><Object><Key>a</Key><Size>1</Size></Object><Quiet>true</Quiet></Delete>",
    "rest-json": b'{"TrialComponentName":"t","MetricData":[{"MetricName":"a","Timestamp":1,"Value":2}]}',
}
FORM = ((b"content-type", b"application/x-www-form-urlencoded"),)


def mutated(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed with a slice replaced by arbitrary bytes: most of it stays meaningful."""
    return st.builds(
        lambda at, length, patch: seed[:at] + patch + seed[at + length :],
        st.integers(0, len(seed)),
        st.integers(0, 6),
        st.binary(max_size=6),
    )


@pytest.mark.parametrize("kind", CALLS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_body_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    call = CALLS[kind]
    body = data.draw(st.one_of(mutated(SEEDS[kind]), st.binary(max_size=60)))
    try:
        check(call, decode(call, Request("POST", b"/b?delete", FORM, body)))
    except WireError as error:
        response = encode_error(call, error, "id-1")
        assert 400 <= response.status < 500
        assert isinstance(response.body, bytes)


NAMES = [
    b"x-amz-target", b"content-type", b"smithy-protocol", b"host", b"authorization", b"x-amz-date",
    b"x-amz-content-sha256", b"x-amz-copy-source", b"content-length", b"x-amz-security-token", b"date",
]  # fmt: skip
VALUES = [
    b"SageMaker.CreateModel", b"application/x-www-form-urlencoded", b"rpc-v2-cbor", b"b.s3.x",
    b"AWS4-HMAC-SHA256 Credential=A/20260101/r/s3/aws4_request, SignedHeaders=host, Signature=b",
    b"20260101T000000Z", b"UNSIGNED-PAYLOAD", b"Mon, 99 Foo 2026",
]  # fmt: skip
HEADERS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(st.binary(max_size=40), st.sampled_from(VALUES))), max_size=6
)
PRESIGNED = (
    b"/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A/20260101/r/s3/aws4_request&X-Amz-Date=2026&"
    b"X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=a"
)
PLAIN = [
    b"/endpoints/a/invocations",
    b"/?Action=%ff",
    b"//",
    b"*",
    b"/b/k?AWSAccessKeyId=A&Signature=b&Expires=9999999999",
]
TARGETS = st.one_of(
    st.binary(max_size=40).map(lambda tail: b"/" + tail), st.sampled_from([PRESIGNED, *PLAIN]), mutated(PRESIGNED)
)


class Ring:
    def find(self, access_key_id: str) -> Credential | None:
        return Credential("A", "secret") if access_key_id == "A" else None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE", "BREW"]), TARGETS, HEADERS, st.binary(max_size=20))
@example("GET", b"/b/%ff", [], b"")
def test_any_request_is_routed_and_verified_or_refused(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    request = Request(method, target, tuple(headers), body)
    scope_of(request)
    refused(authenticate, request, Ring(), datetime(2026, 1, 1, tzinfo=UTC))
    for signing_name in (None, "sagemaker", "s3", "monitoring"):
        assert catalog.protocol_of(request, signing_name)
        refused(catalog.route, request, signing_name)


def refused(function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except WireError as error:
        encode_error(error.protocol or "rest-xml", error, "id-1")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=80), mutated(b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n")))
def test_any_chunked_body_is_decoded_or_refused(data: bytes) -> None:
    decoder = ChunkDecoder(
        Verdict("A", "r", "s3", PayloadMode.STREAMING_UNSIGNED_TRAILER), 5, frozenset({"x-amz-checksum-crc32"})
    )
    try:
        payload = b"".join(decoder.feed(data))
        decoder.finish()
    except WireError:
        return
    assert len(payload) == 5


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=80), mutated(event_frame("PayloadPart", b"hello"))))
def test_any_event_is_decoded_or_refused(data: bytes) -> None:
    try:
        frames = FrameReader().feed(data)
    except WireError:
        return
    assert len(frames) <= len(data) // 16  # a frame is at least its prelude and two checksums
