"""The bucket in a host name: `<bucket>.s3.<anything>` and the older `<bucket>.s3-<region>.<anything>`."""

from __future__ import annotations


def bucket_in_host(host: str) -> str | None:
    """The bucket that a Host header names, or None when it names only the service."""
    for mark in (".s3.", ".s3-"):
        bucket, found, _ = host.partition(mark)
        if found and bucket:
            return bucket
    return None
