"""Buckets and keys on a folder: the object store behind our S3 front.

    objects.db      what exists: buckets, keys, metadata, uploads, which stretches of which files (object_schema)
    blobs/          immutable files under names of our own (blobs)
    tmp/            bodies on their way in; emptied at every start
    lock            held by the one process that has the store open

A put goes: file in tmp/ -> hashed while written -> claims checked -> fsync -> rename -> fsync of the folder -> one
transaction in the index. That commit is the moment at which data and metadata become visible together, so a reader sees
the old object, the new one or none, and what was acknowledged survives both kill -9 and, in `Durability.FULL`, a power
cut. Files that the commit orphaned go afterwards, as soon as nobody reads them; what a crash leaves over is found at
the next start (rows in `doomed`, files of sessions that never ended).

Everything here is synchronous and thread-safe; the S3 service calls it on threads of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from clary.domain.errors import AlreadyExists, InUse, Invalid
from clary.store import listing, multipart, scrub
from clary.store import object_schema as t
from clary.store.checksums import Checksum, ChecksumAlgorithm
from clary.store.object_events import NOTIFICATION, note
from clary.store.object_info import (
    BucketInfo,
    DeleteResult,
    ObjectInfo,
    ObjectMetadata,
    Page,
    PartInfo,
    ReadConditions,
    WriteConditions,
)
from clary.store.object_reader import ObjectReader
from clary.store.object_rows import (
    UNNAME,
    NewContent,
    add_content,
    bucket_info,
    check_write,
    find_object,
    key_bytes,
    microseconds,
    name_content,
    need_bucket,
    need_object,
    release,
    tags_text,
)
from clary.store.put_session import PutSession
from clary.store.upload_operations import UploadOperations

# S3 user guide, "General purpose bucket naming rules".
BUCKET_NAME = re.compile(r"(?!xn--|sthree-)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?<!-s3alias)(?<!--ol-s3)")
BUCKET_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


class ObjectStore(UploadOperations):
    """Buckets and keys on a folder.

    Raises, from any operation: NotFound, Invalid and the like as said there; StoreFailed when disk or database refuse.
    From the constructor also: Corrupt (damaged index), Unsupported (a newer clary's folder), InUse (open elsewhere).
    """

    # Buckets

    def create_bucket(self, name: str, region: str, *, owner: str = "") -> BucketInfo:
        """Raises: AlreadyExists, Invalid(rule="InvalidBucketName")."""
        if BUCKET_NAME.fullmatch(name) is None or ".." in name or BUCKET_ADDRESS.fullmatch(name):
            raise Invalid(f'bucket name "{name}"', "3 to 63 of a-z 0-9 . - and no address", rule="InvalidBucketName")
        info = BucketInfo(name=name, region=region, owner=owner, created_at=self._now())

        def job(connection: Connection) -> None:
            if connection.execute(select(t.bucket.c.name).where(t.bucket.c.name == name)).one_or_none() is not None:
                raise AlreadyExists("Bucket", name)
            connection.execute(
                insert(t.bucket).values(name=name, region=region, owner=owner, created_us=microseconds(info.created_at))
            )

        self._write(job)
        return info

    def delete_bucket(self, name: str) -> None:
        """Raises: NotFound, InUse when it holds objects. Uploads under way in it are dropped."""

        def job(connection: Connection) -> list[str]:
            need_bucket(connection, name)
            if connection.execute(select(t.object_.c.key).where(t.object_.c.bucket == name).limit(1)).first():
                raise InUse("Bucket", name, by="the objects in it")
            uploads = connection.execute(select(t.upload.c.upload_id).where(t.upload.c.bucket == name)).scalars().all()
            orphans = [one for upload_id in uploads for one in multipart.end_upload(connection, upload_id)]
            connection.execute(delete(t.bucket).where(t.bucket.c.name == name))
            return orphans

        self._write_and_retire(job)

    def head_bucket(self, name: str) -> BucketInfo:
        """Raises: NotFound."""
        with self._read() as connection:
            return need_bucket(connection, name)

    def list_buckets(self) -> tuple[BucketInfo, ...]:
        """All of them, by name."""
        with self._read() as connection:
            return tuple(bucket_info(row) for row in connection.execute(select(t.bucket).order_by(t.bucket.c.name)))

    def put_bucket_document(self, name: str, kind: str, body: str | None) -> None:
        """Keeps a bucket's setting ("tagging", "lifecycle", ...) as the service wrote it; None removes it."""
        c = t.bucket_document.c

        def job(connection: Connection) -> None:
            need_bucket(connection, name)
            if body is None:
                connection.execute(delete(t.bucket_document).where(c.bucket == name, c.kind == kind))
            else:
                if kind == NOTIFICATION:
                    self._watched.add(name)  # every change is a job of the same thread: none slips by
                connection.execute(
                    upsert(t.bucket_document)
                    .values(bucket=name, kind=kind, body=body)
                    .on_conflict_do_update(index_elements=["bucket", "kind"], set_={"body": body})
                )

        self._write(job)

    def bucket_document(self, name: str, kind: str) -> str | None:
        """That setting, None when it was never put. Raises: NotFound for the bucket."""
        c = t.bucket_document.c
        with self._read() as connection:
            need_bucket(connection, name)
            return connection.execute(select(c.body).where(c.bucket == name, c.kind == kind)).scalar_one_or_none()

    # Objects

    def begin_put(
        self,
        bucket: str,
        key: str,
        *,
        metadata: ObjectMetadata,
        checksum_algorithm: ChecksumAlgorithm | None = None,
        hash_sha256: bool = True,
    ) -> PutSession[ObjectInfo]:
        """A session for one object; `hash_sha256=False` when nobody will ask for `expect_sha256`."""
        key_bytes(key)
        tags_text(metadata.tags)
        self.head_bucket(bucket)

        def finish(content: NewContent, conditions: WriteConditions) -> ObjectInfo:
            info = ObjectInfo(
                bucket=bucket,
                key=key,
                size_bytes=content.size_bytes,
                etag=content.etag,
                last_modified_at=self._now(),
                metadata=metadata,
                content_id=content.content_id,
                checksum=content.checksum,
            )

            def job(connection: Connection) -> list[str]:
                add_content(connection, content)
                orphans = name_content(connection, info, conditions)
                self._note(connection, "ObjectCreated:Put", info)
                return orphans

            self._write_and_retire(job)
            self._tell(bucket)
            return info

        return PutSession(self._blobs, finish, checksum_algorithm=checksum_algorithm, hash_sha256=hash_sha256)

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Raises: NotFound(kind="Bucket" or "Key")."""
        with self._read() as connection:
            return need_object(connection, bucket, key)

    def path_of(self, bucket: str, key: str) -> ObjectReader:
        """A reader whose `stretches` (path, offset, size) may be read in place until it is closed: one immutable file
        for an object that was put in one piece, one a part for a multipart one, none for an empty one."""
        return self.open(bucket, key)

    def parts_of(self, bucket: str, key: str) -> tuple[PartInfo, ...]:
        """The parts that a multipart object was made of; empty for others. Raises: NotFound."""
        with self._read() as connection:
            return multipart.parts_of(connection, need_object(connection, bucket, key))

    def delete(self, bucket: str, key: str, *, if_match: str | None = None) -> bool:
        """True when there was something to delete. Raises: NotFound for the bucket, PreconditionFailed."""
        return self.delete_many(bucket, [key], if_match=if_match)[0].existed

    def delete_many(self, bucket: str, keys: Sequence[str], *, if_match: str | None = None) -> list[DeleteResult]:
        """Deletes all of them in one transaction; a missing key is no error. Raises: NotFound for the bucket."""
        raw = [key_bytes(key) for key in keys]
        conditions = WriteConditions(if_match=if_match)

        def job(connection: Connection) -> tuple[list[DeleteResult], list[str]]:
            need_bucket(connection, bucket)
            results: list[DeleteResult] = []
            contents: list[str] = []
            for key, stored in zip(keys, raw, strict=True):
                if if_match is not None:
                    present = find_object(connection, bucket, stored)
                    check_write(conditions, None if present is None else present.etag, key)
                gone = connection.execute(UNNAME, {"b_bucket": bucket, "b_key": stored}).scalar_one_or_none()
                results.append(DeleteResult(key, gone is not None))
                if gone is not None:
                    contents.append(gone)
                    if bucket in self._watched:
                        note(connection, "ObjectRemoved:Delete", bucket, key, self._now())
            return results, release(connection, contents)

        results, orphans = self._write(job)
        self._retire(orphans)
        self._tell(bucket)
        return results

    def copy(
        self,
        source_bucket: str,
        source_key: str,
        bucket: str,
        key: str,
        *,
        metadata: ObjectMetadata | None = None,
        tags: Mapping[str, str] | None = None,
        checksum_algorithm: ChecksumAlgorithm | None = None,
        source_conditions: ReadConditions | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """A second name for the same bytes; nothing is copied on the disk, and the ETag stays.

        `metadata` and `tags` replace the source's where given (directive REPLACE). A `checksum_algorithm` other than
        the source's makes the bytes be read once.

        Raises: NotFound, PreconditionFailed (also where a GET would say 304), Invalid for a copy onto itself that
        changes nothing.
        """
        if (source_bucket, source_key) == (bucket, key) and metadata is None and tags is None:
            raise Invalid(
                "copy",
                "This copy request is illegal because it is trying to copy an object to itself without changing the "
                "object's metadata, storage class, website redirect location or encryption attributes.",
                rule="InvalidRequest",
            )
        new_key = key_bytes(key)
        if metadata is not None:
            tags_text(metadata.tags)
        while True:
            source, checksum = self._copy_source(source_bucket, source_key, checksum_algorithm)

            def job(
                connection: Connection, source: ObjectInfo = source, checksum: Checksum | None = checksum
            ) -> tuple[ObjectInfo, list[str]] | None:
                found = need_object(connection, source_bucket, source_key)
                if source_conditions is not None:
                    source_conditions.check_copy(found)
                if found.content_id != source.content_id:
                    return None  # replaced while its checksum was being read: begin again
                kept = found.metadata if metadata is None else metadata
                info = ObjectInfo(
                    bucket=bucket,
                    key=new_key.decode(),
                    size_bytes=found.size_bytes,
                    etag=found.etag,
                    last_modified_at=self._now(),
                    metadata=ObjectMetadata(
                        kept.system, kept.user, found.metadata.tags if tags is None else tags, kept.storage_class
                    ),
                    content_id=found.content_id,
                    checksum=checksum,
                    part_count=found.part_count,
                )
                orphans = name_content(connection, info, WriteConditions(if_match, if_none_match))
                self._note(connection, "ObjectCreated:Copy", info)
                return info, orphans

            done = self._write(job)
            if done is not None:
                self._retire(done[1])
                self._tell(bucket)
                return done[0]

    def list_objects(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", start_after: str = "", max_keys: int = 1000
    ) -> Page:
        """Keys and common prefixes after `start_after`, in UTF-8 byte order. Raises: NotFound."""
        with self._read() as connection:
            need_bucket(connection, bucket)
            return listing.list_objects(
                connection, bucket, prefix=prefix, delimiter=delimiter, start_after=start_after, max_keys=max_keys
            )

    # Tags

    def get_tags(self, bucket: str, key: str) -> Mapping[str, str]:
        """Raises: NotFound."""
        return self.head(bucket, key).metadata.tags

    def put_tags(self, bucket: str, key: str, tags: Mapping[str, str]) -> None:
        """Replaces all of an object's tags; an empty mapping removes them. Raises: NotFound, Invalid."""
        text = tags_text(tags)

        def job(connection: Connection) -> None:
            need_object(connection, bucket, key)
            connection.execute(
                update(t.object_)
                .where(t.object_.c.bucket == bucket, t.object_.c.key == key_bytes(key))
                .values(tags=text)
            )

        self._write(job)

    def delete_tags(self, bucket: str, key: str) -> None:
        """Raises: NotFound."""
        self.put_tags(bucket, key, {})

    # Care

    def verify(self, bucket: str, key: str) -> None:
        """Reads every byte again and compares with the ETag and the checksum. Raises: NotFound, Corrupt."""
        with self.open(bucket, key) as reader:
            scrub.verify(reader, self.parts_of(bucket, key))

    def _copy_source(
        self, bucket: str, key: str, algorithm: ChecksumAlgorithm | None
    ) -> tuple[ObjectInfo, Checksum | None]:
        source = self.head(bucket, key)
        if algorithm is None or (source.checksum is not None and source.checksum.algorithm is algorithm):
            return source, source.checksum
        with self.open(bucket, key) as reader:
            return reader.info, scrub.digests(reader, algorithm).checksum
