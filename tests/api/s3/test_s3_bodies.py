"""Bodies as they come over the wire: framing, digests, lengths, broken off and unsigned."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from raw_requests import SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER, Answer, put, put_chunked, send, sign
from served import Served

from clary.store.checksums import ChecksumAlgorithm, running

DATA = os.urandom(700_001)


def checksum(algorithm: str, data: bytes = DATA) -> str:
    made = running(ChecksumAlgorithm(algorithm))
    made.update(data)
    return base64.b64encode(made.digest()).decode()


def code_of(answer: Answer) -> str:
    return answer.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


def absent(s3: Any, bucket: str, key: str = "k") -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "404")
    return False


@pytest.mark.parametrize("mode", [SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER])
@pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
def test_every_chunked_mode_stores_the_content_only(
    served: Served, s3: Any, bucket: str, mode: str, algorithm: ChecksumAlgorithm
) -> None:
    name = f"x-amz-checksum-{algorithm.lower()}"
    value = checksum(algorithm)
    if mode == SIGNED:
        answer = put_chunked(
            served, bucket, "k", DATA, mode, headers={name: value, "content-encoding": "aws-chunked,gzip"}
        )
    else:
        answer = put_chunked(served, bucket, "k", DATA, mode, trailers={name: value})
    assert answer.status == 200, answer.body
    assert answer.headers[name] == value
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got.get("ContentEncoding") == ("gzip" if mode == SIGNED else None)
    assert got[f"Checksum{algorithm}"] == value
    assert got["ETag"] == f'"{hashlib.md5(DATA).hexdigest()}"'
    assert got["ContentLength"] == len(DATA)


def test_chunked_bodies_of_no_bytes_and_of_tiny_chunks_are_read(served: Served, s3: Any, bucket: str) -> None:
    assert put_chunked(served, bucket, "none", b"", UNSIGNED_TRAILER).status == 200
    assert put_chunked(served, bucket, "tiny", DATA[:5000], SIGNED, chunk_bytes=7).status == 200
    assert s3.get_object(Bucket=bucket, Key="tiny")["Body"].read() == DATA[:5000]
    assert s3.head_object(Bucket=bucket, Key="none")["ContentLength"] == 0


def flipped(framed: bytes) -> bytes:
    """One bit of the content turned over."""
    at = len(framed) // 2
    return framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :]


WRONG = {"x-amz-checksum-crc32": checksum("CRC32", b"other")}


@pytest.mark.parametrize(
    ("mode", "trailers", "spoil", "code"),
    [
        (UNSIGNED_TRAILER, WRONG, lambda framed: framed, "BadDigest"),
        (SIGNED_TRAILER, WRONG, lambda framed: framed, "BadDigest"),
        (UNSIGNED_TRAILER, {"x-amz-checksum-crc32": "short"}, lambda framed: framed, "InvalidRequest"),
        (SIGNED, {}, flipped, "SignatureDoesNotMatch"),
        (SIGNED, {}, lambda framed: framed[:-100], "IncompleteBody"),
        (UNSIGNED_TRAILER, {}, lambda framed: framed + b"more", "InvalidRequest"),
    ],
)
def test_a_spoiled_chunked_body_leaves_nothing(
    served: Served,
    s3: Any,
    bucket: str,
    mode: str,
    trailers: dict[str, str],
    spoil: Callable[[bytes], bytes],
    code: str,
) -> None:
    answer = put_chunked(served, bucket, "k", DATA, mode, trailers=trailers, spoil=spoil)
    assert (code_of(answer), answer.status // 100) == (code, 4)
    assert absent(s3, bucket)


@pytest.mark.parametrize("size", [10, 700_001])
@pytest.mark.parametrize(
    ("headers", "declared", "code"),
    [
        ({"content-md5": base64.b64encode(hashlib.md5(b"other").digest()).decode()}, None, "BadDigest"),
        ({"content-md5": "nonsense"}, None, "InvalidDigest"),
        ({}, hashlib.sha256(b"other").hexdigest(), "XAmzContentSHA256Mismatch"),
        ({"x-amz-checksum-sha256": checksum("SHA256", b"other")}, None, "BadDigest"),
        ({"x-amz-checksum-crc32c": checksum("CRC32C", b"other")}, None, "BadDigest"),
        ({"x-amz-checksum-crc64nvme": checksum("CRC64NVME", b"other")}, None, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAA"}, None, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-sha1": "x"}, None, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAA==", "x-amz-sdk-checksum-algorithm": "SHA1"}, None, "InvalidRequest"),
        ({"x-amz-checksum-xxhash64": "AAAAAA=="}, None, "NotImplemented"),
    ],
)
def test_a_body_that_is_not_what_was_claimed_leaves_nothing(
    served: Served, s3: Any, bucket: str, size: int, headers: dict[str, str], declared: str | None, code: str
) -> None:
    answer = put(served, bucket, "k", DATA[:size], headers, declared)
    assert code_of(answer) == code
    assert absent(s3, bucket)


def test_a_right_md5_is_accepted(served: Served, s3: Any, bucket: str) -> None:
    md5 = base64.b64encode(hashlib.md5(DATA).digest()).decode()
    assert put(served, bucket, "k", DATA, {"content-md5": md5}).status == 200
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == DATA


@pytest.mark.parametrize(
    "claim",
    [
        {"content-md5": base64.b64encode(hashlib.md5(b"other").digest()).decode()},
        *({f"x-amz-checksum-{one.lower()}": checksum(one, b"other")} for one in ChecksumAlgorithm),
    ],
)
def test_a_document_that_is_not_what_was_claimed_changes_nothing(
    served: Served, s3: Any, bucket: str, claim: dict[str, str]
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    document = b"<Delete><Object><Key>k</Key></Object></Delete>"
    path = f"/{bucket}?delete"
    right = {next(iter(claim)): _right(next(iter(claim)), document)}
    digest = hashlib.sha256(document).hexdigest()
    answer = send(served, "POST", path, sign(served, "POST", path, digest, claim), document)
    assert code_of(answer) == "BadDigest"
    assert not absent(s3, bucket)
    answer = send(served, "POST", path, sign(served, "POST", path, digest, right), document)
    assert answer.status == 200
    assert absent(s3, bucket)


def _right(header: str, document: bytes) -> str:
    if header == "content-md5":
        return base64.b64encode(hashlib.md5(document).digest()).decode()
    return checksum(header.rpartition("-")[2].upper(), document)


def test_a_put_without_a_length_is_411(served: Served, s3: Any, bucket: str) -> None:
    headers = sign(served, "PUT", f"/{bucket}/k", "UNSIGNED-PAYLOAD", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    text = f"PUT /{bucket}/k HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nTransfer-Encoding: chunked\r\n{head}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(text.encode() + b"1\r\nx\r\n0\r\n\r\n")
        answer = b""
        while b"</Error>" not in answer and (some := connection.recv(65_536)):
            answer += some
    assert answer.startswith(b"HTTP/1.1 411")
    assert b"<Code>MissingContentLength</Code>" in answer
    assert absent(s3, bucket)


@pytest.mark.parametrize("length", ["-1", "x", "1e3"])
def test_a_decoded_length_that_is_none_is_refused(served: Served, bucket: str, length: str) -> None:
    headers = {"x-amz-decoded-content-length": length}
    answer = put_chunked(served, bucket, "k", b"abc", UNSIGNED_TRAILER, headers=headers)
    assert (answer.status, code_of(answer)) == (400, "InvalidArgument")


def test_more_than_5_gib_in_one_put_is_refused_before_it_is_read(served: Served, bucket: str) -> None:
    size = 5 * 1024**3 + 1
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(size)}
    signed = sign(served, "PUT", f"/{bucket}/k", UNSIGNED_TRAILER, headers)
    answer = send(served, "PUT", f"/{bucket}/k", signed, b"0\r\n\r\n")
    assert (answer.status, code_of(answer)) == (400, "EntityTooLarge")


def test_a_refused_upload_is_answered_though_its_body_is_long(served: Served) -> None:
    for size in (100, 30_000_000):
        answer = put(served, "no-such-bucket", "k", bytes(size), declared="UNSIGNED-PAYLOAD")
        assert (answer.status, code_of(answer)) == (404, "NoSuchBucket")


def test_a_client_that_leaves_in_the_middle_leaves_nothing(served: Served, s3: Any, bucket: str) -> None:
    headers = sign(served, "PUT", f"/{bucket}/k", "UNSIGNED-PAYLOAD", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    text = f"PUT /{bucket}/k HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 9000000\r\n{head}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(text.encode() + DATA + DATA)
    temps = served.folder / "tmp"
    until(lambda: not list(temps.iterdir()))
    assert absent(s3, bucket)


def test_a_reader_that_leaves_lets_the_files_go(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=os.urandom(20_000_000))
    with served.objects.path_of(bucket, "k") as reader:
        file = reader.stretches[0].path
    body = s3.get_object(Bucket=bucket, Key="k")["Body"]
    assert body.read(1000)
    s3.delete_object(Bucket=bucket, Key="k")
    assert file.exists()  # somebody still reads it
    body.close()
    until(lambda: not file.exists())


def test_stalled_uploads_and_downloads_hold_up_nobody(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="large", Body=bytes(20_000_000))
    path = f"/{bucket}/stalled"
    headers = sign(served, "PUT", path, "UNSIGNED-PAYLOAD", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    text = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 9000000\r\n{head}\r\n"
    stalled = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    readers = [served.client().get_object(Bucket=bucket, Key="large")["Body"] for _ in range(20)]
    try:
        for connection in stalled:
            connection.sendall(text.encode() + DATA)
        for number in range(20):
            s3.put_object(Bucket=bucket, Key=f"quick-{number}", Body=DATA)
        assert s3.list_objects_v2(Bucket=bucket, Prefix="quick-")["KeyCount"] == 20
        assert s3.get_object(Bucket=bucket, Key="quick-7")["Body"].read() == DATA
    finally:
        for one in (*stalled, *readers):
            one.close()


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_early_refusal_does_not_spoil_the_connection(s3: Any, bucket: str) -> None:
    for _ in range(3):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=bucket, Key="k", Body=DATA, ServerSideEncryption="aws:kms:dsse")
        assert error.value.response["Error"]["Code"] == "NotImplemented"
        s3.put_object(Bucket=bucket, Key="k", Body=b"fine")
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"fine"


@pytest.mark.parametrize("path", ["/no-such-bucket", "/no-such-bucket/k", "/{bucket}/nothing"])
def test_head_errors_have_no_body(served: Served, bucket: str, path: str) -> None:
    path = path.format(bucket=bucket)
    empty = hashlib.sha256(b"").hexdigest()
    answer = send(served, "HEAD", path, sign(served, "HEAD", path, empty, {}))
    assert (answer.status, answer.body) == (404, b"")
    assert answer.headers["x-amz-request-id"]


def test_errors_name_code_resource_and_request(served: Served, bucket: str) -> None:
    path = f"/{bucket}/no%20thing"
    answer = send(served, "GET", path, sign(served, "GET", path, hashlib.sha256(b"").hexdigest(), {}))
    assert (answer.status, code_of(answer)) == (404, "NoSuchKey")
    assert f"<Resource>/{bucket}/no thing</Resource>".encode() in answer.body
    assert answer.headers["x-amz-request-id"].encode() in answer.body


@pytest.mark.parametrize("mode", [SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER])
def test_without_signatures_every_framing_is_still_read(unsigned: Served, mode: str) -> None:
    s3, name = unsigned.client(), unsigned.new_name()
    s3.create_bucket(Bucket=name)
    trailers = {} if mode == SIGNED else {"x-amz-checksum-crc32": checksum("CRC32")}
    answer = put_chunked(unsigned, name, "k", DATA, mode, trailers=trailers)
    assert answer.status == 200, answer.body
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == DATA


def test_a_bucket_may_stand_in_the_host(unsigned: Served) -> None:
    s3, name = unsigned.client(), unsigned.new_name()
    s3.create_bucket(Bucket=name)
    host = {"Host": f"{name}.s3.localhost:{unsigned.port}"}
    assert send(unsigned, "PUT", "/a/k", host, b"by host").status == 200
    assert send(unsigned, "GET", "/a/k", host).body == b"by host"
    assert s3.get_object(Bucket=name, Key="a/k")["Body"].read() == b"by host"


def test_without_signatures_a_wrong_digest_is_still_seen(unsigned: Served) -> None:
    s3, name = unsigned.client(), unsigned.new_name()
    s3.create_bucket(Bucket=name)
    answer = put(unsigned, name, "k", DATA, declared=hashlib.sha256(b"other").hexdigest())
    assert code_of(answer) == "XAmzContentSHA256Mismatch"
    assert absent(s3, name)
    plain = send(unsigned, "PUT", f"/{name}/curl", {}, b"no headers at all")
    assert plain.status == 200
    assert s3.get_object(Bucket=name, Key="curl")["Body"].read() == b"no headers at all"
