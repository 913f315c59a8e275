"""What clients say about an object, between botocore's members and the store's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qsl

from clary.services.base import Members, present
from clary.services.s3.errors import invalid_argument
from clary.services.s3.room import quoted
from clary.store.object_info import ObjectInfo, ObjectMetadata
from clary.wire.errors import WireError
from clary.wire.timestamps import http_date

# S3 user guide, "Working with object metadata": 2 KB of names and values together.
USER_METADATA_MAX_BYTES = 2048
DEFAULT_TYPE = "binary/octet-stream"
_HEADERS = {
    "CacheControl": "cache-control",
    "ContentDisposition": "content-disposition",
    "ContentEncoding": "content-encoding",
    "ContentLanguage": "content-language",
    "ContentType": "content-type",
    "Expires": "expires",  # kept as it was written, even where it is no date
}


OVERRIDES = tuple(f"Response{name}" for name in _HEADERS if name != "Expires")


def metadata_of(params: Members) -> ObjectMetadata:
    """From the members of a put, a copy or a new upload. Raises: WireError."""
    system = {header: str(params[name]) for name, header in _HEADERS.items() if params.get(name)}
    encoding = _without_chunking(system.pop("content-encoding", ""))
    if encoding:
        system["content-encoding"] = encoding
    user: Mapping[str, str] = params.get("Metadata") or {}
    size_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in user.items())
    if size_bytes > USER_METADATA_MAX_BYTES:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise WireError(
            "MetadataTooLarge", 400, message, {"Size": size_bytes, "MaxSizeAllowed": USER_METADATA_MAX_BYTES}
        )
    return ObjectMetadata(
        system=system,
        user=user,
        tags=header_tags(params.get("Tagging")),
        storage_class=params.get("StorageClass") or "STANDARD",
    )


def _without_chunking(encoding: str) -> str:
    """aws-chunked frames a request, it is no encoding of the object."""
    kept = [one.strip() for one in encoding.split(",") if one.strip().lower() != "aws-chunked"]
    return ",".join(one for one in kept if one)


def header_tags(text: str | None) -> Mapping[str, str]:
    """Tags as x-amz-tagging has them: a=1&b=2. Raises: WireError."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        message = "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters"
        raise WireError("InvalidArgument", 400, message, {"ArgumentName": "x-amz-tagging"}) from error
    return distinct_tags(pairs)


def document_tags(params: Members) -> Mapping[str, str]:
    """Tags as a Tagging document has them. Raises: WireError."""
    tag_set: Sequence[Members] = params["Tagging"]["TagSet"]
    return distinct_tags([(tag["Key"], tag["Value"]) for tag in tag_set])


def distinct_tags(pairs: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Raises: WireError when a key is repeated or AWS's own."""
    tags = dict(pairs)
    if len(tags) != len(pairs):
        raise WireError("InvalidTag", 400, "Cannot provide multiple Tags with the same key")
    if any(name.startswith("aws:") for name in tags):
        raise WireError("InvalidTag", 400, "System tags cannot be added/updated by requester")
    return tags


def tag_members(tags: Mapping[str, str]) -> list[Members]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def check_overrides(params: Members) -> None:
    """Raises: WireError for an override that would break out of its header."""
    for name in OVERRIDES:
        if any(ord(one) < 32 or ord(one) == 127 for one in params.get(name) or ""):
            raise invalid_argument(name, params[name], "A header cannot hold control characters.")


def described(info: ObjectInfo, params: Members) -> Members:
    """The headers that GetObject and HeadObject share, with the overrides that a request asks for."""
    system = info.metadata.system
    expires: datetime | None = params.get("ResponseExpires")
    storage_class = info.metadata.storage_class
    return present(
        AcceptRanges="bytes",
        LastModified=info.last_modified_at,
        ETag=quoted(info.etag),
        CacheControl=params.get("ResponseCacheControl") or system.get("cache-control"),
        ContentDisposition=params.get("ResponseContentDisposition") or system.get("content-disposition"),
        ContentEncoding=params.get("ResponseContentEncoding") or system.get("content-encoding"),
        ContentLanguage=params.get("ResponseContentLanguage") or system.get("content-language"),
        ContentType=params.get("ResponseContentType") or system.get("content-type", DEFAULT_TYPE),
        Expires=system.get("expires") if expires is None else http_date(expires),
        Metadata=info.metadata.user or None,
        StorageClass=None if storage_class == "STANDARD" else storage_class,
        TagCount=len(info.metadata.tags) or None,
    )
