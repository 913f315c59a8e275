"""What is special about a front: another region behind it, keys that fail there, a store that goes and comes."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from raw_requests import put
from served import SECRET, Fronted, Served

from clary.services.s3.actions import DELETE_OBJECTS, LIST_BUCKETS, OF_BUCKETS, OF_OBJECTS, needed
from clary.wire import catalog


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    told = error.value.response["Error"]
    return told["Code"], told["Message"]


def test_buckets_are_made_in_the_stores_own_region(tmp_path: Path) -> None:
    with Fronted(tmp_path, region="eu-west-3") as front:
        for region in ("us-east-1", "eu-west-1"):
            s3, name = front.client(region=region), front.new_name()
            constraint = {"CreateBucketConfiguration": {"LocationConstraint": region}}
            s3.create_bucket(Bucket=name, **({} if region == "us-east-1" else constraint))
            assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == "eu-west-3"
            s3.put_object(Bucket=name, Key="k", Body=b"x")
            assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"x"


def test_a_store_that_goes_and_comes_is_told_and_found_again(tmp_path: Path) -> None:
    with Fronted(tmp_path) as front:
        s3 = front.client()
        s3.create_bucket(Bucket="kept")
        port = front.external.port
        front.external._stop()
        for work in (s3.list_buckets, lambda: s3.put_object(Bucket="kept", Key="k", Body=os.urandom(3_000_000))):
            with pytest.raises(ClientError) as error:
                work()
            code, message = refusal(error)
            assert (code, front.external.url in message) == ("ServiceUnavailable", True)
        front.external.serve_again(port)
        s3.put_object(Bucket="kept", Key="k", Body=b"x")
        assert s3.get_object(Bucket="kept", Key="k")["Body"].read() == b"x"


def test_keys_that_the_store_refuses_are_not_blamed_on_the_client(tmp_path: Path) -> None:
    with Fronted(tmp_path) as front:
        s3 = front.client()
        s3.create_bucket(Bucket="kept")
        right = (tmp_path / "keys").read_text()
        (tmp_path / "keys").write_text(right.replace(SECRET, "wrong"))
        for work in (s3.list_buckets, lambda: s3.put_object(Bucket="kept", Key="k", Body=os.urandom(3_000_000))):
            with pytest.raises(ClientError) as error:
                work()
            code, message = refusal(error)
            assert (code, "clary's own keys" in message, SECRET in message) == ("AccessDenied", True, False)
        (tmp_path / "keys").write_text(right)
        assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["kept"]


def test_who_signs_nothing_gets_nothing(fronted: Fronted) -> None:
    with socket.create_connection(("127.0.0.1", fronted.port)) as connection:
        connection.sendall(b"GET /any/thing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_refusal_comes_before_the_body_does(fronted: Fronted) -> None:
    answer = put(fronted, "no-such-bucket", "k", bytes(50_000_000), declared="UNSIGNED-PAYLOAD")
    assert (answer.status, b"<Code>NoSuchBucket</Code>" in answer.body) == (404, True)


class Mute:
    """Takes connections and requests, and says the same to each; nothing when that is empty."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, suppress(OSError):  # who asked may have left
                client.recv(65536)
                client.sendall(self._says)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
    ],
)
def test_what_is_no_s3_is_told_so(tmp_path: Path, says: bytes, why: str) -> None:
    mute = Mute(says)
    with Fronted(tmp_path, url=mute.url) as front:
        with pytest.raises(ClientError) as error:
            front.client().list_buckets()
        code, message = refusal(error)
        assert (code, why in message) == ("ServiceUnavailable", True), message
    mute.close()


def test_an_answer_that_breaks_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    mute = Mute(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
    with (
        Fronted(tmp_path, url=mute.url) as front,
        pytest.raises(Exception, match=r"(?i)incomplete|broken|closed|reset"),
    ):
        front.client().get_object(Bucket="any-bucket", Key="k")["Body"].read()
    mute.close()


def test_operations_that_are_passed_on_are_s3s() -> None:
    known = set(catalog.service("s3").operation_names)
    assert {*OF_BUCKETS, *OF_OBJECTS, DELETE_OBJECTS, LIST_BUCKETS} <= known


def test_what_our_own_store_serves_is_passed_on_too(own: Served) -> None:
    passed = {*OF_BUCKETS, *OF_OBJECTS, DELETE_OBJECTS, LIST_BUCKETS}
    assert set(own._s3.operations) - passed == {"PutBucketNotificationConfiguration"}


@pytest.mark.parametrize(
    ("operation", "members", "wanted"),
    [
        ("ListBuckets", {}, [("s3:ListAllMyBuckets", "arn:aws:s3:::*")]),
        ("GetObject", {"Key": "k"}, [("s3:GetObject", "arn:aws:s3:::b/k")]),
        ("GetObject", {"Key": "k", "VersionId": "1"}, [("s3:GetObjectVersion", "arn:aws:s3:::b/k")]),
        (
            "PutObject",
            {"Key": "k", "Tagging": "a=b", "ACL": "public-read"},
            [(f"s3:{name}", "arn:aws:s3:::b/k") for name in ("PutObject", "PutObjectAcl", "PutObjectTagging")],
        ),
        (
            "CopyObject",
            {"Key": "k", "CopySource": "/c/a%20b?versionId=7", "Tagging": "a=b", "TaggingDirective": "COPY"},
            [("s3:PutObject", "arn:aws:s3:::b/k"), ("s3:GetObjectVersion", "arn:aws:s3:::c/a b")],
        ),
        (
            "DeleteObjects",
            {"Delete": {"Objects": [{"Key": "a"}, {"Key": "b", "VersionId": "1"}]}},
            [("s3:DeleteObject", "arn:aws:s3:::b/a"), ("s3:DeleteObjectVersion", "arn:aws:s3:::b/b")],
        ),
    ],
)
def test_what_must_be_allowed(operation: str, members: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    assert list(needed(operation, {"Bucket": "b", **members}, "us-east-1")) == wanted
