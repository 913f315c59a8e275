"""Buckets: names, regions, owners."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from served import ACCOUNT, NOBODY, Fronted, Served


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_bucket_is_created_found_listed_and_deleted(served: Served, s3: Any) -> None:
    name = served.new_name()
    created = s3.create_bucket(Bucket=name)
    assert created["Location"] == f"/{name}"
    assert s3.head_bucket(Bucket=name)["BucketRegion"] == "us-east-1"
    assert name in [one["Name"] for one in s3.list_buckets()["Buckets"]]
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    s3.delete_bucket(Bucket=name)
    with pytest.raises(ClientError) as error:
        s3.head_bucket(Bucket=name)
    assert code_of(error) == ("404", 404)


def test_creating_again_is_fine_in_us_east_1_and_a_conflict_elsewhere(own: Served) -> None:
    s3 = own.client()
    name, european = own.new_name(), own.new_name()
    s3.create_bucket(Bucket=name)
    s3.create_bucket(Bucket=name)
    there = own.client(region="eu-west-1")
    configuration = {"LocationConstraint": "eu-west-1"}
    there.create_bucket(Bucket=european, CreateBucketConfiguration=configuration)
    assert there.get_bucket_location(Bucket=european)["LocationConstraint"] == "eu-west-1"
    with pytest.raises(ClientError) as error:
        there.create_bucket(Bucket=european, CreateBucketConfiguration=configuration)
    assert code_of(error) == ("BucketAlreadyOwnedByYou", 409)


@pytest.mark.parametrize("constraint", [None, "eu-west-2"])
def test_a_region_creates_buckets_only_in_itself(own: Served, constraint: str | None) -> None:
    there = own.client(region="eu-west-1")
    more = {} if constraint is None else {"CreateBucketConfiguration": {"LocationConstraint": constraint}}
    with pytest.raises(ClientError) as error:
        there.create_bucket(Bucket=own.new_name(), **more)
    assert code_of(error) == ("IllegalLocationConstraintException", 400)


@pytest.mark.parametrize("name", ["Upper", "ab", "a..b", "192.168.0.1", "-start", "xn--name"])
def test_bucket_names_follow_the_rules_of_s3(s3: Any, name: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket=name)
    assert code_of(error) == ("InvalidBucketName", 400)


def test_a_bucket_with_objects_cannot_be_deleted(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=bucket)
    assert code_of(error) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)


def test_buckets_are_listed_in_pages_with_prefix_and_region(served: Served, s3: Any) -> None:
    names = [f"paged-{number}" for number in range(5)]
    for name in names:
        s3.create_bucket(Bucket=name)
    pages = list(s3.get_paginator("list_buckets").paginate(Prefix="paged-", PaginationConfig={"PageSize": 2}))
    assert [[one["Name"] for one in page["Buckets"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    assert len(pages[0]["Owner"]["ID"]) == 64
    assert s3.list_buckets(Prefix="paged-", BucketRegion="eu-west-1").get("Buckets", []) == []


def test_another_expected_owner_is_refused_on_every_kind_of_call(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ExpectedBucketOwner=ACCOUNT)
    other = {"Bucket": bucket, "ExpectedBucketOwner": "999999999999"}
    for call in (
        lambda: s3.get_object(Key="k", **other),
        lambda: s3.put_object(Key="k", Body=b"y", **other),
        lambda: s3.list_objects_v2(**other),
        lambda: s3.delete_objects(Delete={"Objects": [{"Key": "k"}]}, **other),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == ("AccessDenied", 403)
    with pytest.raises(ClientError) as error:
        s3.head_bucket(**other)
    assert code_of(error) == ("403", 403)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_bucket_that_is_missing_has_no_owner(own: Served) -> None:
    with pytest.raises(ClientError) as error:
        own.client().list_objects_v2(Bucket="not-there", ExpectedBucketOwner="999999999999")
    assert code_of(error) == ("NoSuchBucket", 404)


def test_who_has_no_policy_may_do_nothing(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    nobody = served.client(key=NOBODY)
    for call in (
        nobody.list_buckets,
        lambda: nobody.create_bucket(Bucket="mine-now"),
        lambda: nobody.get_object(Bucket=bucket, Key="k"),
        lambda: nobody.put_object(Bucket=bucket, Key="k", Body=b"y"),
        lambda: nobody.delete_object(Bucket=bucket, Key="k"),
        lambda: nobody.list_objects_v2(Bucket=bucket),
        lambda: nobody.copy_object(Bucket=bucket, Key="k2", CopySource=f"{bucket}/k"),
        lambda: nobody.create_multipart_upload(Bucket=bucket, Key="m"),
    ):
        with pytest.raises(ClientError) as error:
            call()
        assert code_of(error) == ("AccessDenied", 403)
    doomed = {"Bucket": bucket, "Delete": {"Objects": [{"Key": "k"}]}}
    if isinstance(served, Fronted):  # an external store is sent all of such a request or nothing
        with pytest.raises(ClientError) as error:
            nobody.delete_objects(**doomed)
        assert code_of(error) == ("AccessDenied", 403)
    else:
        failed = nobody.delete_objects(**doomed)
        assert [(one["Key"], one["Code"]) for one in failed["Errors"]] == [("k", "AccessDenied")]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
