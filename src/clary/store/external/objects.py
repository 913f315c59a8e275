"""Somebody else's S3 in the place of our own object store, for everything in control that reads and writes objects.

An object that is opened comes whole into an unnamed-to-others file of the data folder, so that archives are unpacked
and inputs of transform jobs linked as if they had lain here; the file goes when the reader is closed. All its bytes
belong to one ETag: a transfer that breaks off goes on behind what came, on the condition that the ETag is still the
same, and begins anew when it is not. An object on its way out is spooled to such a file and uploaded by its commit, in
parts above 16 MiB. Memory stays at a few pieces, however large the object.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

from botocore.exceptions import BotoCoreError

from clary.domain.errors import ClaryError, PreconditionFailed, StoreFailed
from clary.store.external.client import ExternalClient
from clary.store.object_info import ListedObject, ObjectInfo, ObjectMetadata, Page
from clary.store.object_reader import CHUNK_BYTES, FileStretch

PART_BYTES = 16 * 1024 * 1024
PARTS_MAX = 10_000  # S3 user guide, "Amazon S3 multipart upload limits"
FETCH_TRIES = 5  # that bring nothing, one after the other
FETCH_LIMIT_S = 3600.0
CONTENT_ID = "clary-content-id"  # user metadata: who may have died after an upload finds out that it was done
_SYSTEM = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
}


class ExternalObjects:
    """See the module. Of `store.objects_port.Objects`."""

    def __init__(self, client: ExternalClient, folder: Path) -> None:
        """`folder` is ours alone, on the disk of the data folder; what an earlier life left there goes."""
        self._client = client
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()

    def head_bucket(self, name: str) -> object:
        """Raises: NotFound."""
        return self._client.call("head_bucket", name)

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Raises: NotFound."""
        return _info(bucket, key, self._client.call("head_object", bucket, key))

    def open(self, bucket: str, key: str) -> ExternalReader:
        """The object, fetched. Raises: NotFound, StoreFailed also when it changes faster than it can be fetched."""
        path = self._folder / uuid.uuid4().hex
        try:
            return ExternalReader(self._fetch(bucket, key, path), path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StoreFailed("keeping a fetched object", detail=str(error)) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def begin_put(self, bucket: str, key: str, *, metadata: ObjectMetadata, hash_sha256: bool = True) -> ExternalPut:
        """A session; whether the bucket exists shows in its commit."""
        return ExternalPut(self._client, self._folder / uuid.uuid4().hex, bucket, key, metadata)

    def list_objects(self, bucket: str, *, prefix: str = "", start_after: str = "", max_keys: int = 1000) -> Page:
        """Raises: NotFound."""
        members = {"Prefix": prefix, "StartAfter": start_after}
        answer = self._client.call(
            "list_objects_v2", bucket, MaxKeys=max_keys, **{name: value for name, value in members.items() if value}
        )
        found = tuple(
            ListedObject(
                key=one["Key"],
                size_bytes=one["Size"],
                etag=one.get("ETag", "").strip('"'),
                last_modified_at=one["LastModified"],
                storage_class=one.get("StorageClass", "STANDARD"),
                checksum_algorithm=None,
                checksum_type=None,
            )
            for one in answer.get("Contents", ())
        )
        return Page(found, (), found[-1].key if found and answer.get("IsTruncated") else None)

    def close(self) -> None:
        """Twice is fine."""
        self._client.close()

    def _fetch(self, bucket: str, key: str, path: Path) -> ObjectInfo:
        ends_s = time.monotonic() + FETCH_LIMIT_S
        info: ObjectInfo | None = None
        why = ""
        with _opened(path) as file:
            vain = replaced = 0
            while vain < FETCH_TRIES and replaced < FETCH_TRIES:
                came_bytes = file.tell()
                more: dict[str, Any] = {}
                if info is not None and file.tell():
                    more = {"Range": f"bytes={file.tell()}-", "IfMatch": f'"{info.etag}"'}
                try:
                    answer = self._client.call("get_object", bucket, key, **more)
                except PreconditionFailed:
                    why = "it was replaced while it was fetched"
                    replaced += 1
                    info = None
                    file.seek(0)
                    file.truncate()
                    continue
                if info is None:
                    info = _info(bucket, key, answer)
                try:
                    _copy(answer["Body"], file, ends_s)
                except BotoCoreError as error:
                    why = str(error)
                else:
                    if file.tell() == info.size_bytes:
                        return info
                    why = f"{file.tell()} of {info.size_bytes} bytes came"
                vain = vain + 1 if file.tell() == came_bytes else 0
        raise StoreFailed(f"fetching s3://{bucket}/{key} from the external object store {self._client.url}", detail=why)


class ExternalReader:
    """An object's bytes in a file of ours. A context manager."""

    def __init__(self, info: ObjectInfo, path: Path) -> None:
        self.info = info
        self.size_bytes = info.size_bytes
        self.stretches = (FileStretch(path, 0, info.size_bytes),) if info.size_bytes else ()
        self._path = path

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes, in order, at most `chunk_bytes` at once."""
        with self._path.open("rb") as file:
            while data := file.read(chunk_bytes):
                yield data

    def read(self) -> bytes:
        """All of it; for what is known to be small."""
        return self._path.read_bytes()

    def close(self) -> None:
        """Removes the file; links to it stay. Twice is fine."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ExternalPut:
    """An object on its way out. A context manager; a session belongs to one thread at a time."""

    def __init__(self, client: ExternalClient, path: Path, bucket: str, key: str, metadata: ObjectMetadata) -> None:
        self._client = client
        self._path = path
        self._place = (bucket, key)
        self._metadata = metadata
        self._file: BinaryIO | None = None
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._ended = False
        self.size_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends to the body. Raises: StoreFailed when the disk refuses."""
        if self._ended:
            raise ValueError("this upload is committed or aborted")
        try:
            if self._file is None:
                self._file = _opened(self._path)
            self._file.write(data)
        except OSError as error:
            raise StoreFailed("keeping an object for its upload", detail=str(error)) from error
        self._md5.update(data)
        self.size_bytes += len(data)

    def commit(self, *, content_id: str = "") -> object:
        """Uploads it; the object shows whole or not at all. Raises: NotFound, AccessDenied, StoreFailed."""
        if self._ended:
            raise ValueError("this upload is committed or aborted")
        try:
            if self._file is None:
                self._file = _opened(self._path)
            self._file.flush()
            members = self._members(content_id)
            if self.size_bytes <= PART_BYTES:
                self._file.seek(0)
                md5 = base64.b64encode(self._md5.digest()).decode()
                self._client.call("put_object", *self._place, Body=self._file, ContentMD5=md5, **members)
            else:
                self._upload(self._file, members)
        except OSError as error:
            raise StoreFailed("reading an object for its upload", detail=str(error)) from error
        finally:
            self.abort()
        return None

    def abort(self) -> None:
        """Throws the bytes away; nothing when the session has ended."""
        self._ended = True
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _members(self, content_id: str) -> dict[str, Any]:
        user = dict(self._metadata.user)
        if content_id:
            user[CONTENT_ID] = content_id
        system = {_SYSTEM[name]: value for name, value in self._metadata.system.items() if name in _SYSTEM}
        return {**system, **({"Metadata": user} if user else {})}

    def _upload(self, file: BinaryIO, members: Mapping[str, Any]) -> None:
        part_bytes = max(PART_BYTES, -(-self.size_bytes // PARTS_MAX))
        upload = self._client.call("create_multipart_upload", *self._place, **members)["UploadId"]
        try:
            file.seek(0)
            parts: list[dict[str, Any]] = []
            while data := file.read(part_bytes):
                number = len(parts) + 1
                md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
                done = self._client.call(
                    "upload_part", *self._place, UploadId=upload, PartNumber=number, Body=data, ContentMD5=md5
                )
                parts.append({"PartNumber": number, "ETag": done["ETag"]})
            self._client.call(
                "complete_multipart_upload", *self._place, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except (ClaryError, OSError) as error:
            try:
                self._client.call("abort_multipart_upload", *self._place, UploadId=upload)
            except ClaryError as left:
                error.add_note(f"its parts were left over: {left}")
            raise


class Probe:
    """Whether the store answers, for people: one short try."""

    def __init__(self, client: ExternalClient) -> None:
        self._client = client
        self._lock = threading.Lock()

    def look(self) -> tuple[str, str]:
        """("ok", "note" or "missing", and a sentence)."""
        with self._lock:
            try:
                count = len(self._client.call("list_buckets").get("Buckets", ()))
            except ClaryError as error:
                # A key may be good for objects without being allowed to list buckets.
                return ("missing" if isinstance(error, StoreFailed) else "note"), str(error)
        return "ok", f"external, {self._client.url}: it answers, {count} buckets"

    def close(self) -> None:
        """Twice is fine."""
        self._client.close()


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w+b")


def _copy(body: Any, file: BinaryIO, ends_s: float) -> None:
    """Raises: BotoCoreError when the transfer breaks off, StoreFailed when it lasts, OSError when the disk refuses."""
    try:
        for piece in body.iter_chunks(CHUNK_BYTES):
            file.write(piece)
            if time.monotonic() > ends_s:
                raise StoreFailed("fetching an object", detail=f"it was not whole after {FETCH_LIMIT_S:g} s")
        file.flush()
    finally:
        body.close()


def _info(bucket: str, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    etag = answer.get("ETag", "").strip('"')
    user = answer.get("Metadata", {})
    version = answer.get("VersionId", "")
    return ObjectInfo(
        bucket=bucket,
        key=key,
        size_bytes=answer["ContentLength"],
        etag=etag,
        last_modified_at=answer["LastModified"],
        metadata=ObjectMetadata(
            system={name: answer[member] for name, member in _SYSTEM.items() if answer.get(member)},
            user=user,
            storage_class=answer.get("StorageClass", "STANDARD"),
        ),
        content_id=user.get(CONTENT_ID) or f"{etag}-{version}",
    )
