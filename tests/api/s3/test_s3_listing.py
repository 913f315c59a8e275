"""Listing keys: order, delimiters, pages, odd names."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

ODD_KEYS = [
    "a/../b",
    "./dot",
    "../up",
    "//",
    "/lead",
    "a//b",
    "%41",
    "%2F",
    "a%20b",
    "a+b",
    "a b",
    "q?x=1&y=2",
    "#hash",
    "trailing/",
    "ünïcödé/日本語",
    "emoji-\U0001f600",
    "quote\"'<>&",
    "back\\slash",
    "tilde~star*",
    "ctrl-\x01-\x1f",
    "line\nbreak\rtab\t",
    "k" * 1024,
    "é" * 512,
]


def all_keys(s3: Any, operation: str, **params: Any) -> list[str]:
    pages = s3.get_paginator(operation).paginate(**params)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_text_is_a_key(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert s3.list_objects_v2(Bucket=bucket)["Contents"][0]["Key"] == key
    assert s3.list_objects(Bucket=bucket, Prefix=key)["Contents"][0]["Key"] == key
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    s3.delete_object(Bucket=bucket, Key=key)
    assert all_keys(s3, "list_objects_v2", Bucket=bucket) == ["copy"]


def test_a_key_beyond_1024_bytes_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket=bucket, Key="é" * 513, Body=b"")
    assert error.value.response["Error"]["Code"] == "KeyTooLongError"


def test_keys_come_in_byte_order_and_in_pages(s3: Any, bucket: str) -> None:
    keys = ["z", "a", "B", "é", "a/b", "a0", "￿", "\U0001f600"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    wanted = sorted(keys, key=str.encode)
    for operation in ("list_objects_v2", "list_objects"):
        for size in (1, 3, 1000):
            found = all_keys(s3, operation, Bucket=bucket, PaginationConfig={"PageSize": size})
            assert found == wanted, (operation, size)
    assert all_keys(s3, "list_objects_v2", Bucket=bucket, StartAfter="a0") == wanted[wanted.index("a0") + 1 :]
    first = s3.list_objects_v2(Bucket=bucket, MaxKeys=3)
    assert (first["KeyCount"], first["MaxKeys"], first["IsTruncated"]) == (3, 3, True)
    second = s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])
    assert second["ContinuationToken"] == first["NextContinuationToken"]
    assert [one["Key"] for one in second["Contents"]] == wanted[3:]
    none = s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (none["KeyCount"], none["IsTruncated"]) == (0, False)
    marked = s3.list_objects(Bucket=bucket, Marker="a0", MaxKeys=2)
    assert [one["Key"] for one in marked["Contents"]] == wanted[4:6]
    assert "NextMarker" not in marked
    assert marked["IsTruncated"]


def test_a_delimiter_folds_keys_into_prefixes(s3: Any, bucket: str) -> None:
    for key in ("a/1", "a/2", "a/b/3", "b//x", "c", "d+e/ f", "é/1"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")

    def level(operation: str, **params: Any) -> tuple[list[str], list[str]]:
        keys: list[str] = []
        prefixes: list[str] = []
        for page in s3.get_paginator(operation).paginate(Bucket=bucket, Delimiter="/", **params):
            keys += [one["Key"] for one in page.get("Contents", [])]
            prefixes += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
        return keys, prefixes

    for operation in ("list_objects_v2", "list_objects"):
        for size in (1, 2, 1000):
            config = {"PageSize": size}
            assert level(operation, PaginationConfig=config) == (["c"], ["a/", "b/", "d+e/", "é/"])
            assert level(operation, Prefix="a/", PaginationConfig=config) == (["a/1", "a/2"], ["a/b/"])
            assert level(operation, Prefix="b/", PaginationConfig=config) == ([], ["b//"])
            assert level(operation, Prefix="d+e/", PaginationConfig=config) == (["d+e/ f"], [])
    folded = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert folded["KeyCount"] == 5
    assert folded["Delimiter"] == "/"


def test_owners_come_when_asked_for(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert len(s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]["ID"]) == 64
    assert "Owner" in s3.list_objects(Bucket=bucket)["Contents"][0]


@pytest.mark.parametrize("params", [{"MaxKeys": -1}, {"ContinuationToken": "not one of ours!"}])
def test_bad_arguments_are_named(s3: Any, bucket: str, params: Any) -> None:
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket=bucket, **params)
    assert error.value.response["Error"]["Code"] == "InvalidArgument"


def test_listing_no_bucket_says_so(s3: Any) -> None:
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.list_objects_v2(Bucket="no-such-bucket")


def test_every_object_is_its_own_only_version(s3: Any, bucket: str) -> None:
    for key in ("a/1", "b", "c é"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = list(s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2}))
    versions = [one for page in pages for one in page["Versions"]]
    assert [one["Key"] for one in versions] == ["a/1", "b", "c é"]
    assert {(one["VersionId"], one["IsLatest"]) for one in versions} == {("null", True)}
    s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions]}
    )
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
