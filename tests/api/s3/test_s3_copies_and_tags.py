"""Copies, tags and what is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


@pytest.fixture
def source(s3: Any, bucket: str) -> dict[str, str]:
    s3.put_object(
        Bucket=bucket,
        Key="source",
        Body=b"bytes",
        ContentType="text/plain",
        Metadata={"a": "1"},
        Tagging="t=1",
    )
    return {"Bucket": bucket, "Key": "source"}


def tags_of(s3: Any, bucket: str, key: str) -> dict[str, str]:
    found = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_a_copy_keeps_or_replaces_metadata_and_tags_as_told(s3: Any, bucket: str, source: Any) -> None:
    result = s3.copy_object(Bucket=bucket, Key="kept", CopySource=source, Metadata={"ignored": "1"})
    assert result["CopyObjectResult"]["ETag"] == s3.head_object(**source)["ETag"]
    kept = s3.head_object(Bucket=bucket, Key="kept")
    assert (kept["ContentType"], kept["Metadata"]) == ("text/plain", {"a": "1"})
    assert tags_of(s3, bucket, "kept") == {"t": "1"}
    s3.copy_object(
        Bucket=bucket,
        Key="replaced",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"b": "2"},
        ContentType="text/csv",
        TaggingDirective="REPLACE",
        Tagging="u=2",
        ChecksumAlgorithm="SHA256",
        StorageClass="STANDARD_IA",
    )
    replaced = s3.get_object(Bucket=bucket, Key="replaced", ChecksumMode="ENABLED")
    assert (replaced["ContentType"], replaced["Metadata"]) == ("text/csv", {"b": "2"})
    assert replaced["StorageClass"] == "STANDARD_IA"
    assert replaced["ChecksumSHA256"]
    assert replaced["Body"].read() == b"bytes"
    assert tags_of(s3, bucket, "replaced") == {"u": "2"}


def test_a_copy_onto_itself_must_change_something(s3: Any, bucket: str, source: Any) -> None:
    with pytest.raises(ClientError) as error:
        s3.copy_object(**source, CopySource=source)
    assert code_of(error) == "InvalidRequest"
    s3.copy_object(**source, CopySource=source, MetadataDirective="REPLACE", Metadata={"new": "1"})
    assert s3.head_object(**source)["Metadata"] == {"new": "1"}
    s3.copy_object(**source, CopySource=source, StorageClass="GLACIER_IR")
    head = s3.head_object(**source)
    assert (head["StorageClass"], head["Metadata"]) == ("GLACIER_IR", {"new": "1"})


def test_a_copy_obeys_conditions_on_both_ends(s3: Any, bucket: str, source: Any) -> None:
    etag = s3.head_object(**source)["ETag"]
    past = datetime(2020, 1, 1, tzinfo=UTC)
    for failing in (
        {"CopySourceIfMatch": '"other"'},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfUnmodifiedSince": past},
    ):
        with pytest.raises(ClientError) as error:
            s3.copy_object(Bucket=bucket, Key="to", CopySource=source, **failing)
        assert code_of(error) == "PreconditionFailed"
    s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch=etag, IfNoneMatch="*")
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket=bucket, Key="to", CopySource=source, IfNoneMatch="*")
    assert code_of(error) == "PreconditionFailed"


@pytest.mark.parametrize(
    ("text", "code"),
    [("no-such-bucket/k", "NoSuchBucket"), ("{bucket}/nothing", "NoSuchKey"), ("onlyabucket", "InvalidRequest")],
)
def test_a_copy_from_nowhere_says_what_is_missing(s3: Any, bucket: str, text: str, code: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket=bucket, Key="to", CopySource=text.format(bucket=bucket))
    assert code_of(error) == code


def test_object_tags_are_replaced_read_and_removed(s3: Any, bucket: str, source: Any) -> None:
    tags = {"ü": "ö & ä", "empty": ""}
    tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
    s3.put_object_tagging(**source, Tagging={"TagSet": tag_set})
    assert tags_of(s3, bucket, "source") == tags
    s3.delete_object_tagging(**source)
    assert tags_of(s3, bucket, "source") == {}
    with pytest.raises(ClientError) as error:
        s3.get_object_tagging(Bucket=bucket, Key="nothing")
    assert code_of(error) == "NoSuchKey"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([("a", "1"), ("a", "2")], "InvalidTag"),
        ([("x" * 129, "1")], "InvalidTag"),
        ([("a", "x" * 257)], "InvalidTag"),
        ([("aws:mine", "1")], "InvalidTag"),
        ([(str(number), "") for number in range(11)], "BadRequest"),
    ],
)
def test_tags_have_limits(s3: Any, source: Any, tags: list[tuple[str, str]], code: str) -> None:
    tag_set = [{"Key": name, "Value": value} for name, value in tags]
    with pytest.raises(ClientError) as error:
        s3.put_object_tagging(**source, Tagging={"TagSet": tag_set})
    assert code_of(error) == code


def test_a_tagging_header_that_is_no_query_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging="no-equals")
    assert code_of(error) == "InvalidArgument"


def test_bucket_tags_are_kept(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.get_bucket_tagging(Bucket=bucket)
    assert code_of(error) == "NoSuchTagSet"
    tag_set = [{"Key": "team", "Value": "ml"}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tag_set})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tag_set
    s3.delete_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError):
        s3.get_bucket_tagging(Bucket=bucket)


@pytest.mark.parametrize(
    "member",
    [
        {"SSEKMSKeyId": "k", "ServerSideEncryption": "aws:kms"},
        {"ServerSideEncryption": "aws:kms:dsse"},
        {"ObjectLockMode": "GOVERNANCE"},
        {"WebsiteRedirectLocation": "/x"},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(s3: Any, bucket: str, member: dict[str, str]) -> None:
    for call in (s3.put_object, s3.create_multipart_upload):
        with pytest.raises(ClientError) as error:
            call(Bucket=bucket, Key="k", **member)
        assert code_of(error) == "NotImplemented"
        assert next(iter(member)) in str(error.value)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_encryption_with_the_stores_own_keys_passes_and_is_not_claimed(s3: Any, bucket: str, kind: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption=kind)
    assert "ServerSideEncryption" not in put
    assert "ServerSideEncryption" not in s3.head_object(Bucket=bucket, Key="k")


@pytest.mark.parametrize(
    "member",
    [{"ACL": "public-read"}, {"GrantRead": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'}],
)
def test_nothing_is_granted_to_others(s3: Any, bucket: str, member: dict[str, str]) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    for call in (
        lambda: s3.put_object(Bucket=bucket, Key="k", **member),
        lambda: s3.put_object_acl(Bucket=bucket, Key="k", **member),
        lambda: s3.put_bucket_acl(Bucket=bucket, **member),
        lambda: s3.create_bucket(Bucket="granted-bucket", **member),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == "AccessControlListNotSupported"
        assert next(iter(member)) in str(error.value)


def test_an_acl_that_says_what_holds_is_accepted(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    acl = s3.get_bucket_acl(Bucket=bucket)
    policy = {"Owner": acl["Owner"], "Grants": acl["Grants"]}
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    policy["Grants"] = [{**acl["Grants"][0], "Permission": "READ"}]
    with pytest.raises(ClientError) as error:
        s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    assert code_of(error) == "AccessControlListNotSupported"


def test_a_customers_key_is_refused_and_not_repeated(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="k", Body=b"", SSECustomerAlgorithm="AES256", SSECustomerKey="k" * 32)
    assert code_of(error) == "NotImplemented"
    assert "a2tra2tr" not in str(error.value)


def test_the_private_acl_is_the_only_one(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"", ACL="private")
    s3.put_object(Bucket=bucket, Key="k", Body=b"", ACL="bucket-owner-full-control")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=bucket, Key="k", VersionId="3")
    assert code_of(error) == "InvalidArgument"
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["ContentLength"] == 0
