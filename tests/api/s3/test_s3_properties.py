"""Versioning, grants, attributes, and settings that were never made."""

from __future__ import annotations

import os
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clary.services.s3.properties import UNSET


def test_a_bucket_says_truthfully_what_it_is(s3: Any, bucket: str) -> None:
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    acl = s3.get_bucket_acl(Bucket=bucket)
    assert [(one["Grantee"]["ID"], one["Permission"]) for one in acl["Grants"]] == [
        (acl["Owner"]["ID"], "FULL_CONTROL")
    ]
    assert acl["Grants"][0]["Grantee"]["Type"] == "CanonicalUser"
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert s3.get_object_acl(Bucket=bucket, Key="k")["Grants"] == acl["Grants"]
    rules = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert rules == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    for call in (s3.get_bucket_versioning, s3.get_bucket_acl, s3.get_bucket_policy):
        with pytest.raises(ClientError) as error:
            call(Bucket="no-such-bucket")
        assert error.value.response["Error"]["Code"] == "NoSuchBucket"


@pytest.mark.parametrize("operation", sorted(UNSET))
def test_a_setting_that_was_never_made_is_told_as_missing(s3: Any, bucket: str, operation: str) -> None:
    method = {python: name for python, name in s3.meta.method_to_api_mapping.items() if name == operation}
    with pytest.raises(ClientError) as error:
        getattr(s3, next(iter(method)))(Bucket=bucket)
    answer = error.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (UNSET[operation][1], 404)


def test_attributes_are_those_asked_for(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"12345", ChecksumAlgorithm="SHA1")["ETag"]
    found = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    )
    assert (found["ETag"], found["ObjectSize"], found["StorageClass"]) == (etag.strip('"'), 5, "STANDARD")
    assert found["Checksum"]["ChecksumType"] == "FULL_OBJECT"
    assert "ObjectParts" not in found
    assert "ETag" not in s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectSize"])


def test_attributes_tell_the_parts_of_an_upload(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "k"}
    upload_id = s3.create_multipart_upload(**where, ChecksumAlgorithm="CRC32")["UploadId"]
    bodies = [os.urandom(5 * 1024 * 1024), os.urandom(5 * 1024 * 1024), b"end"]
    parts = []
    for number, body in enumerate(bodies, 1):
        answer = s3.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=body, ChecksumAlgorithm="CRC32")
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    s3.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})
    found = s3.get_object_attributes(**where, ObjectAttributes=["ObjectParts"], MaxParts=2)["ObjectParts"]
    assert (found["TotalPartsCount"], found["IsTruncated"], found["NextPartNumberMarker"]) == (3, True, 2)
    assert [one["ChecksumCRC32"] for one in found["Parts"]] == [one["ChecksumCRC32"] for one in parts[:2]]
    rest = s3.get_object_attributes(**where, ObjectAttributes=["ObjectParts"], PartNumberMarker=2)["ObjectParts"]
    assert [(one["PartNumber"], one["Size"]) for one in rest["Parts"]] == [(3, 3)]
