"""Objects through boto3: bytes, metadata, ranges, conditions, deletes."""

from __future__ import annotations

import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from served import Served

from clary.store.checksums import ChecksumAlgorithm, running

SIZES = [0, 1, 65_536, 512 * 1024 - 1, 512 * 1024, 512 * 1024 + 1, 3_000_001]


def status_of(error: pytest.ExceptionInfo[ClientError]) -> int:
    return int(error.value.response["ResponseMetadata"]["HTTPStatusCode"])


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_comes_back_byte_for_byte(s3: Any, bucket: str, size: int) -> None:
    data = os.urandom(size)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data)
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["ContentLength"] == size
    assert got["Body"].read() == data
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == size


@pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
def test_every_checksum_is_kept_and_given_back(s3: Any, bucket: str, algorithm: ChecksumAlgorithm) -> None:
    name = f"Checksum{algorithm}"
    value = checksum(algorithm, b"some bytes")
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"some bytes", **{name: value})
    assert put[name] == value
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == b"some bytes"
    assert (got[name], got["ChecksumType"]) == (put[name], "FULL_OBJECT")
    assert name not in served_without(s3, bucket)
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert listed["ChecksumAlgorithm"] == [algorithm]


def checksum(algorithm: ChecksumAlgorithm, data: bytes) -> str:
    made = running(algorithm)
    made.update(data)
    return base64.b64encode(made.digest()).decode()


def served_without(s3: Any, bucket: str) -> Any:
    """Part of an object must not carry the checksum of the whole."""
    return s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED", Range="bytes=0-3")


def test_metadata_and_headers_come_back_and_may_be_overridden(s3: Any, bucket: str) -> None:
    expires = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    s3.put_object(
        Bucket=bucket,
        Key="k",
        Body=b"{}",
        ContentType="application/json",
        CacheControl="no-store",
        ContentDisposition='attachment; filename="a.json"',
        ContentEncoding="gzip",
        ContentLanguage="de",
        Expires=expires,
        Metadata={"Colour": "green", "size": "9"},
        StorageClass="STANDARD_IA",
        Tagging="a=1&b=two%20words",
    )
    for found in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert found["ContentType"] == "application/json"
        assert found["CacheControl"] == "no-store"
        assert found["ContentDisposition"] == 'attachment; filename="a.json"'
        assert found["ContentEncoding"] == "gzip"
        assert found["ContentLanguage"] == "de"
        assert found["Expires"] == expires
        assert found["Metadata"] == {"colour": "green", "size": "9"}
        assert found["StorageClass"] == "STANDARD_IA"
        assert found["ResponseMetadata"]["HTTPHeaders"].get("x-amz-tagging-count", "2") == "2"
    asked = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="text/x", ResponseCacheControl="private")
    assert (asked["ContentType"], asked["CacheControl"]) == ("text/x", "private")
    s3.put_object(Bucket=bucket, Key="plain", Body=b"")
    assert s3.head_object(Bucket=bucket, Key="plain")["ContentType"] == "binary/octet-stream"


def test_an_override_cannot_smuggle_in_a_header(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", ResponseContentType="text/x\r\nSet-Cookie: a=b")
    assert code_of(error) == "InvalidArgument"


def test_too_much_metadata_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"", Metadata={"a": "x" * 2048})
    assert code_of(error) == "MetadataTooLarge"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("bytes=7-", 7, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("bytes=8-99", 8, 10),
    ],
)
def test_a_range_gives_those_bytes(s3: Any, bucket: str, asked: str, start: int, end: int) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == f"bytes {start}-{end - 1}/10"
    assert got["Body"].read() == b"0123456789"[start:end]
    head = s3.head_object(Bucket=bucket, Key="k", Range=asked)
    assert (head["ContentLength"], head["ResponseMetadata"]["HTTPStatusCode"]) == (end - start, 206)


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-"])
def test_a_range_that_s3_does_not_read_gives_the_whole_object(s3: Any, bucket: str, asked: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    got = s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert got["Body"].read() == b"0123456789"


@pytest.mark.parametrize(("body", "asked"), [(b"0123456789", "bytes=10-"), (b"", "bytes=0-"), (b"12", "bytes=-0")])
def test_a_range_outside_the_object_is_416(s3: Any, bucket: str, body: bytes, asked: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", Range=asked)
    assert (code_of(error), status_of(error)) == ("InvalidRange", 416)
    assert error.value.response["Error"]["ActualObjectSize"] == str(len(body))


def test_reads_obey_their_conditions(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    before, after = modified - timedelta(hours=1), modified + timedelta(hours=1)
    where = {"Bucket": bucket, "Key": "k"}
    for passing in (
        {"IfMatch": etag},
        {"IfMatch": "*"},
        {"IfMatch": f'"other", {etag}'},
        {"IfMatch": etag, "IfUnmodifiedSince": before},
        {"IfNoneMatch": '"other"'},
        {"IfNoneMatch": '"other"', "IfModifiedSince": modified},
        {"IfModifiedSince": before},
        {"IfModifiedSince": after},  # the future says nothing
        {"IfUnmodifiedSince": modified},
    ):
        assert s3.get_object(**where, **passing, Range="bytes=3-4")["Body"].read() == b"34"
    for failing, status in (
        ({"IfMatch": '"other"'}, 412),
        ({"IfUnmodifiedSince": before}, 412),
        ({"IfNoneMatch": etag}, 304),
        ({"IfNoneMatch": etag, "IfModifiedSince": before}, 304),
        ({"IfModifiedSince": modified}, 304),
    ):
        for call in (s3.get_object, s3.head_object):
            with pytest.raises(ClientError) as error:
                call(**where, **failing)
            assert status_of(error) == status
    assert error.value.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == etag


def test_what_is_missing_is_told_by_name(s3: Any, bucket: str) -> None:
    with pytest.raises(s3.exceptions.NoSuchKey) as missing_key:
        s3.get_object(Bucket=bucket, Key="nothing/here")
    assert missing_key.value.response["Error"]["Key"] == "nothing/here"
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.get_object(Bucket="no-such-bucket", Key="k")
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.put_object(Bucket="no-such-bucket", Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=bucket, Key="nothing")
    assert (code_of(error), status_of(error)) == ("404", 404)


def test_a_new_object_only_if_there_is_none(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert (code_of(error), status_of(error)) == ("PreconditionFailed", 412)
    s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"4", IfMatch=etag)
    assert status_of(error) == 412
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="none", Body=b"4", IfMatch=etag)
    assert (code_of(error), status_of(error)) == ("NoSuchKey", 404)
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"4", IfNoneMatch=etag)
    assert (code_of(error), status_of(error)) == ("NotImplemented", 501)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"


def test_of_many_first_writers_exactly_one_wins(s3: Any, bucket: str) -> None:
    def write(number: int) -> bytes:
        try:
            s3.put_object(Bucket=bucket, Key="leader", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return error.response["Error"]["Code"].encode()
        return b"%d" % number

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(write, range(16)))
    won = [one for one in outcomes if one != b"PreconditionFailed"]
    assert len(won) == 1
    assert s3.get_object(Bucket=bucket, Key="leader")["Body"].read() == won[0]


def test_deleting_is_silent_about_what_is_not_there(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=bucket, Key="k", IfMatch='"other"')
    assert status_of(error) == 412
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    answer = s3.delete_object(Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_many_keys_are_deleted_at_once(s3: Any, bucket: str) -> None:
    for key in ("a", "b/../c", "d e&f"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    kept = s3.put_object(Bucket=bucket, Key="kept", Body=b"x")["ETag"]
    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={
            "Objects": [
                {"Key": "a"},
                {"Key": "b/../c"},
                {"Key": "d e&f"},
                {"Key": "never there"},
                {"Key": "kept", "ETag": '"other"'},
                {"Key": "é" * 513},
            ]
        },
    )
    assert {one["Key"] for one in answer["Deleted"]} == {"a", "b/../c", "d e&f", "never there"}
    assert {one["Code"] for one in answer["Errors"]} == {"PreconditionFailed", "KeyTooLongError"}
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "kept", "ETag": kept}], "Quiet": True})
    assert "Deleted" not in quiet
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    with pytest.raises(ClientError) as error:
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})
    assert code_of(error) == "MalformedXML"


def test_an_object_that_is_replaced_while_it_is_read_is_read_to_its_end(s3: Any, bucket: str) -> None:
    old = os.urandom(6_000_000)
    s3.put_object(Bucket=bucket, Key="k", Body=old)
    body = s3.get_object(Bucket=bucket, Key="k")["Body"]
    start = body.read(1000)
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    assert start + body.read() == old
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"


def test_a_bucket_of_another_region_is_served_from_here(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert served.client(region="ap-southeast-2").get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
