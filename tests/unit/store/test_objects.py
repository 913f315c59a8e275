"""Objects: put, read, delete, copy, tags, conditions, claims, files."""

from __future__ import annotations

import hashlib
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from hand_clock import HandClock

from clary.domain.errors import (
    AlreadyExists,
    ClaryError,
    InUse,
    Invalid,
    NotFound,
    NotModified,
    PreconditionFailed,
)
from clary.store.checksums import Checksum, ChecksumAlgorithm, encode
from clary.store.object_info import ObjectInfo, ObjectMetadata, ReadConditions
from clary.store.objects import ObjectStore

PLAIN = ObjectMetadata()
CRC32 = ChecksumAlgorithm.CRC32


def put(store: ObjectStore, key: str, body: bytes = b"body", metadata: ObjectMetadata = PLAIN) -> ObjectInfo:
    with store.begin_put("b-1", key, metadata=metadata) as session:
        session.write(body)
        return session.commit()


def get(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    with store.open("b-1", key, start, end) as reader:
        return reader.read()


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "objects" / "blobs").rglob("*") if path.is_file()]


def test_what_was_put_is_read_with_its_metadata(store: ObjectStore, clock: HandClock) -> None:
    metadata = ObjectMetadata(
        system={"content-type": "text/csv"}, user={"origin": "é"}, tags={"team": "a"}, storage_class="STANDARD_IA"
    )
    with store.begin_put("b-1", "dir/key", metadata=metadata) as session:
        for piece in (b"1,2\n", bytearray(b"3,4\n"), memoryview(b"5,6\n"), b""):
            session.write(piece)
        info = session.commit()
    assert info == store.head("b-1", "dir/key")
    assert (info.size_bytes, info.etag) == (12, hashlib.md5(b"1,2\n3,4\n5,6\n").hexdigest())
    assert (info.metadata, info.last_modified_at, info.checksum) == (metadata, clock.at, None)
    assert get(store, "dir/key") == b"1,2\n3,4\n5,6\n"


@pytest.mark.parametrize(
    "key",
    [
        "..",
        "a/../../b",
        "/",
        "//",
        "a/",
        "\0",
        "k" * 1024,
        "\u00e9",
        "e\u0301",
        "con",
        "%41",
        "+ ?#&",
        "日本語",
        "\N{PILE OF POO}",
        "'\"",
    ],
)
def test_any_unicode_key_is_only_a_name(store: ObjectStore, tmp_path: Path, key: str) -> None:
    put(store, key, key.encode())
    assert get(store, key) == key.encode()
    assert [item.key for item in store.list_objects("b-1").objects] == [key]
    [path] = files(tmp_path)
    assert path.name.isalnum()
    assert len(path.name) == 32


@pytest.mark.parametrize(
    ("key", "rule"), [("", "InvalidURI"), ("k" * 1025, "KeyTooLongError"), ("\ud800", "InvalidURI")]
)
def test_a_key_that_s3_refuses_is_refused(store: ObjectStore, key: str, rule: str) -> None:
    with pytest.raises(Invalid) as caught:
        store.begin_put("b-1", key, metadata=PLAIN)
    assert caught.value.rule == rule


def test_an_empty_object_has_no_file(store: ObjectStore, tmp_path: Path) -> None:
    info = put(store, "folder/", b"")
    assert info.etag == "d41d8cd98f00b204e9800998ecf8427e"
    assert get(store, "folder/") == b""
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "end", "want"),
    [(0, None, b"0123456789"), (3, 5, b"34"), (9, 99, b"9"), (5, None, b"56789"), (4, 4, b"")],
)
def test_ranges_are_half_open_and_cut_to_the_size(store: ObjectStore, start: int, end: int | None, want: bytes) -> None:
    put(store, "k", b"0123456789")
    assert get(store, "k", start, end) == want


@pytest.mark.parametrize("body", [b"0123456789", b""])
def test_a_range_beyond_the_end_is_refused(store: ObjectStore, body: bytes) -> None:
    put(store, "k", body)
    with pytest.raises(Invalid) as caught:
        store.open("b-1", "k", 10)
    assert caught.value.rule == "InvalidRange"


@pytest.mark.parametrize(
    ("claim", "rule"),
    [
        ({"expect_length": 5}, "IncompleteBody"),
        ({"expect_md5": hashlib.md5(b"other").digest()}, "BadDigest"),
        ({"expect_sha256": hashlib.sha256(b"other").hexdigest()}, "XAmzContentSHA256Mismatch"),
        ({"expect_checksum": Checksum(CRC32, "AAAAAA==")}, "BadDigest"),
        ({"expect_checksum": Checksum(ChecksumAlgorithm.SHA1, "AAAAAA==")}, "InvalidRequest"),
    ],
)
def test_a_body_that_breaks_a_claim_leaves_nothing(
    store: ObjectStore, tmp_path: Path, claim: dict[str, int], rule: str
) -> None:
    put(store, "k", b"old")
    session = store.begin_put("b-1", "k", metadata=PLAIN, checksum_algorithm=CRC32)
    session.write(b"new!")
    with pytest.raises(Invalid) as caught:
        session.commit(**claim)  # type: ignore[arg-type]
    assert caught.value.rule == rule
    assert get(store, "k") == b"old"
    assert len(files(tmp_path)) == 1
    assert list((tmp_path / "objects" / "tmp").iterdir()) == []


def test_true_claims_are_accepted_and_the_checksum_is_kept(store: ObjectStore) -> None:
    body = b"hello"
    claim = Checksum(CRC32, encode(zlib.crc32(body).to_bytes(4, "big")))
    session = store.begin_put("b-1", "k", metadata=PLAIN, checksum_algorithm=CRC32)
    session.write(body)
    info = session.commit(
        expect_length=5,
        expect_md5=hashlib.md5(body).digest(),
        expect_sha256=hashlib.sha256(body).hexdigest(),
        expect_checksum=claim,
    )
    assert info.checksum == claim
    assert store.head("b-1", "k").checksum == claim


def test_nothing_is_visible_before_commit_or_after_abort(store: ObjectStore, tmp_path: Path) -> None:
    with store.begin_put("b-1", "k", metadata=PLAIN) as session:
        session.write(b"x")
        with pytest.raises(NotFound):
            store.head("b-1", "k")
    with pytest.raises(ValueError, match="aborted"):
        session.commit()
    assert list((tmp_path / "objects" / "tmp").iterdir()) == []


def test_overwriting_swaps_whole_objects_and_removes_the_old_file(store: ObjectStore, tmp_path: Path) -> None:
    put(store, "k", b"old", ObjectMetadata(user={"v": "1"}))
    put(store, "k", b"new", ObjectMetadata(user={"v": "2"}))
    assert (get(store, "k"), store.head("b-1", "k").metadata.user) == (b"new", {"v": "2"})
    assert len(files(tmp_path)) == 1


def test_a_reader_survives_overwrite_and_delete(store: ObjectStore, tmp_path: Path) -> None:
    put(store, "k", b"old-bytes")
    with store.open("b-1", "k") as reader:
        put(store, "k", b"new")
        store.delete("b-1", "k")
        assert reader.read() == b"old-bytes"
        assert reader.stretches[0].path.read_bytes() == b"old-bytes"
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("present", "condition", "error"),
    [
        (False, {"if_none_match": "*"}, None),
        (True, {"if_none_match": "*"}, PreconditionFailed),
        (True, {"if_match": '"' + hashlib.md5(b"body").hexdigest() + '"'}, None),
        (True, {"if_match": "*"}, None),
        (True, {"if_match": "0" * 32}, PreconditionFailed),
        (False, {"if_match": "0" * 32}, NotFound),
    ],
)
def test_conditional_puts(
    store: ObjectStore, tmp_path: Path, present: bool, condition: dict[str, str], error: type[ClaryError] | None
) -> None:
    if present:
        put(store, "k")
    session = store.begin_put("b-1", "k", metadata=PLAIN)
    session.write(b"second")
    if error is None:
        session.commit(**condition)  # type: ignore[arg-type]
        assert get(store, "k") == b"second"
    else:
        with pytest.raises(error):
            session.commit(**condition)  # type: ignore[arg-type]
        assert len(files(tmp_path)) == int(present)


def test_read_conditions_follow_the_order_of_precedence(store: ObjectStore, clock: HandClock) -> None:
    info = put(store, "k")
    whole = clock.at.replace(microsecond=0)
    before, after = whole - timedelta(seconds=1), whole + timedelta(seconds=1)
    good, bad = (info.etag,), ("0" * 32,)
    cases: list[tuple[ReadConditions, type[ClaryError] | None]] = [
        (ReadConditions(), None),
        (ReadConditions(if_match=good), None),
        (ReadConditions(if_match=(f'"{info.etag}"',)), None),
        (ReadConditions(if_match=bad), PreconditionFailed),
        (ReadConditions(if_unmodified_since=before), PreconditionFailed),
        (ReadConditions(if_unmodified_since=whole), None),
        (ReadConditions(if_match=good, if_unmodified_since=before), None),
        (ReadConditions(if_none_match=good), NotModified),
        (ReadConditions(if_none_match=("*",)), NotModified),
        (ReadConditions(if_modified_since=whole), NotModified),
        (ReadConditions(if_modified_since=after), NotModified),
        (ReadConditions(if_modified_since=before), None),
        (ReadConditions(if_none_match=bad, if_modified_since=after), None),
        (ReadConditions(if_none_match=good, if_modified_since=before), NotModified),
    ]
    for conditions, error in cases:
        if error is None:
            conditions.check(info)
        else:
            with pytest.raises(error):
                conditions.check(info)
            with pytest.raises(error):
                store.open("b-1", "k", conditions=conditions)


def test_deleting_is_idempotent_and_says_what_was_there(store: ObjectStore, tmp_path: Path) -> None:
    for key in ("a", "b"):
        put(store, key)
    assert [(one.key, one.existed) for one in store.delete_many("b-1", ["a", "zz", "b"])] == [
        ("a", True),
        ("zz", False),
        ("b", True),
    ]
    assert store.delete("b-1", "a") is False
    assert files(tmp_path) == []


def test_conditional_delete(store: ObjectStore) -> None:
    info = put(store, "k")
    with pytest.raises(PreconditionFailed):
        store.delete("b-1", "k", if_match="0" * 32)
    assert store.delete("b-1", "k", if_match=info.etag) is True


def test_a_copy_shares_the_file_until_the_last_name_goes(store: ObjectStore, tmp_path: Path, clock: HandClock) -> None:
    source = put(store, "a", b"model", ObjectMetadata(user={"x": "1"}, tags={"t": "1"}))
    clock.advance(5)
    copied = store.copy("b-1", "a", "b-1", "b")
    assert (copied.etag, copied.metadata, copied.content_id) == (source.etag, source.metadata, source.content_id)
    assert copied.last_modified_at == clock.at
    assert len(files(tmp_path)) == 1
    store.delete("b-1", "a")
    assert get(store, "b") == b"model"
    store.delete("b-1", "b")
    assert files(tmp_path) == []


def test_a_copy_replaces_metadata_and_adds_a_checksum_when_asked(store: ObjectStore) -> None:
    put(store, "a", b"model", ObjectMetadata(user={"x": "1"}, tags={"t": "1"}))
    new = ObjectMetadata(user={"y": "2"}, tags={"ignored": "by the tagging directive"})
    copied = store.copy("b-1", "a", "b-1", "b", metadata=new, checksum_algorithm=CRC32)
    assert (copied.metadata.user, copied.metadata.tags) == ({"y": "2"}, {"t": "1"})
    assert copied.checksum == Checksum(CRC32, encode(zlib.crc32(b"model").to_bytes(4, "big")))
    assert store.copy("b-1", "a", "b-1", "b", tags={"n": "1"}).metadata.tags == {"n": "1"}


def test_a_copy_onto_itself_must_change_something(store: ObjectStore) -> None:
    put(store, "a", b"model")
    with pytest.raises(Invalid, match="to itself"):
        store.copy("b-1", "a", "b-1", "a")
    store.copy("b-1", "a", "b-1", "a", metadata=ObjectMetadata(user={"y": "2"}))
    assert (store.head("b-1", "a").metadata.user, get(store, "a")) == ({"y": "2"}, b"model")


def test_copy_conditions_answer_412_in_every_case(store: ObjectStore) -> None:
    info = put(store, "a")
    for conditions in (ReadConditions(if_none_match=(info.etag,)), ReadConditions(if_match=("0" * 32,))):
        with pytest.raises(PreconditionFailed):
            store.copy("b-1", "a", "b-1", "b", source_conditions=conditions)
    put(store, "b")
    with pytest.raises(PreconditionFailed):
        store.copy("b-1", "a", "b-1", "b", if_none_match="*")


def test_tags_are_replaced_and_limited(store: ObjectStore) -> None:
    put(store, "k")
    store.put_tags("b-1", "k", {"a": "1", "b": ""})
    assert store.get_tags("b-1", "k") == {"a": "1", "b": ""}
    store.delete_tags("b-1", "k")
    assert store.get_tags("b-1", "k") == {}
    for tags in ({str(n): "" for n in range(11)}, {"k" * 129: ""}, {"": "x"}, {"k": "v" * 257}):
        with pytest.raises(Invalid):
            store.put_tags("b-1", "k", tags)


def test_buckets_are_made_once_listed_and_removed_when_empty(store: ObjectStore, clock: HandClock) -> None:
    info = store.create_bucket("a.bucket-2", "eu-west-1")
    assert (info.region, info.created_at) == ("eu-west-1", clock.at)
    assert [bucket.name for bucket in store.list_buckets()] == ["a.bucket-2", "b-1"]
    assert store.head_bucket("b-1").owner == "111122223333"
    with pytest.raises(AlreadyExists):
        store.create_bucket("b-1", "us-east-1")
    put(store, "k")
    with pytest.raises(InUse):
        store.delete_bucket("b-1")
    store.delete("b-1", "k")
    store.delete_bucket("b-1")
    with pytest.raises(NotFound):
        store.head_bucket("b-1")


@pytest.mark.parametrize(
    "name", ["ab", "a" * 64, "Upper", "-a-", "a..b", "10.0.0.1", "xn--abc", "x_y", "abc-s3alias", "a\nb"]
)
def test_a_bad_bucket_name_is_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        store.create_bucket(name, "us-east-1")
    assert caught.value.rule == "InvalidBucketName"


def test_bucket_documents_are_kept_as_written(store: ObjectStore) -> None:
    assert store.bucket_document("b-1", "tagging") is None
    store.put_bucket_document("b-1", "tagging", "<one/>")
    store.put_bucket_document("b-1", "tagging", "<two/>")
    assert store.bucket_document("b-1", "tagging") == "<two/>"
    store.put_bucket_document("b-1", "tagging", None)
    assert store.bucket_document("b-1", "tagging") is None


def test_missing_things_are_named(store: ObjectStore) -> None:
    cases = [
        (lambda: store.head("nope", "k"), "Bucket"),
        (lambda: store.head("b-1", "k"), "Key"),
        (lambda: store.open("b-1", "k"), "Key"),
        (lambda: store.list_objects("nope"), "Bucket"),
        (lambda: store.delete("nope", "k"), "Bucket"),
        (lambda: store.begin_put("nope", "k", metadata=PLAIN), "Bucket"),
        (lambda: store.copy("b-1", "k", "b-1", "j"), "Key"),
        (lambda: store.put_tags("b-1", "k", {}), "Key"),
    ]
    for call, kind in cases:
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.kind == kind
