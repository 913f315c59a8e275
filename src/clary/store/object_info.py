"""The nouns of the object store: what a caller hands in and gets back. Values only.

ETags are bare here (no quotes); a service adds them. Times are aware UTC. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from clary.domain.errors import NotModified, PreconditionFailed
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """One bucket; names are global, as on AWS."""

    name: str
    region: str
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectMetadata:
    """What a client says about an object. `system` holds headers by their lower-case names
    ("content-type", "cache-control", ...), `user` the `x-amz-meta-*` names without that prefix."""

    system: Mapping[str, str] = field(default_factory=dict)
    user: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = "STANDARD"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as it is now. `content_id` names its immutable bytes; `part_count` is None unless it was multipart."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    last_modified_at: datetime
    metadata: ObjectMetadata
    content_id: str
    checksum: Checksum | None = None
    part_count: int | None = None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One line of a listing."""

    key: str
    size_bytes: int
    etag: str
    last_modified_at: datetime
    storage_class: str
    checksum_algorithm: ChecksumAlgorithm | None
    checksum_type: ChecksumType | None


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing. `next` (None at the end) is the `start_after` of the following page."""

    objects: tuple[ListedObject, ...]
    common_prefixes: tuple[str, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """A multipart upload that is neither completed nor aborted."""

    upload_id: str
    bucket: str
    key: str
    initiated_at: datetime
    metadata: ObjectMetadata
    checksum_algorithm: ChecksumAlgorithm | None
    checksum_type: ChecksumType | None


@dataclass(frozen=True, slots=True)
class UploadPage:
    """Part of a listing of uploads; `next` is (key marker, upload id marker) of the following page."""

    uploads: tuple[UploadInfo, ...]
    common_prefixes: tuple[str, ...]
    next: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One part, uploaded or already built into an object."""

    number: int
    size_bytes: int
    etag: str
    last_modified_at: datetime
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class PartPage:
    """Part of a listing of parts; `next` is the number to go on after."""

    parts: tuple[PartInfo, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class CompletedPart:
    """One line of a client's CompleteMultipartUpload."""

    number: int
    etag: str
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """The fate of one key in `delete_many`; `existed` is False when there was nothing to delete."""

    key: str
    existed: bool


@dataclass(frozen=True, slots=True)
class ReadConditions:
    """If-Match and its kin. ETags bare; `("*",)` matches any."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: datetime | None = None
    if_unmodified_since: datetime | None = None

    def check(self, info: ObjectInfo) -> None:
        """Raises: PreconditionFailed (412) or NotModified (304).

        Source: S3 API reference, GetObject: a true If-Match outranks If-Unmodified-Since, a false If-None-Match
        outranks If-Modified-Since. Dates have whole seconds in HTTP, so the stored time is cut to them.
        """
        modified_at = info.last_modified_at.replace(microsecond=0)
        if self.if_match:
            if not matches(self.if_match, info.etag):
                raise PreconditionFailed("If-Match")
        elif self.if_unmodified_since is not None and modified_at > self.if_unmodified_since:
            raise PreconditionFailed("If-Unmodified-Since")
        if self.if_none_match:
            if matches(self.if_none_match, info.etag):
                raise NotModified(etag=info.etag, last_modified_at=info.last_modified_at)
        elif self.if_modified_since is not None and modified_at <= self.if_modified_since:
            raise NotModified(etag=info.etag, last_modified_at=info.last_modified_at)

    def check_copy(self, info: ObjectInfo) -> None:
        """The same for the source of a copy, where S3 answers 412 in every case. Raises: PreconditionFailed."""
        try:
            self.check(info)
        except NotModified as error:
            raise PreconditionFailed("x-amz-copy-source-if-none-match or -if-modified-since") from error


@dataclass(frozen=True, slots=True)
class WriteConditions:
    """Conditional writes: `if_match` an ETag, `if_none_match` only "*" (the key must be new)."""

    if_match: str | None = None
    if_none_match: str | None = None


def matches(wanted: tuple[str, ...], etag: str) -> bool:
    """True when an ETag is among the wanted ones; quotes around a wanted one are ignored, "*" matches all."""
    return any(one == "*" or one.strip('"') == etag for one in wanted)
