"""Uploads and blobs of the registry, and what goes when nothing needs it any more."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clary.domain.container_image import OCI_MANIFEST, parse_manifest
from clary.domain.errors import Invalid, NotFound
from clary.store import layers, schema
from clary.store.database import Database
from clary.store.layers import LayerFiles
from clary.store.registry import Registry

ONE, TWO = 1, 2  # repositories


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Registry:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    schema.metadata.create_all(database.engine)
    return Registry(database, LayerFiles(tmp_path / "registry"), clock)


async def pushed(registry: Registry, repository: int, content: bytes) -> str:
    upload = registry.files.begin(repository)
    upload.write(content)
    digest = upload.digest
    await registry.add_layer(upload)
    return digest


async def image(registry: Registry, repository: int, tag: str, *contents: bytes) -> str:
    digests = [await pushed(registry, repository, content) for content in contents]
    told = [{"mediaType": "x", "digest": digest, "size": 1} for digest in digests]
    body = json.dumps({"schemaVersion": 2, "config": told[0], "layers": told[1:], "t": tag}).encode()
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    await registry.put_image(repository, digest, body, parse_manifest(body, OCI_MANIFEST), tag, False)
    return digest


def lying(registry: Registry) -> set[str]:
    return set(registry.files.all())


async def test_a_file_goes_with_the_last_repository_that_names_it(registry: Registry) -> None:
    content = os.urandom(100)
    first = await image(registry, ONE, "a", content)
    await image(registry, TWO, "a", content)
    await registry.delete_image(ONE, first, "")
    assert len(lying(registry)) == 1
    await registry.delete_repository(TWO)
    assert not lying(registry)


async def test_an_upload_for_an_image_that_is_still_to_come_survives_a_deletion(
    registry: Registry, clock: Clock
) -> None:
    gone = await image(registry, ONE, "gone", b"config", b"layer")
    coming = await pushed(registry, ONE, b"coming")
    await registry.delete_image(ONE, gone, "")
    assert lying(registry) == {coming}
    other = await image(registry, ONE, "other", b"config")
    clock.now += timedelta(days=2)
    await registry.delete_image(ONE, other, "")
    assert not lying(registry), "after a day nobody waits for it"


async def test_the_last_tag_takes_the_image_with_it(registry: Registry) -> None:
    digest = await image(registry, ONE, "a", b"config")
    body = (await registry.image(ONE, digest)).body  # type: ignore[union-attr]
    await registry.put_image(ONE, digest, body, parse_manifest(body, OCI_MANIFEST), "b", False)
    assert await registry.delete_image(ONE, "", "a") == [(digest, "a")]
    assert (await registry.image(ONE, "b")) is not None
    await registry.delete_image(ONE, "", "b")
    assert await registry.image(ONE, digest) is None
    with pytest.raises(NotFound):
        await registry.delete_image(ONE, "", "b")


async def test_the_start_removes_what_no_row_names(registry: Registry) -> None:
    kept = await pushed(registry, ONE, b"kept")
    upload = registry.files.begin(ONE)
    upload.write(b"placed, and killed before its row")
    registry.files.place(upload)
    assert len(lying(registry)) == 2
    assert await registry.sweep() == 1
    assert lying(registry) == {kept}


async def test_another_process_goes_on_with_an_upload(registry: Registry, tmp_path: Path) -> None:
    upload = registry.files.begin(ONE)
    upload.write(b"first ")
    again = LayerFiles(tmp_path / "registry").take(ONE, upload.id)
    assert again.size_bytes == 6
    again.write(b"second")
    assert again.digest == f"sha256:{hashlib.sha256(b'first second').hexdigest()}"


def test_an_upload_has_one_writer_and_belongs_to_its_repository(tmp_path: Path) -> None:
    files = LayerFiles(tmp_path)
    upload = files.take(ONE, files.begin(ONE).id)
    with pytest.raises(Invalid):
        files.take(ONE, upload.id)
    files.give_back(upload)
    for repository, name in ((TWO, upload.id), (ONE, "../../etc/passwd"), (ONE, "0" * 32)):
        with pytest.raises(NotFound):
            files.take(repository, name)


def test_uploads_beyond_the_bound_are_read_again_and_old_ones_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MAX_UPLOADS", 2)
    files = LayerFiles(tmp_path)
    first = files.begin(ONE)
    first.write(b"abc")
    first.rest()
    for _ in range(3):
        files.begin(ONE)
    again = files.take(ONE, first.id)
    assert again.size_bytes == 3
    files.give_back(again)
    os.utime(again.path, (0, 0))
    files.expire()
    with pytest.raises(NotFound):
        files.take(ONE, first.id)
