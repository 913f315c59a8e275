"""Listing keys and uploads in UTF-8 byte order, with common prefixes.

A common prefix is not found by reading every key under it: the first key that shows it is enough, and the next query
starts at the prefix's successor (its last byte plus one). Small folders cost no extra query, because rows come in
batches and the rest of a folder inside a batch is stepped over in memory.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, tuple_

from clary.store import object_schema as t
from clary.store.checksums import ChecksumAlgorithm, ChecksumType
from clary.store.object_info import ListedObject, Page, UploadInfo, UploadPage
from clary.store.object_rows import metadata_value, moment

BATCH_ROWS = 256


def list_objects(
    connection: Connection, bucket: str, *, prefix: str, delimiter: str, start_after: str, max_keys: int
) -> Page:
    """Up to `max_keys` keys and common prefixes, together in order; the bucket is known to exist.

    A `start_after` inside a common prefix passes that whole prefix by, as a prefix is listed only when it is greater
    than the marker.
    """
    if max_keys <= 0:
        return Page((), (), None)
    head, split = prefix.encode(), delimiter.encode()
    low, inclusive = _first(head, split, start_after.encode())
    high = successor(head)
    objects: list[ListedObject] = []
    prefixes: list[str] = []
    last = ""
    while True:
        wanted = max_keys - len(objects) - len(prefixes) + 1
        limit = min(wanted, BATCH_ROWS) if split else wanted
        rows = _rows(connection, bucket, low, inclusive, high, limit)
        skip: bytes | None = None
        for row in rows:
            if skip is not None and row.key.startswith(skip):
                continue
            if len(objects) + len(prefixes) == max_keys:
                return Page(tuple(objects), tuple(prefixes), last)
            skip = common_prefix(row.key, head, split)
            if skip is None:
                objects.append(_listed(row))
                last = objects[-1].key
            else:
                prefixes.append(skip.decode())
                last = prefixes[-1]
        if len(rows) < limit:
            return Page(tuple(objects), tuple(prefixes), None)
        if skip is None:
            low, inclusive = rows[-1].key, False
        else:
            low, inclusive = successor(skip) or b"", True


def common_prefix(key: bytes, head: bytes, split: bytes) -> bytes | None:
    """The key up to and with the first delimiter after `head`; None without one."""
    if not split:
        return None
    at = key.find(split, len(head))
    return None if at < 0 else key[: at + len(split)]


def successor(head: bytes) -> bytes | None:
    """The smallest bytes greater than everything that starts with `head`; None when there is no end."""
    stem = head.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _first(head: bytes, split: bytes, after: bytes) -> tuple[bytes, bool]:
    """Where to begin, and whether that very key counts."""
    if after < head or not after:
        return head, True
    group = common_prefix(after, head, split) if after.startswith(head) else None
    if group is None:
        return after, False
    return successor(group) or b"", True


def _rows(
    connection: Connection, bucket: str, low: bytes, inclusive: bool, high: bytes | None, limit: int
) -> list[Row[Any]]:
    c = t.object_.c
    query = (
        select(c.key, c.size_bytes, c.etag, c.modified_us, c.storage_class, c.checksum_algorithm, c.checksum_type)
        .where(c.bucket == bucket, c.key >= low if inclusive else c.key > low)
        .order_by(c.key)
        .limit(limit)
    )
    if high is not None:
        query = query.where(c.key < high)
    return list(connection.execute(query))


def _listed(row: Row[Any]) -> ListedObject:
    return ListedObject(
        key=row.key.decode(),
        size_bytes=row.size_bytes,
        etag=row.etag,
        last_modified_at=moment(row.modified_us),
        storage_class=row.storage_class,
        checksum_algorithm=None if row.checksum_algorithm is None else ChecksumAlgorithm(row.checksum_algorithm),
        checksum_type=None if row.checksum_type is None else ChecksumType(row.checksum_type),
    )


def list_uploads(
    connection: Connection,
    bucket: str,
    *,
    prefix: str,
    delimiter: str,
    key_marker: str,
    upload_id_marker: str,
    max_uploads: int,
) -> UploadPage:
    """Up to `max_uploads` uploads and common prefixes, by key and then by the time of their start.

    Uploads under way are few, so common prefixes are found by walking them.
    """
    head, split = prefix.encode(), delimiter.encode()
    c = t.upload.c
    query = select(t.upload).where(c.bucket == bucket, c.key >= head).order_by(c.key, c.upload_id)
    high = successor(head)
    if high is not None:
        query = query.where(c.key < high)
    marker = key_marker.encode()
    if marker and upload_id_marker:
        query = query.where(tuple_(c.key, c.upload_id) > tuple_(marker, upload_id_marker))
    elif marker:
        query = query.where(c.key > marker)
    uploads: list[UploadInfo] = []
    prefixes: list[str] = []
    last = ("", "")
    passed = common_prefix(marker, head, split) if marker.startswith(head) else None
    for row in connection.execute(query):
        if passed is not None and row.key.startswith(passed):
            continue
        if len(uploads) + len(prefixes) == max_uploads:
            return UploadPage(tuple(uploads), tuple(prefixes), last)
        passed = common_prefix(row.key, head, split)
        if passed is None:
            uploads.append(upload_info(row))
            last = (uploads[-1].key, uploads[-1].upload_id)
        else:
            prefixes.append(passed.decode())
            last = (prefixes[-1], "")
    return UploadPage(tuple(uploads), tuple(prefixes), None)


def upload_info(row: Row[Any]) -> UploadInfo:
    return UploadInfo(
        upload_id=row.upload_id,
        bucket=row.bucket,
        key=row.key.decode(),
        initiated_at=moment(row.initiated_us),
        metadata=metadata_value(row),
        checksum_algorithm=None if row.checksum_algorithm is None else ChecksumAlgorithm(row.checksum_algorithm),
        checksum_type=None if row.checksum_type is None else ChecksumType(row.checksum_type),
    )
