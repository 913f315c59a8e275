"""Rows of objects.db to values and back, and the few statements that several operations share.

Every function takes the connection of a running transaction and, where it writes, must run in a job of the index
writer. `release` is the only place that decides that a blob is garbage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, bindparam, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from clary.domain.errors import Invalid, NotFound, PreconditionFailed
from clary.store import object_schema as t
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType
from clary.store.object_info import BucketInfo, ObjectInfo, ObjectMetadata, WriteConditions

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# S3 user guide, "Creating object key names": 1,024 bytes of UTF-8.
KEY_MAX_BYTES = 1024
# Bound variables of one statement; SQLite takes 32,766.
CHUNK = 500


# The statements of the hot path are made once: building one costs more than SQLite takes to run it.
_o, _x = t.object_.c, t.extent.c
_ids: BindParameter[str] = bindparam("b_ids", expanding=True)
BUCKET = select(t.bucket).where(t.bucket.c.name == bindparam("b_name"))
OBJECT = select(t.object_).where(_o.bucket == bindparam("b_bucket"), _o.key == bindparam("b_key"))
NAMED = select(_o.content_id, _o.etag).where(_o.bucket == bindparam("b_bucket"), _o.key == bindparam("b_key"))
EXTENTS = (
    select(_x.blob_id, _x.offset_bytes, _x.size_bytes)
    .where(_x.content_id == bindparam("b_content_id"))
    .order_by(_x.position)
)
ADD_CONTENT = insert(t.content)
ADD_EXTENTS = insert(t.extent)
_name = upsert(t.object_)
NAME = _name.on_conflict_do_update(
    index_elements=["bucket", "key"],
    set_={column.name: _name.excluded[column.name] for column in t.object_.c if not column.primary_key},
)
UNNAME = (
    delete(t.object_).where(_o.bucket == bindparam("b_bucket"), _o.key == bindparam("b_key")).returning(_o.content_id)
)
CONTENTS_OF_OBJECTS = select(_o.content_id).where(_o.content_id.in_(_ids))
CONTENTS_OF_PARTS = select(t.part.c.content_id).where(t.part.c.content_id.in_(_ids))
BLOBS_OF_CONTENTS = select(_x.blob_id).where(_x.content_id.in_(_ids))
NAMED_BLOBS = select(_x.blob_id).where(_x.blob_id.in_(_ids))
DROP_EXTENTS = delete(t.extent).where(_x.content_id.in_(_ids))
DROP_CONTENTS = delete(t.content).where(t.content.c.content_id.in_(_ids))
DOOM = insert(t.doomed)


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a blob."""

    blob_id: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NewContent:
    """Bytes that lie on the disk and wait for a name."""

    content_id: str
    size_bytes: int
    etag: str
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None
    upload_id: str | None = None
    parts: tuple[tuple[int, int, str, str | None], ...] | None = None  # number, size, etag, checksum value


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


def moment(at_us: int) -> datetime:
    """The aware time behind stored microseconds."""
    return EPOCH + timedelta(microseconds=at_us)


def key_bytes(key: str) -> bytes:
    """The key as it is stored and sorted. Raises: Invalid when empty, longer than 1,024 bytes or not Unicode text."""
    try:
        raw = key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Invalid(f"key {key!r}", "not valid Unicode", rule="InvalidURI") from error
    if not raw:
        raise Invalid("key", "empty", rule="InvalidURI")
    if len(raw) > KEY_MAX_BYTES:
        raise Invalid("key", f"{len(raw)} bytes of UTF-8; {KEY_MAX_BYTES} allowed", rule="KeyTooLongError")
    return raw


def need_bucket(connection: Connection, name: str) -> BucketInfo:
    """Raises: NotFound(kind="Bucket")."""
    row = connection.execute(BUCKET, {"b_name": name}).one_or_none()
    if row is None:
        raise NotFound("Bucket", name)
    return bucket_info(row)


def bucket_info(row: Row[Any]) -> BucketInfo:
    return BucketInfo(name=row.name, region=row.region, owner=row.owner, created_at=moment(row.created_us))


def find_object(connection: Connection, bucket: str, key: bytes) -> ObjectInfo | None:
    row = connection.execute(OBJECT, {"b_bucket": bucket, "b_key": key}).one_or_none()
    return None if row is None else object_info(row)


def need_object(connection: Connection, bucket: str, key: str) -> ObjectInfo:
    """Raises: NotFound(kind="Bucket" or "Key")."""
    found = find_object(connection, bucket, key_bytes(key))
    if found is None:
        need_bucket(connection, bucket)
        raise NotFound("Key", key)
    return found


def object_info(row: Row[Any]) -> ObjectInfo:
    return ObjectInfo(
        bucket=row.bucket,
        key=row.key.decode("utf-8"),
        size_bytes=row.size_bytes,
        etag=row.etag,
        last_modified_at=moment(row.modified_us),
        metadata=metadata_value(row),
        content_id=row.content_id,
        checksum=None
        if row.checksum_algorithm is None
        else Checksum(ChecksumAlgorithm(row.checksum_algorithm), row.checksum_value, ChecksumType(row.checksum_type)),
        part_count=row.part_count,
    )


def metadata_value(row: Row[Any]) -> ObjectMetadata:
    """From a row that has the columns metadata, tags and storage_class."""
    stored = json.loads(row.metadata)
    return ObjectMetadata(
        system=stored["system"], user=stored["user"], tags=json.loads(row.tags), storage_class=row.storage_class
    )


def metadata_columns(metadata: ObjectMetadata) -> dict[str, str]:
    return {
        "metadata": json.dumps({"system": dict(metadata.system), "user": dict(metadata.user)}),
        "tags": tags_text(metadata.tags),
        "storage_class": metadata.storage_class,
    }


def tags_text(tags: Mapping[str, str]) -> str:
    """Raises: Invalid beyond S3's limits (user guide, "Categorizing your storage using tags")."""
    if len(tags) > 10:
        raise Invalid("tags", "Object tags cannot be greater than 10", rule="BadRequest")
    for name, value in tags.items():
        if not 1 <= len(name) <= 128:
            raise Invalid("tags", "The TagKey you have provided is invalid", rule="InvalidTag")
        if len(value) > 256:
            raise Invalid("tags", "The TagValue you have provided is invalid", rule="InvalidTag")
    return json.dumps(dict(tags))


def extents_of(connection: Connection, content_id: str) -> tuple[Extent, ...]:
    rows = connection.execute(EXTENTS, {"b_content_id": content_id})
    return tuple(Extent(*row) for row in rows)


def add_content(connection: Connection, new: NewContent) -> None:
    connection.execute(
        ADD_CONTENT,
        {
            "content_id": new.content_id,
            "size_bytes": new.size_bytes,
            "upload_id": new.upload_id,
            "parts": None if new.parts is None else json.dumps(new.parts),
        },
    )
    if new.extents:
        connection.execute(
            ADD_EXTENTS,
            [
                {
                    "content_id": new.content_id,
                    "position": position,
                    "blob_id": extent.blob_id,
                    "offset_bytes": extent.offset_bytes,
                    "size_bytes": extent.size_bytes,
                }
                for position, extent in enumerate(new.extents)
            ],
        )


def name_content(connection: Connection, info: ObjectInfo, conditions: WriteConditions) -> list[str]:
    """Makes `info` the object under its key; returns the blobs that this leaves without a name.

    The content must be there. Raises: NotFound, PreconditionFailed.
    """
    key = key_bytes(info.key)
    need_bucket(connection, info.bucket)
    old = connection.execute(NAMED, {"b_bucket": info.bucket, "b_key": key}).one_or_none()
    check_write(conditions, None if old is None else old.etag, info.key)
    checksum = info.checksum
    values = {
        "bucket": info.bucket,
        "key": key,
        "content_id": info.content_id,
        "size_bytes": info.size_bytes,
        "etag": info.etag,
        "modified_us": microseconds(info.last_modified_at),
        "checksum_algorithm": None if checksum is None else checksum.algorithm.value,
        "checksum_value": None if checksum is None else checksum.value,
        "checksum_type": None if checksum is None else checksum.type.value,
        "part_count": info.part_count,
        **metadata_columns(info.metadata),
    }
    connection.execute(NAME, values)
    return [] if old is None or old.content_id == info.content_id else release(connection, [old.content_id])


def check_write(conditions: WriteConditions, etag: str | None, key: str) -> None:
    """`etag` is the present object's, None when there is none. Raises: PreconditionFailed, NotFound (If-Match)."""
    if conditions.if_none_match is not None and etag is not None:
        raise PreconditionFailed("If-None-Match")
    if conditions.if_match is not None:
        if etag is None:
            raise NotFound("Key", key)
        if conditions.if_match != "*" and conditions.if_match.strip('"') != etag:
            raise PreconditionFailed("If-Match")


def release(connection: Connection, content_ids: Iterable[str]) -> list[str]:
    """Drops those contents that no object and no part names any more; dooms, and returns, their orphaned blobs."""
    free = set(content_ids)
    for chunk in chunks(sorted(free)):
        for query in (CONTENTS_OF_OBJECTS, CONTENTS_OF_PARTS):
            free.difference_update(connection.execute(query, {"b_ids": chunk}).scalars())
    orphans: list[str] = []
    for chunk in chunks(sorted(free)):
        blob_ids = set(connection.execute(BLOBS_OF_CONTENTS, {"b_ids": chunk}).scalars())
        connection.execute(DROP_EXTENTS, {"b_ids": chunk})
        connection.execute(DROP_CONTENTS, {"b_ids": chunk})
        for some in chunks(sorted(blob_ids)):
            blob_ids.difference_update(connection.execute(NAMED_BLOBS, {"b_ids": some}).scalars())
        orphans.extend(blob_ids)
    if orphans:
        connection.execute(DOOM, [{"blob_id": blob_id} for blob_id in orphans])
    return orphans


def chunks(items: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), CHUNK):
        yield list(items[start : start + CHUNK])
