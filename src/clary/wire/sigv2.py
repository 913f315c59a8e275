"""Signature Version 2 in the query, for S3's GET, HEAD and PUT.

boto3's generate_presigned_url still makes these in the oldest regions. The header form is not accepted.
Source: S3 developer guide, "Signing and Authenticating REST Requests" (query string request authentication).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from clary.wire.http import text_of
from clary.wire.virtual_host import bucket_in_host

# Query parameters that are part of the signed resource.
_RESOURCE_PARAMETERS: Final = frozenset({
    b"accelerate", b"acl", b"analytics", b"cors", b"defaultObjectAcl", b"delete", b"inventory", b"lifecycle",
    b"location", b"logging", b"metrics", b"notification", b"object-lock", b"partNumber", b"policy", b"replication",
    b"requestPayment", b"response-cache-control", b"response-content-disposition", b"response-content-encoding",
    b"response-content-language", b"response-content-type", b"response-expires", b"restore", b"select",
    b"select-type", b"storageClass", b"tagging", b"torrent", b"uploadId", b"uploads", b"versionId", b"versioning",
    b"versions", b"website",
})  # fmt: skip


def string_to_sign(
    method: str, raw_path: bytes, headers: Mapping[bytes, bytes], pairs: list[tuple[bytes, bytes]], expires: bytes
) -> bytes:
    """The text that the signature covers. x-amz-* parameters count as headers: a URL carries both alike."""
    custom = {name: value.strip() for name, value in headers.items() if name.startswith(b"x-amz-")}
    standard = {name: headers.get(name, b"").strip() for name in (b"content-md5", b"content-type")}
    resource: list[tuple[bytes, bytes | None]] = []
    for raw_name, raw_value in pairs:
        name, value = unquote_to_bytes(raw_name), unquote_to_bytes(raw_value)
        if name.lower().startswith(b"x-amz-"):
            custom[name.lower()] = value
        elif name in standard:
            standard[name] = value
        elif name in _RESOURCE_PARAMETERS:
            resource.append((name, value or None))
    bucket = bucket_in_host(text_of(headers.get(b"host", b"")))
    path = raw_path if bucket is None else b"/" + bucket.encode() + raw_path
    if resource:
        resource.sort(key=lambda pair: pair[0])
        path += b"?" + b"&".join(name if value is None else b"%b=%b" % (name, value) for name, value in resource)
    lines = [method.encode("latin-1"), standard[b"content-md5"], standard[b"content-type"], expires]
    lines += [b"%b:%b" % (name, custom[name]) for name in sorted(custom)]
    return b"\n".join([*lines, path])


def sign(secret: str, text: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha1"))
