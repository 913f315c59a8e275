"""URLs that carry their signature, in both versions."""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.error import HTTPError

import pytest
from served import Served

VERSIONS = ["s3", "s3v4"]  # botocore's names: Signature Version 2 in the query is its default for presigned URLs


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


@pytest.fixture(params=VERSIONS)
def signer(request: pytest.FixtureRequest, served: Served) -> Any:
    return served.client(signature_version=request.param)


@pytest.mark.parametrize("key", ["k", "a b/ü+%41", "a/../b"])
def test_a_presigned_url_puts_and_gets_an_object(signer: Any, bucket: str, key: str) -> None:
    where = {"Bucket": bucket, "Key": key}
    url = signer.generate_presigned_url("put_object", Params=where)
    assert fetch(url, "PUT", b"by link", **{"Content-Type": ""})[0] == 200
    assert fetch(signer.generate_presigned_url("get_object", Params=where)) == (200, b"by link")
    assert fetch(signer.generate_presigned_url("head_object", Params=where), "HEAD") == (200, b"")


def test_a_presigned_url_may_ask_for_other_headers(s3: Any, signer: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = signer.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": "k", "ResponseContentType": "text/x"}
    )
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/x"


def test_a_changed_url_is_refused(s3: Any, signer: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="other", Body=b"x")
    url = signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    status, body = fetch(url.replace("/k?", "/other?"))
    assert status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in body


def test_a_url_without_a_signature_is_refused(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    status, body = fetch(f"{served.url}/{bucket}/k")
    assert status == 403
    assert b"<Code>AccessDenied</Code>" in body
