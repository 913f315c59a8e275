"""Multipart uploads through boto3, the transfer manager included."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from clary.store.checksums import ChecksumAlgorithm, full_object, running

MIB = 1024 * 1024


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def checksum(algorithm: ChecksumAlgorithm, data: bytes) -> str:
    made = running(algorithm)
    made.update(data)
    return base64.b64encode(made.digest()).decode()


def test_the_transfer_manager_uploads_and_downloads_a_large_file(s3: Any, bucket: str, tmp_path: Any) -> None:
    data = os.urandom(21 * MIB + 17)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4)
    s3.upload_file(str(source), bucket, "models/big", Config=config, ExtraArgs={"Metadata": {"a": "b"}})
    head = s3.head_object(Bucket=bucket, Key="models/big")
    md5s = b"".join(hashlib.md5(data[at : at + 8 * MIB]).digest() for at in range(0, len(data), 8 * MIB))
    assert head["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    assert (head["ContentLength"], head["Metadata"]) == (len(data), {"a": "b"})
    s3.download_file(bucket, "models/big", str(target), Config=config)
    assert target.read_bytes() == data
    part = s3.get_object(Bucket=bucket, Key="models/big", PartNumber=2)
    assert part["PartsCount"] == 3
    assert part["ContentRange"] == f"bytes {8 * MIB}-{16 * MIB - 1}/{len(data)}"
    assert part["Body"].read() == data[8 * MIB : 16 * MIB]
    assert s3.head_object(Bucket=bucket, Key="models/big", PartNumber=3)["ContentLength"] == 5 * MIB + 17
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="models/big", PartNumber=4)
    assert code_of(error) == "InvalidPartNumber"
    across = s3.get_object(Bucket=bucket, Key="models/big", Range=f"bytes={8 * MIB - 5}-{8 * MIB + 4}")
    assert across["Body"].read() == data[8 * MIB - 5 : 8 * MIB + 5]


@pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
def test_parts_carry_checksums_and_the_whole_has_one(s3: Any, bucket: str, algorithm: ChecksumAlgorithm) -> None:
    name, parts = f"Checksum{algorithm}", [b"x" * (5 * MIB), b"the end"]
    where = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**where, ChecksumAlgorithm=algorithm)
    composite = algorithm is not ChecksumAlgorithm.CRC64NVME
    assert upload["ChecksumType"] == ("COMPOSITE" if composite else "FULL_OBJECT")
    done = []
    for number, part in enumerate(parts, 1):
        value = checksum(algorithm, part)
        answer = s3.upload_part(**where, UploadId=upload["UploadId"], PartNumber=number, Body=part, **{name: value})
        assert answer[name] == value
        done.append({"PartNumber": number, "ETag": answer["ETag"], name: value})
    listed = s3.list_parts(**where, UploadId=upload["UploadId"])
    assert [one[name] for one in listed["Parts"]] == [one[name] for one in done]
    answer = s3.complete_multipart_upload(
        **where, UploadId=upload["UploadId"], MultipartUpload={"Parts": done}, MpuObjectSize=5 * MIB + 7
    )
    if composite:
        digests = b"".join(base64.b64decode(one[name]) for one in done)
        assert answer[name] == f"{checksum(algorithm, digests)}-2"
    else:
        assert (
            answer[name]
            == full_object(algorithm, [(one[name], len(part)) for one, part in zip(done, parts, strict=True)]).value
        )
    assert s3.get_object(**where)["Body"].read() == b"".join(parts)


def test_a_part_with_another_checksum_than_the_uploads_is_refused(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "k"}
    upload_id = s3.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    with pytest.raises(ClientError) as error:
        s3.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA1")
    assert code_of(error) == "InvalidRequest"
    assert "expected checksum Type: sha256" in str(error.value)


def test_completing_needs_the_parts_as_they_were_uploaded(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "k"}
    upload_id = s3.create_multipart_upload(**where)["UploadId"]
    etags = [
        s3.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=body)["ETag"]
        for number, body in ((1, b"small"), (2, b"b" * (5 * MIB)), (3, b"last"))
    ]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    for wrong, code in (
        ([parts[2], parts[1]], "InvalidPartOrder"),
        ([{"PartNumber": 1, "ETag": '"0123456789abcdef0123456789abcdef"'}], "InvalidPart"),
        ([{"PartNumber": 9, "ETag": etags[0]}], "InvalidPart"),
        ([parts[0], parts[1]], "EntityTooSmall"),
        ([], "MalformedXML"),
    ):
        with pytest.raises(ClientError) as error:
            s3.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": wrong})
        assert code_of(error) == code
    done = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts[1:]}}
    first = s3.complete_multipart_upload(**where, **done)
    again = s3.complete_multipart_upload(**where, **done)
    assert first["ETag"] == again["ETag"]
    assert s3.get_object(**where)["Body"].read() == b"b" * (5 * MIB) + b"last"


def test_an_upload_is_listed_until_it_ends(s3: Any, bucket: str) -> None:
    first = s3.create_multipart_upload(Bucket=bucket, Key="a/1")["UploadId"]
    second = s3.create_multipart_upload(Bucket=bucket, Key="b c+d", StorageClass="GLACIER")["UploadId"]
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    found = [(one["Key"], one["UploadId"]) for page in pages for one in page.get("Uploads", [])]
    assert found == [("a/1", first), ("b c+d", second)]
    folded = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in folded["CommonPrefixes"]] == ["a/"]
    for number in (1, 2, 3):
        s3.upload_part(Bucket=bucket, Key="b c+d", UploadId=second, PartNumber=number, Body=b"%d" % number)
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=bucket, Key="b c+d", UploadId=second, PaginationConfig={"PageSize": 2}
    )
    assert [one["PartNumber"] for page in pages for one in page["Parts"]] == [1, 2, 3]
    assert s3.list_parts(Bucket=bucket, Key="b c+d", UploadId=second)["StorageClass"] == "GLACIER"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.abort_multipart_upload(Bucket=bucket, Key="b c+d", UploadId=second)
    for call in (
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="b c+d", UploadId=second),
        lambda: s3.upload_part(Bucket=bucket, Key="b c+d", UploadId=second, PartNumber=1, Body=b"x"),
        lambda: s3.list_parts(Bucket=bucket, Key="b c+d", UploadId=second),
    ):
        with pytest.raises(s3.exceptions.NoSuchUpload):
            call()


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers_are_1_to_10000(s3: Any, bucket: str, number: int) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    with pytest.raises(ClientError) as error:
        s3.upload_part(Bucket=bucket, Key="k", UploadId=upload_id, PartNumber=number, Body=b"x")
    assert code_of(error) == "InvalidArgument"


def test_parts_are_copied_from_objects(s3: Any, bucket: str) -> None:
    data = os.urandom(6 * MIB)
    etag = s3.put_object(Bucket=bucket, Key="source é", Body=data)["ETag"]
    where = {"Bucket": bucket, "Key": "k"}
    upload_id = s3.create_multipart_upload(**where)["UploadId"]
    source = {"Bucket": bucket, "Key": "source é"}
    copied = [
        s3.upload_part_copy(**where, UploadId=upload_id, PartNumber=number, CopySource=source, **more)["CopyPartResult"]
        for number, more in (
            (1, {"CopySourceRange": f"bytes=0-{5 * MIB - 1}"}),
            (2, {"CopySourceRange": f"bytes={5 * MIB}-{6 * MIB - 1}", "CopySourceIfMatch": etag}),
        )
    ]
    for more, code in (
        ({"CopySourceRange": "bytes=5-"}, "InvalidArgument"),
        ({"CopySourceRange": f"bytes=0-{6 * MIB}"}, "InvalidArgument"),
        ({"CopySourceIfNoneMatch": etag}, "PreconditionFailed"),
    ):
        with pytest.raises(ClientError) as error:
            s3.upload_part_copy(**where, UploadId=upload_id, PartNumber=3, CopySource=source, **more)
        assert code_of(error) == code
    parts = [{"PartNumber": number, "ETag": one["ETag"]} for number, one in enumerate(copied, 1)]
    s3.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})
    assert s3.get_object(**where)["Body"].read() == data


def test_a_large_copy_goes_through_the_transfer_manager(s3: Any, bucket: str) -> None:
    data = os.urandom(9 * MIB)
    s3.upload_fileobj(io.BytesIO(data), bucket, "from")
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.copy({"Bucket": bucket, "Key": "from"}, bucket, "to", Config=config)
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == data


def test_a_conditional_completion_loses_to_an_object_that_is_there(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "k"}
    upload_id = s3.create_multipart_upload(**where)["UploadId"]
    etag = s3.upload_part(**where, UploadId=upload_id, PartNumber=1, Body=b"new")["ETag"]
    s3.put_object(**where, Body=b"old")
    done = {"UploadId": upload_id, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}
    with pytest.raises(ClientError) as error:
        s3.complete_multipart_upload(**where, **done, IfNoneMatch="*")
    assert code_of(error) == "PreconditionFailed"
    s3.complete_multipart_upload(**where, **done)
    assert s3.get_object(**where)["Body"].read() == b"new"
