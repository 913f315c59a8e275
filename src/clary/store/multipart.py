"""Multipart uploads: parts are contents of their own, and completing joins their extents.

So CompleteMultipartUpload costs rows, not bytes, whatever the size. Every function runs inside a transaction that its
caller holds (`complete` and the like inside a job of the index writer), and answers with the blobs that it orphaned.

Rules and words are S3's (API reference, CompleteMultipartUpload; user guide, "Checking object integrity"): parts in
ascending order, each with the ETag that its upload gave, at least 5 MiB except the last; the ETag is the MD5 of the
parts' MD5s with "-N"; a checksum is composite, or for CRCs over the full object.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from clary.domain.errors import Invalid, NotFound
from clary.store import checksums
from clary.store import object_schema as t
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType
from clary.store.listing import upload_info
from clary.store.object_info import CompletedPart, ObjectInfo, PartInfo, PartPage, UploadInfo, WriteConditions
from clary.store.object_rows import (
    Extent,
    NewContent,
    add_content,
    find_object,
    key_bytes,
    metadata_columns,
    microseconds,
    moment,
    name_content,
    need_bucket,
    release,
)

# S3 user guide, "Amazon S3 multipart upload limits".
PARTS_MAX = 10_000


def checksum_type_of(algorithm: ChecksumAlgorithm | None, asked: ChecksumType | None) -> ChecksumType | None:
    """The type that an upload has; CRC64NVME is always over the full object, the rest composite unless asked.

    Raises: Invalid for a pair that S3 does not have.
    """
    if algorithm is None:
        if asked is not None:
            raise Invalid("checksum type", "needs a checksum algorithm beside it", rule="InvalidRequest")
        return None
    default = ChecksumType.FULL_OBJECT if algorithm is ChecksumAlgorithm.CRC64NVME else ChecksumType.COMPOSITE
    chosen = asked or default
    impossible = (
        algorithm not in checksums.CRC_SHAPES
        if chosen is ChecksumType.FULL_OBJECT
        else algorithm is ChecksumAlgorithm.CRC64NVME
    )
    if impossible:
        raise Invalid(
            "checksum type",
            f"The {chosen} checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
            rule="InvalidRequest",
        )
    return chosen


def add_upload(connection: Connection, upload: UploadInfo) -> None:
    """Raises: NotFound(kind="Bucket")."""
    need_bucket(connection, upload.bucket)
    connection.execute(
        insert(t.upload).values(
            upload_id=upload.upload_id,
            bucket=upload.bucket,
            key=key_bytes(upload.key),
            initiated_us=microseconds(upload.initiated_at),
            checksum_algorithm=None if upload.checksum_algorithm is None else upload.checksum_algorithm.value,
            checksum_type=None if upload.checksum_type is None else upload.checksum_type.value,
            **metadata_columns(upload.metadata),
        )
    )


def need_upload(connection: Connection, bucket: str, key: str, upload_id: str) -> UploadInfo:
    """Raises: NotFound(kind="Bucket" or "Upload")."""
    c = t.upload.c
    row = connection.execute(
        select(t.upload).where(c.upload_id == upload_id, c.bucket == bucket, c.key == key_bytes(key))
    ).one_or_none()
    if row is None:
        need_bucket(connection, bucket)
        raise NotFound("Upload", upload_id)
    return upload_info(row)


def put_part(
    connection: Connection, upload: UploadInfo, number: int, new: NewContent, at: datetime
) -> tuple[PartInfo, list[str]]:
    """Adds or replaces a part whose content is not yet in the index. Raises: NotFound when the upload has ended."""
    need_upload(connection, upload.bucket, upload.key, upload.upload_id)
    c = t.part.c
    old = connection.execute(
        select(c.content_id).where(c.upload_id == upload.upload_id, c.number == number)
    ).scalar_one_or_none()
    add_content(connection, new)
    values = {
        "content_id": new.content_id,
        "size_bytes": new.size_bytes,
        "etag": new.etag,
        "modified_us": microseconds(at),
        "checksum_algorithm": None if new.checksum is None else new.checksum.algorithm.value,
        "checksum_value": None if new.checksum is None else new.checksum.value,
    }
    connection.execute(
        upsert(t.part)
        .values(upload_id=upload.upload_id, number=number, **values)
        .on_conflict_do_update(index_elements=["upload_id", "number"], set_=values)
    )
    info = PartInfo(number=number, size_bytes=new.size_bytes, etag=new.etag, last_modified_at=at, checksum=new.checksum)
    return info, [] if old is None else release(connection, [old])


def list_parts(connection: Connection, upload_id: str, *, after: int, max_parts: int) -> PartPage:
    """Parts by number; the upload is known to exist."""
    c = t.part.c
    rows = connection.execute(
        select(t.part).where(c.upload_id == upload_id, c.number > after).order_by(c.number).limit(max_parts + 1)
    ).all()
    parts = tuple(part_info(row) for row in rows[:max_parts])
    return PartPage(parts, parts[-1].number if len(rows) > max_parts and parts else None)


def part_info(row: Row[Any]) -> PartInfo:
    return PartInfo(
        number=row.number,
        size_bytes=row.size_bytes,
        etag=row.etag,
        last_modified_at=moment(row.modified_us),
        checksum=None
        if row.checksum_algorithm is None
        else Checksum(ChecksumAlgorithm(row.checksum_algorithm), row.checksum_value),
    )


def completed_before(connection: Connection, bucket: str, key: str, upload_id: str) -> ObjectInfo | None:
    """The object, when it is the very one that this upload made: a client that lost the answer asks again."""
    found = find_object(connection, bucket, key_bytes(key))
    if found is None:
        return None
    made_by = connection.execute(
        select(t.content.c.upload_id).where(t.content.c.content_id == found.content_id)
    ).scalar_one()
    return found if made_by == upload_id else None


def complete(
    connection: Connection,
    bucket: str,
    key: str,
    upload_id: str,
    chosen: Sequence[CompletedPart],
    *,
    at: datetime,
    min_part_bytes: int,
    expect_checksum: Checksum | None,
    expect_length: int | None,
    conditions: WriteConditions,
) -> tuple[ObjectInfo, list[str]]:
    """Makes the object and ends the upload.

    Raises: NotFound, PreconditionFailed, Invalid (rule MalformedXML, InvalidPart, InvalidPartOrder, EntityTooSmall,
    BadDigest, InvalidRequest).
    """
    try:
        upload = need_upload(connection, bucket, key, upload_id)
    except NotFound:
        again = completed_before(connection, bucket, key, upload_id)
        if again is None:
            raise
        return again, []
    stored = {row.number: row for row in connection.execute(select(t.part).where(t.part.c.upload_id == upload_id))}
    rows = _chosen_rows(chosen, stored, min_part_bytes)
    size_bytes = sum(row.size_bytes for row in rows)
    if expect_length is not None and expect_length != size_bytes:
        raise Invalid(
            "x-amz-mp-object-size", f"{expect_length} announced, {size_bytes} uploaded", rule="InvalidRequest"
        )
    checksum = _whole_checksum(upload, rows, expect_checksum)
    outer = hashlib.md5(b"".join(bytes.fromhex(row.etag) for row in rows), usedforsecurity=False)
    content = NewContent(
        content_id=uuid.uuid4().hex,
        size_bytes=size_bytes,
        etag=f"{outer.hexdigest()}-{len(rows)}",
        extents=_joined_extents(connection, rows),
        checksum=checksum,
        upload_id=upload_id,
        parts=tuple((row.number, row.size_bytes, row.etag, row.checksum_value) for row in rows),
    )
    info = ObjectInfo(
        bucket=bucket,
        key=key,
        size_bytes=size_bytes,
        etag=content.etag,
        last_modified_at=at,
        metadata=upload.metadata,
        content_id=content.content_id,
        checksum=checksum,
        part_count=len(rows),
    )
    add_content(connection, content)
    orphans = name_content(connection, info, conditions)
    return info, orphans + end_upload(connection, upload_id)


def end_upload(connection: Connection, upload_id: str) -> list[str]:
    """Forgets an upload and its parts; returns the blobs that nothing names any more."""
    c = t.part.c
    content_ids = connection.execute(select(c.content_id).where(c.upload_id == upload_id)).scalars().all()
    connection.execute(delete(t.part).where(c.upload_id == upload_id))
    connection.execute(delete(t.upload).where(t.upload.c.upload_id == upload_id))
    return release(connection, content_ids)


def parts_of(connection: Connection, info: ObjectInfo) -> tuple[PartInfo, ...]:
    """The parts that an object was made of; empty when it was put in one piece."""
    text = connection.execute(
        select(t.content.c.parts).where(t.content.c.content_id == info.content_id)
    ).scalar_one_or_none()
    algorithm = None if info.checksum is None else info.checksum.algorithm
    return tuple(
        PartInfo(
            number=number,
            size_bytes=size_bytes,
            etag=etag,
            last_modified_at=info.last_modified_at,
            checksum=None if value is None or algorithm is None else Checksum(algorithm, value),
        )
        for number, size_bytes, etag, value in (json.loads(text) if text else [])
    )


def _chosen_rows(chosen: Sequence[CompletedPart], stored: dict[int, Row[Any]], min_part_bytes: int) -> list[Row[Any]]:
    if not chosen:
        raise Invalid("parts", "You must specify at least one part", rule="MalformedXML")
    numbers = [part.number for part in chosen]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise Invalid(
            "parts",
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
            rule="InvalidPartOrder",
        )
    rows = []
    for part in chosen:
        row = stored.get(part.number)
        if row is None or part.etag.strip('"') != row.etag or _other_checksum(part, row):
            raise Invalid(
                f"part {part.number}",
                "One or more of the specified parts could not be found. The part may not have been uploaded, or the "
                "specified entity tag may not match the part's entity tag.",
                rule="InvalidPart",
            )
        rows.append(row)
    for row in rows[:-1]:
        if row.size_bytes < min_part_bytes:
            raise Invalid(
                f"part {row.number}",
                f"Your proposed upload is smaller than the minimum allowed size: {row.size_bytes} bytes, "
                f"{min_part_bytes} needed for all but the last part",
                rule="EntityTooSmall",
            )
    return rows


def _other_checksum(part: CompletedPart, row: Row[Any]) -> bool:
    if part.checksum is None or row.checksum_algorithm is None:
        return False
    return (part.checksum.algorithm.value, part.checksum.value) != (row.checksum_algorithm, row.checksum_value)


def _whole_checksum(upload: UploadInfo, rows: list[Row[Any]], expected: Checksum | None) -> Checksum | None:
    algorithm = upload.checksum_algorithm
    if algorithm is None:
        return None
    for row in rows:
        if row.checksum_algorithm != algorithm.value:
            raise Invalid(f"part {row.number}", f"was uploaded without {algorithm}", rule="InvalidRequest")
    if upload.checksum_type is ChecksumType.FULL_OBJECT:
        whole = checksums.full_object(algorithm, [(row.checksum_value, row.size_bytes) for row in rows])
    else:
        whole = checksums.composite(algorithm, [row.checksum_value for row in rows])
    if expected is not None and (expected.algorithm is not algorithm or expected.value != whole.value):
        raise Invalid(
            "object", f"the {algorithm} you specified did not match the calculated checksum", rule="BadDigest"
        )
    return whole


def _joined_extents(connection: Connection, rows: list[Row[Any]]) -> tuple[Extent, ...]:
    """The extents of the parts' contents, part after part."""
    c, p = t.extent.c, t.part.c
    of_content: dict[str, list[Extent]] = {}
    found = connection.execute(
        select(c.content_id, c.blob_id, c.offset_bytes, c.size_bytes)
        .join_from(t.part, t.extent, p.content_id == c.content_id)
        .where(p.upload_id == rows[0].upload_id)
        .order_by(c.content_id, c.position)
    )
    for row in found:
        of_content.setdefault(row.content_id, []).append(Extent(row.blob_id, row.offset_bytes, row.size_bytes))
    return tuple(extent for row in rows for extent in of_content.get(row.content_id, ()))
