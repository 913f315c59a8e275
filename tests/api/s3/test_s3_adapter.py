"""Both sides of the port that controllers use: our own store on a folder, and somebody else's S3."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from served import ACCOUNT, ELSEWHERE, KEY, SECRET, Served

from clary.domain.errors import AccessDenied, NotFound, StoreFailed
from clary.store.external.client import ExternalClient
from clary.store.external.keys import KeyFile
from clary.store.external.objects import PART_BYTES, ExternalObjects, Probe
from clary.store.object_info import ObjectMetadata
from clary.store.objects_port import Objects

PLAIN = ObjectMetadata(system={"content-type": "text/plain"})


def keys(folder: Path, key: str = KEY, secret: str = SECRET) -> KeyFile:
    path = folder / "keys"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return KeyFile(folder, "keys")


@pytest.fixture
def external(own: Served, tmp_path: Path) -> Iterator[ExternalObjects]:
    made = ExternalObjects(ExternalClient(own.url, "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    yield made
    made.close()


@pytest.fixture(params=["own", "external"])
def objects(request: pytest.FixtureRequest, own: Served) -> Objects:
    found: Objects = own.objects if request.param == "own" else request.getfixturevalue("external")
    return found


@pytest.fixture
def place(own: Served) -> str:
    """A new bucket."""
    name = own.new_name()
    own.client().create_bucket(Bucket=name)
    return name


def put(objects: Objects, bucket: str, key: str, body: bytes, content_id: str = "") -> None:
    with objects.begin_put(bucket, key, metadata=PLAIN, hash_sha256=False) as session:
        for at in range(0, len(body), 1 << 20):
            session.write(body[at : at + (1 << 20)])
        session.commit(content_id=content_id)


@pytest.mark.parametrize("size", [0, 5, PART_BYTES, PART_BYTES + 1])
def test_what_is_put_is_read_again(objects: Objects, place: str, size: int) -> None:
    body = os.urandom(size)
    put(objects, place, "a b/ü+%41", body)
    info = objects.head(place, "a b/ü+%41")
    assert (info.size_bytes, info.metadata.system["content-type"]) == (size, "text/plain")
    with objects.open(place, "a b/ü+%41") as reader:
        assert (reader.size_bytes, reader.info.etag, reader.info.content_id) == (size, info.etag, info.content_id)
        assert b"".join(reader.chunks(100_000)) == reader.read() == body
        files = list(reader.stretches)
        read = b"".join(one.path.read_bytes()[one.offset_bytes : one.offset_bytes + one.size_bytes] for one in files)
        assert (read, bool(files)) == (body, bool(size))


def test_a_link_to_a_stretch_outlives_the_reader(objects: Objects, place: str, tmp_path: Path) -> None:
    put(objects, place, "k", b"content")
    with objects.open(place, "k") as reader:
        os.link(reader.stretches[0].path, tmp_path / "link")
    put(objects, place, "k", b"other")
    assert (tmp_path / "link").read_bytes() == b"content"


def test_other_bytes_have_another_content(objects: Objects, place: str) -> None:
    put(objects, place, "k", b"one")
    first = objects.head(place, "k")
    put(objects, place, "k", b"two")
    assert objects.head(place, "k").content_id != first.content_id
    put(objects, place, "k", b"three", content_id="0" * 31 + "7")
    assert objects.head(place, "k").content_id == "0" * 31 + "7"


def test_nothing_shows_of_what_is_not_committed(objects: Objects, place: str) -> None:
    with objects.begin_put(place, "k", metadata=PLAIN) as session:
        session.write(b"half")
    session.abort()
    with pytest.raises(NotFound):
        objects.head(place, "k")
    with pytest.raises(ValueError, match="committed or aborted"):
        session.write(b"more")


def test_keys_are_listed_page_by_page(objects: Objects, place: str) -> None:
    names = sorted([f"p/{number:02}" for number in range(7)] + ["p/é", "p/a b"], key=str.encode)
    for name in [*names, "q"]:
        put(objects, place, name, b"x")
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = objects.list_objects(place, prefix="p/", start_after=after, max_keys=4)
        assert len(page.objects) <= 4
        found += [one.key for one in page.objects]
        after = page.next
    assert found == names


def test_what_is_missing_is_told_by_kind(objects: Objects, place: str) -> None:
    objects.head_bucket(place)
    for work in (
        lambda: objects.head_bucket("absent-bucket"),
        lambda: objects.head(place, "absent"),
        lambda: objects.open(place, "absent"),
        lambda: objects.list_objects("absent-bucket"),
        lambda: put(objects, "absent-bucket", "k", b"x"),
    ):
        with pytest.raises(NotFound):
            work()


# -- the external one alone ------------------------------------------------------------------------


def test_no_file_stays_behind(external: ExternalObjects, place: str, tmp_path: Path) -> None:
    put(external, place, "k", os.urandom(PART_BYTES + 5))
    with external.open(place, "k"):
        assert len(list((tmp_path / "fetched").iterdir())) == 1
    with pytest.raises(NotFound):
        put(external, "absent-bucket", "k", bytes(PART_BYTES + 5))
    (tmp_path / "fetched" / "left").write_bytes(b"of a crash")
    ExternalObjects(ExternalClient("http://127.0.0.1:1", "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    assert list((tmp_path / "fetched").iterdir()) == []


def test_a_broken_upload_leaves_no_parts(own: Served, place: str, tmp_path: Path) -> None:
    class NoParts(ExternalClient):
        """A store whose disk is full."""

        def call(self, operation: str, bucket: str = "", key: str = "", **members: Any) -> dict[str, Any]:
            if operation == "upload_part":
                raise StoreFailed("upload_part", detail="there is no room")
            return super().call(operation, bucket, key, **members)

    objects = ExternalObjects(NoParts(own.url, "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    with pytest.raises(StoreFailed, match="no room"):
        put(objects, place, "k", bytes(PART_BYTES + 5))
    assert "Uploads" not in own.client().list_multipart_uploads(Bucket=place)
    assert list((tmp_path / "fetched").iterdir()) == []


class Cutting:
    """A relay to the store that breaks each connection after `budget` bytes of answers, and may do work then."""

    def __init__(self, port: int, budget: int, between: Callable[[], None] = lambda: None) -> None:
        self._target, self._budget, self._between = port, budget, between
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target)) as store, suppress(OSError):
                threading.Thread(target=self._copy, args=(client, store), daemon=True).start()
                left = self._budget
                while left > 0 and (data := store.recv(min(65536, left))):
                    client.sendall(data)
                    left -= len(data)
                self.cuts += 1
                self._between()
                client.shutdown(socket.SHUT_RDWR)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            return  # the other thread closed it

    def close(self) -> None:
        self._socket.close()


def test_a_transfer_that_breaks_off_goes_on(own: Served, place: str, tmp_path: Path) -> None:
    body = os.urandom(5_000_000)
    own.client().put_object(Bucket=place, Key="k", Body=body)
    relay = Cutting(own.port, 2_000_000)
    objects = ExternalObjects(ExternalClient(relay.url, "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    with objects.open(place, "k") as reader:
        assert hashlib.md5(reader.read()).digest() == hashlib.md5(body).digest()
    assert relay.cuts >= 2
    relay.close()


def test_bytes_of_two_objects_are_never_mixed(own: Served, place: str, tmp_path: Path) -> None:
    old, new = bytes(3_000_000), b"n" * 3_000_000
    own.client().put_object(Bucket=place, Key="k", Body=old)
    relay = Cutting(
        own.port, 1_000_000, between=lambda: own.client().put_object(Bucket=place, Key="k", Body=new) and None
    )
    objects = ExternalObjects(ExternalClient(relay.url, "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    with objects.open(place, "k") as reader:
        assert reader.read() == new
        assert reader.info.etag == hashlib.md5(new).hexdigest()
    relay.close()


def test_a_store_that_is_away_is_named(tmp_path: Path, place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    objects = ExternalObjects(ExternalClient(url, "us-east-1", keys(tmp_path)), tmp_path / "fetched")
    for work in (
        lambda: objects.head(place, "k"),
        lambda: objects.open(place, "k"),
        lambda: objects.list_objects(place),
        lambda: put(objects, place, "k", b"x"),
    ):
        with pytest.raises(StoreFailed, match=url):
            work()


def test_keys_that_may_not_and_keys_that_are_wrong_are_told_apart(own: Served, place: str, tmp_path: Path) -> None:
    own.client().put_object(Bucket=place, Key="k", Body=b"x")
    client = ExternalClient(own.url, "us-east-1", keys(tmp_path, key="AKIDEXAMPLENOBODY000"))
    objects = ExternalObjects(client, tmp_path / "fetched")
    with pytest.raises(AccessDenied, match=own.url):
        objects.head(place, "k")
    assert Probe(client).look()[0] == "note"
    keys(tmp_path, secret="wrong")
    with pytest.raises(StoreFailed, match=r"refuses the keys of .*keys .SignatureDoesNotMatch"):
        objects.head(place, "k")
    assert Probe(client).look()[0] == "missing"
    keys(tmp_path, key=ELSEWHERE)
    assert objects.head(place, "k").size_bytes == 1
    assert Probe(client).look()[0] == "ok"
    (tmp_path / "keys").unlink()
    with pytest.raises(StoreFailed, match="cannot be read"):
        objects.head(place, "k")
    assert ACCOUNT not in repr(client)
