"""Multipart uploads as operations of the store; their rules are in `multipart`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, select

from clary.domain.errors import Conflict, Invalid
from clary.store import listing, multipart, scrub
from clary.store import object_schema as t
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType
from clary.store.object_folder import ObjectFolder
from clary.store.object_info import (
    CompletedPart,
    ObjectInfo,
    ObjectMetadata,
    PartInfo,
    PartPage,
    ReadConditions,
    UploadInfo,
    UploadPage,
    WriteConditions,
)
from clary.store.object_rows import NewContent, microseconds, need_bucket
from clary.store.put_session import PutSession


class UploadOperations(ObjectFolder):
    """What S3 calls multipart uploads."""

    def create_upload(
        self,
        bucket: str,
        key: str,
        *,
        metadata: ObjectMetadata,
        checksum_algorithm: ChecksumAlgorithm | None = None,
        checksum_type: ChecksumType | None = None,
    ) -> UploadInfo:
        """Raises: NotFound for the bucket, Invalid."""
        at = self._now()
        upload = UploadInfo(
            # The time stands first, so that uploads of one key sort by their start.
            upload_id=f"{microseconds(at):016x}{uuid.uuid4().hex}",
            bucket=bucket,
            key=key,
            initiated_at=at,
            metadata=metadata,
            checksum_algorithm=checksum_algorithm,
            checksum_type=multipart.checksum_type_of(checksum_algorithm, checksum_type),
        )
        self._write(lambda connection: multipart.add_upload(connection, upload))
        return upload

    def head_upload(self, bucket: str, key: str, upload_id: str) -> UploadInfo:
        """Raises: NotFound(kind="Bucket" or "Upload")."""
        with self._read() as connection:
            return multipart.need_upload(connection, bucket, key, upload_id)

    def begin_part(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        *,
        checksum_algorithm: ChecksumAlgorithm | None = None,
        hash_sha256: bool = True,
    ) -> PutSession[PartInfo]:
        """A session for one part; the upload's own checksum algorithm is the default. Raises: NotFound, Invalid."""
        upload = self._upload_for(bucket, key, upload_id, number)

        def finish(content: NewContent, _conditions: WriteConditions) -> PartInfo:
            return self._put_part(upload, number, content)

        return PutSession(
            self._blobs,
            finish,
            checksum_algorithm=checksum_algorithm or upload.checksum_algorithm,
            hash_sha256=hash_sha256,
        )

    def copy_part(
        self,
        source_bucket: str,
        source_key: str,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        *,
        start: int = 0,
        end: int | None = None,
        source_conditions: ReadConditions | None = None,
    ) -> PartInfo:
        """A part from the bytes [start, end) of an object: read once for its MD5, not copied.

        Raises: NotFound, Invalid, PreconditionFailed, Conflict when the source went away meanwhile.
        """
        upload = self._upload_for(bucket, key, upload_id, number)
        with self.open(source_bucket, source_key, start, end) as reader:
            if source_conditions is not None:
                source_conditions.check_copy(reader.info)
            if end is not None and end > reader.info.size_bytes:
                raise Invalid(
                    "range", f"ends at byte {end} of an object of {reader.info.size_bytes} bytes", rule="InvalidRange"
                )
            digests = scrub.digests(reader, upload.checksum_algorithm)
            content = NewContent(uuid.uuid4().hex, reader.size_bytes, digests.md5_hex, reader.extents, digests.checksum)
            return self._put_part(upload, number, content, source_content_id=reader.info.content_id)

    def list_parts(self, bucket: str, key: str, upload_id: str, *, after: int = 0, max_parts: int = 1000) -> PartPage:
        """Raises: NotFound."""
        with self._read() as connection:
            multipart.need_upload(connection, bucket, key, upload_id)
            return multipart.list_parts(connection, upload_id, after=after, max_parts=max_parts)

    def list_uploads(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        key_marker: str = "",
        upload_id_marker: str = "",
        max_uploads: int = 1000,
    ) -> UploadPage:
        """Raises: NotFound."""
        with self._read() as connection:
            need_bucket(connection, bucket)
            return listing.list_uploads(
                connection,
                bucket,
                prefix=prefix,
                delimiter=delimiter,
                key_marker=key_marker,
                upload_id_marker=upload_id_marker,
                max_uploads=max_uploads,
            )

    def complete(
        self,
        bucket: str,
        key: str,
        upload_id: str,
        parts: Sequence[CompletedPart],
        *,
        expect_checksum: Checksum | None = None,
        expect_length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> ObjectInfo:
        """Makes the object of those parts; asked again after success, answers the same.

        Raises: see multipart.complete.
        """
        at = self._now()

        def job(connection: Connection) -> tuple[ObjectInfo, list[str]]:
            again = multipart.completed_before(connection, bucket, key, upload_id)
            info, orphans = multipart.complete(
                connection,
                bucket,
                key,
                upload_id,
                parts,
                at=at,
                min_part_bytes=self._min_part_bytes,
                expect_checksum=expect_checksum,
                expect_length=expect_length,
                conditions=WriteConditions(if_match, if_none_match),
            )
            if again is None:
                self._note(connection, "ObjectCreated:CompleteMultipartUpload", info)
            return info, orphans

        info, orphans = self._write(job)
        self._retire(orphans)
        self._tell(bucket)
        return info

    def abort(self, bucket: str, key: str, upload_id: str) -> None:
        """Drops an upload and its parts. Raises: NotFound."""

        def job(connection: Connection) -> list[str]:
            multipart.need_upload(connection, bucket, key, upload_id)
            return multipart.end_upload(connection, upload_id)

        self._write_and_retire(job)

    def _upload_for(self, bucket: str, key: str, upload_id: str, number: int) -> UploadInfo:
        if not 1 <= number <= multipart.PARTS_MAX:
            raise Invalid(
                f"part number {number}",
                f"Part number must be an integer between 1 and {multipart.PARTS_MAX}, inclusive",
                rule="InvalidArgument",
            )
        return self.head_upload(bucket, key, upload_id)

    def _put_part(
        self, upload: UploadInfo, number: int, content: NewContent, *, source_content_id: str | None = None
    ) -> PartInfo:
        at = self._now()

        def job(connection: Connection) -> tuple[PartInfo, list[str]]:
            if source_content_id is not None:
                c = t.content.c
                if connection.execute(select(c.content_id).where(c.content_id == source_content_id)).first() is None:
                    raise Conflict("copy source", "it was replaced or deleted while it was being read; ask again")
            return multipart.put_part(connection, upload, number, content, at)

        info, orphans = self._write(job)
        self._retire(orphans)
        return info
