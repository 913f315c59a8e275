"""One body on its way in: hashed while it is written, checked before anything becomes visible.

`write` any number of times, then `commit` with what the client claimed about the body, or `abort`. Nothing of it can be
seen before `commit` returns, and nothing is left when a claim does not hold. A session belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from clary.domain.errors import ClaryError, Invalid, StoreFailed
from clary.store.blobs import Blobs, TempBlob
from clary.store.checksums import Checksum, ChecksumAlgorithm, encode, running
from clary.store.object_info import WriteConditions
from clary.store.object_rows import Extent, NewContent

T = TypeVar("T")


class PutSession(Generic[T]):
    """Writes one blob; `finish` puts it into the index and returns what the caller gets."""

    def __init__(
        self,
        blobs: Blobs,
        finish: Callable[[NewContent, WriteConditions], T],
        *,
        checksum_algorithm: ChecksumAlgorithm | None,
        hash_sha256: bool,
    ) -> None:
        self._blobs = blobs
        self._finish = finish
        self._algorithm = checksum_algorithm
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256() if hash_sha256 else None
        self._checksum = None if checksum_algorithm is None else running(checksum_algorithm)
        self._file: TempBlob | None = None
        self._ended = False
        self.size_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends to the body. Raises: StoreFailed when the disk refuses."""
        if self._ended:
            raise ValueError("this upload is committed or aborted")
        if not data:
            return
        if self._file is None:
            self._file = self._blobs.start()
        self._file.write(data)
        self._md5.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)
        if self._checksum is not None:
            self._checksum.update(data)
        self.size_bytes += len(data)

    def commit(
        self,
        *,
        expect_md5: bytes | None = None,
        expect_sha256: str | None = None,
        expect_checksum: Checksum | None = None,
        expect_length: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        content_id: str = "",
    ) -> T:
        """Checks every claim, makes the bytes durable, then visible together with their metadata.

        `expect_md5` is the digest, `expect_sha256` lower-case hex (`x-amz-content-sha256`). A `content_id` (32 hex
        digits, never used before) lets who may have died after this find out that it was done.

        Raises: Invalid (rule IncompleteBody, BadDigest, XAmzContentSHA256Mismatch, InvalidRequest), NotFound,
        PreconditionFailed, StoreFailed.
        """
        if self._ended:
            raise ValueError("this upload is committed or aborted")
        try:
            checksum = self._check(expect_md5, expect_sha256, expect_checksum, expect_length)
        except ClaryError:
            self.abort()
            raise
        self._ended = True
        try:
            blob_id = None if self._file is None else self._file.publish()
        except StoreFailed:
            self._discard()
            raise
        content = NewContent(
            content_id=content_id or uuid.uuid4().hex,
            size_bytes=self.size_bytes,
            etag=self._md5.hexdigest(),
            extents=() if blob_id is None else (Extent(blob_id, 0, self.size_bytes),),
            checksum=checksum,
        )
        try:
            return self._finish(content, WriteConditions(if_match, if_none_match))
        except StoreFailed:
            raise  # the index may name the file after all: the next start decides
        except ClaryError:
            if blob_id is not None:
                self._blobs.unlink(blob_id)
            raise

    def abort(self) -> None:
        """Throws the bytes away; nothing when the session has ended."""
        if not self._ended:
            self._ended = True
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _check(
        self, md5: bytes | None, sha256: str | None, checksum: Checksum | None, length: int | None
    ) -> Checksum | None:
        if length is not None and length != self.size_bytes:
            raise Invalid("body", f"{self.size_bytes} bytes came, {length} were announced", rule="IncompleteBody")
        if md5 is not None and md5 != self._md5.digest():
            raise Invalid("body", "the Content-MD5 does not match what was received", rule="BadDigest")
        if sha256 is not None:
            if self._sha256 is None:
                raise ValueError("expect_sha256 needs a session that was begun with hash_sha256=True")
            if sha256 != self._sha256.hexdigest():
                raise Invalid(
                    "body", "its SHA-256 is not the announced x-amz-content-sha256", rule="XAmzContentSHA256Mismatch"
                )
        if self._checksum is None or self._algorithm is None:
            if checksum is not None:
                raise ValueError("expect_checksum needs a session that was begun with that checksum_algorithm")
            return None
        found = Checksum(self._algorithm, encode(self._checksum.digest()))
        if checksum is not None and checksum.algorithm is not self._algorithm:
            raise Invalid("checksum", f"{checksum.algorithm} sent, {self._algorithm} announced", rule="InvalidRequest")
        if checksum is not None and checksum.value != found.value:
            raise Invalid(
                "body", f"the {self._algorithm} you specified did not match the calculated checksum", rule="BadDigest"
            )
        return found
