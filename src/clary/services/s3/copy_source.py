"""x-amz-copy-source: which object a copy reads."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from clary.services.s3.errors import invalid_argument


@dataclass(frozen=True, slots=True)
class CopySource:
    """`bucket/key`."""

    bucket: str
    key: str


def parse_copy_source(text: str) -> CopySource:
    """From `bucket/key`, percent-encoded, a leading slash or not. Raises: WireError."""
    path, _, query = text.partition("?versionId=")
    if query not in ("", "null"):
        raise invalid_argument("x-amz-copy-source", text, "Invalid version id specified: buckets here keep no versions")
    try:
        plain = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid_argument("x-amz-copy-source", text, "Invalid copy source encoding.") from error
    bucket, slash, key = plain.removeprefix("/").partition("/")
    if not slash or not bucket or not key:
        raise invalid_argument("x-amz-copy-source", text, "Invalid copy source object key: it must be bucket/key")
    if bucket.startswith("arn:"):
        raise invalid_argument("x-amz-copy-source", text, "Access points are not served; name the bucket itself")
    return CopySource(bucket, key)
