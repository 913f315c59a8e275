"""Digests that a client sends beside a document: Content-MD5 and x-amz-checksum-*.

Only for calls whose model has them cover the body (S3's DeleteObjects, PutObjectTagging, ...): elsewhere the same
headers speak of something else, in CompleteMultipartUpload of the object. Bodies that stream are checked where they are
stored.
"""

from __future__ import annotations

import base64
import hashlib

from clary.store.checksums import ChecksumAlgorithm, running
from clary.wire.errors import WireError
from clary.wire.http import Request


def check_digests(request: Request) -> None:
    """Raises: WireError (BadDigest) when the body is not what a header says."""
    claimed = request.header("content-md5")
    if claimed is not None and claimed != _text(hashlib.md5(request.body, usedforsecurity=False).digest()):
        raise WireError("BadDigest", 400, "The Content-MD5 you specified did not match what we received.")
    for algorithm in ChecksumAlgorithm:
        claimed = request.header(f"x-amz-checksum-{algorithm.lower()}")
        if claimed is None:
            continue
        found = running(algorithm)
        found.update(request.body)
        if claimed != _text(found.digest()):
            message = f"The {algorithm} you specified did not match the calculated checksum."
            raise WireError("BadDigest", 400, message)


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
