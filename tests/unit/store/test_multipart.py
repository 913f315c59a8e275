"""Multipart uploads: S3's rules, checksums, and that completing moves no byte."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from clary.domain.errors import Invalid, NotFound, PreconditionFailed
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType, encode
from clary.store.object_info import CompletedPart, ObjectMetadata, PartInfo, ReadConditions, UploadInfo
from clary.store.objects import ObjectStore

PLAIN = ObjectMetadata()
A = ChecksumAlgorithm
BODIES = {1: b"first part", 2: b"second", 5: b"end"}
WHOLE = b"first partsecondend"


def put_part(store: ObjectStore, upload: UploadInfo, number: int, body: bytes) -> PartInfo:
    with store.begin_part("b-1", upload.key, upload.upload_id, number) as session:
        session.write(body)
        return session.commit()


def upload_all(store: ObjectStore, **options: Any) -> tuple[UploadInfo, list[CompletedPart]]:
    upload = store.create_upload("b-1", "k", metadata=ObjectMetadata(user={"a": "b"}), **options)
    parts = [put_part(store, upload, number, body) for number, body in BODIES.items()]
    return upload, [CompletedPart(part.number, f'"{part.etag}"', part.checksum) for part in parts]


def files(tmp_path: Path) -> set[Path]:
    return {path for path in (tmp_path / "objects" / "blobs").rglob("*") if path.is_file()}


def read(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    with store.open("b-1", key, start, end) as reader:
        return reader.read()


def test_completing_joins_the_parts_without_touching_their_files(store: ObjectStore, tmp_path: Path) -> None:
    upload, parts = upload_all(store)
    before = files(tmp_path)
    info = store.complete("b-1", "k", upload.upload_id, parts)
    outer = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in BODIES.values())).hexdigest()
    assert (info.etag, info.size_bytes, info.part_count) == (f"{outer}-3", len(WHOLE), 3)
    assert info == store.head("b-1", "k")
    assert info.metadata.user == {"a": "b"}
    assert files(tmp_path) == before
    assert read(store, "k") == WHOLE
    assert [(part.number, part.size_bytes) for part in store.parts_of("b-1", "k")] == [(1, 10), (2, 6), (5, 3)]
    store.verify("b-1", "k")


@pytest.mark.parametrize(("start", "end"), [(0, 3), (8, 12), (10, 16), (9, 17), (16, None), (18, 19)])
def test_ranges_cross_parts(store: ObjectStore, start: int, end: int | None) -> None:
    upload, parts = upload_all(store)
    store.complete("b-1", "k", upload.upload_id, parts)
    assert read(store, "k", start, end) == WHOLE[start:end]


def test_completing_twice_gives_the_same_answer(store: ObjectStore) -> None:
    upload, parts = upload_all(store)
    assert store.complete("b-1", "k", upload.upload_id, parts) == store.complete("b-1", "k", upload.upload_id, parts)
    with store.begin_put("b-1", "k", metadata=PLAIN) as session:
        session.commit()
    with pytest.raises(NotFound):
        store.complete("b-1", "k", upload.upload_id, parts)


def test_parts_that_are_not_chosen_and_replaced_parts_lose_their_files(store: ObjectStore, tmp_path: Path) -> None:
    upload, parts = upload_all(store)
    replaced = put_part(store, upload, 2, b"replaced")
    assert len(files(tmp_path)) == 3
    chosen = [parts[0], CompletedPart(2, replaced.etag)]
    store.complete("b-1", "k", upload.upload_id, chosen)
    assert read(store, "k") == b"first partreplaced"
    assert len(files(tmp_path)) == 2


def test_rules_of_the_part_list(store: ObjectStore) -> None:
    upload, (one, two, five) = upload_all(store)
    small = put_part(store, upload, 7, b"abc")
    last = CompletedPart(7, small.etag)
    cases: list[tuple[list[CompletedPart], str]] = [
        ([], "MalformedXML"),
        ([two, one], "InvalidPartOrder"),
        ([one, one], "InvalidPartOrder"),
        ([one, CompletedPart(3, one.etag)], "InvalidPart"),
        ([CompletedPart(1, two.etag)], "InvalidPart"),
        ([one, five, last], "EntityTooSmall"),
    ]
    for parts, rule in cases:
        with pytest.raises(Invalid) as caught:
            store.complete("b-1", "k", upload.upload_id, parts)
        assert caught.value.rule == rule
    with pytest.raises(Invalid):
        store.complete("b-1", "k", upload.upload_id, [one], expect_length=11)
    with pytest.raises(NotFound):
        store.head("b-1", "k")
    assert store.complete("b-1", "k", upload.upload_id, [one, two, five]).size_bytes == len(WHOLE)


def test_a_failed_condition_leaves_the_upload_as_it_was(store: ObjectStore) -> None:
    upload, parts = upload_all(store)
    with store.begin_put("b-1", "k", metadata=PLAIN) as session:
        session.commit()
    with pytest.raises(PreconditionFailed):
        store.complete("b-1", "k", upload.upload_id, parts, if_none_match="*")
    store.complete("b-1", "k", upload.upload_id, parts, if_match="d41d8cd98f00b204e9800998ecf8427e")
    assert read(store, "k") == WHOLE


def test_full_object_checksums_equal_the_checksum_of_the_whole(store: ObjectStore) -> None:
    upload, parts = upload_all(store, checksum_algorithm=A.CRC32, checksum_type=ChecksumType.FULL_OBJECT)
    whole = Checksum(A.CRC32, encode(zlib.crc32(WHOLE).to_bytes(4, "big")))
    with pytest.raises(Invalid) as caught:
        store.complete("b-1", "k", upload.upload_id, parts, expect_checksum=Checksum(A.CRC32, "AAAAAA=="))
    assert caught.value.rule == "BadDigest"
    assert store.complete("b-1", "k", upload.upload_id, parts, expect_checksum=whole).checksum == whole
    store.verify("b-1", "k")


def test_composite_checksums_bear_the_number_of_parts(store: ObjectStore) -> None:
    upload, parts = upload_all(store, checksum_algorithm=A.SHA256)
    digests = b"".join(hashlib.sha256(body).digest() for body in BODIES.values())
    info = store.complete("b-1", "k", upload.upload_id, parts)
    assert info.checksum == Checksum(A.SHA256, encode(hashlib.sha256(digests).digest()) + "-3", ChecksumType.COMPOSITE)
    assert store.parts_of("b-1", "k")[1].checksum == parts[1].checksum


@pytest.mark.parametrize(
    ("algorithm", "asked", "want"),
    [
        (A.CRC32, None, ChecksumType.COMPOSITE),
        (A.CRC64NVME, None, ChecksumType.FULL_OBJECT),
        (A.CRC32C, ChecksumType.FULL_OBJECT, ChecksumType.FULL_OBJECT),
        (A.SHA1, ChecksumType.FULL_OBJECT, None),
        (A.CRC64NVME, ChecksumType.COMPOSITE, None),
        (None, ChecksumType.COMPOSITE, None),
    ],
)
def test_checksum_types_an_upload_may_have(
    store: ObjectStore, algorithm: A | None, asked: ChecksumType | None, want: ChecksumType | None
) -> None:
    def create() -> UploadInfo:
        return store.create_upload("b-1", "k", metadata=PLAIN, checksum_algorithm=algorithm, checksum_type=asked)

    if want is None:
        with pytest.raises(Invalid):
            create()
    else:
        assert create().checksum_type is want


def test_aborting_drops_everything(store: ObjectStore, tmp_path: Path) -> None:
    upload, parts = upload_all(store)
    session = store.begin_part("b-1", "k", upload.upload_id, 9)
    session.write(b"late")
    store.abort("b-1", "k", upload.upload_id)
    with pytest.raises(NotFound) as caught:
        session.commit()
    assert caught.value.kind == "Upload"
    assert files(tmp_path) == set()
    for call in (
        lambda: store.abort("b-1", "k", upload.upload_id),
        lambda: store.list_parts("b-1", "k", upload.upload_id),
        lambda: store.complete("b-1", "k", upload.upload_id, parts),
        lambda: store.begin_part("b-1", "k", upload.upload_id, 1),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize("number", [0, -1, 10_001])
def test_part_numbers_have_bounds(store: ObjectStore, number: int) -> None:
    upload = store.create_upload("b-1", "k", metadata=PLAIN)
    with pytest.raises(Invalid, match="between 1 and 10000"):
        store.begin_part("b-1", "k", upload.upload_id, number)


def test_parts_are_listed_in_pages(store: ObjectStore) -> None:
    upload, _ = upload_all(store)
    first = store.list_parts("b-1", "k", upload.upload_id, max_parts=2)
    assert ([part.number for part in first.parts], first.next) == ([1, 2], 2)
    rest = store.list_parts("b-1", "k", upload.upload_id, after=2, max_parts=2)
    assert ([part.number for part in rest.parts], rest.next) == ([5], None)


def test_a_part_may_be_a_stretch_of_an_object_that_then_goes(store: ObjectStore, tmp_path: Path) -> None:
    with store.begin_put("b-1", "source", metadata=PLAIN) as session:
        session.write(b"0123456789")
        source = session.commit()
    upload = store.create_upload("b-1", "k", metadata=PLAIN, checksum_algorithm=A.CRC32)
    parts = [
        store.copy_part("b-1", "source", "b-1", "k", upload.upload_id, 1, start=2, end=8),
        store.copy_part("b-1", "source", "b-1", "k", upload.upload_id, 2, start=0, end=5),
    ]
    assert parts[0].etag == hashlib.md5(b"234567").hexdigest()
    with pytest.raises(PreconditionFailed):
        store.copy_part(
            "b-1", "source", "b-1", "k", upload.upload_id, 3,
            source_conditions=ReadConditions(if_none_match=(source.etag,)),
        )  # fmt: skip
    with pytest.raises(Invalid, match="range"):
        store.copy_part("b-1", "source", "b-1", "k", upload.upload_id, 3, start=0, end=11)
    store.delete("b-1", "source")
    store.complete("b-1", "k", upload.upload_id, [CompletedPart(part.number, part.etag) for part in parts])
    assert read(store, "k") == b"23456701234"
    store.verify("b-1", "k")
    assert len(files(tmp_path)) == 1
    store.delete("b-1", "k")
    assert files(tmp_path) == set()


def test_uploads_are_listed_by_key_and_start_with_common_prefixes(store: ObjectStore, clock: Any) -> None:
    made = []
    for key in ("b", "a", "dir/x", "b", "dir/y", "e"):
        clock.advance(1)
        made.append((key, store.create_upload("b-1", key, metadata=PLAIN).upload_id))
    want = sorted(made)
    page = store.list_uploads("b-1")
    assert ([(one.key, one.upload_id) for one in page.uploads], page.next) == (want, None)
    seen: list[str] = []
    marker: tuple[str, str] | None = ("", "")
    while marker is not None:
        page = store.list_uploads("b-1", delimiter="/", key_marker=marker[0], upload_id_marker=marker[1], max_uploads=1)
        seen += [one.upload_id for one in page.uploads] + list(page.common_prefixes)
        marker = page.next
    assert seen == [want[0][1], want[1][1], want[2][1], "dir/", want[5][1]]
    assert [one.key for one in store.list_uploads("b-1", prefix="dir/").uploads] == ["dir/x", "dir/y"]


def test_deleting_a_bucket_drops_its_uploads(store: ObjectStore, tmp_path: Path) -> None:
    upload_all(store)
    store.delete_bucket("b-1")
    assert files(tmp_path) == set()
