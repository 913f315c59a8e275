"""Checksums between botocore's members (ChecksumCRC32, ...), trailers and the store's values."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

from clary.domain.errors import Unsupported
from clary.services.base import Members
from clary.store.checksums import DIGEST_BYTES, Checksum, ChecksumAlgorithm, ChecksumType
from clary.wire.errors import WireError

_MEMBERS = {f"Checksum{one.value}": one for one in ChecksumAlgorithm}
_HEADERS = {f"x-amz-checksum-{one.value.lower()}": one for one in ChecksumAlgorithm}
# Newer algorithms of the service model, which the store does not compute.
_UNSERVED = ("ChecksumSHA512", "ChecksumMD5", "ChecksumXXHASH64", "ChecksumXXHASH3", "ChecksumXXHASH128")
_SERVED = ", ".join(ChecksumAlgorithm)


def asked_algorithm(params: Members) -> ChecksumAlgorithm | None:
    """What ChecksumAlgorithm names. Raises: Unsupported for one that is not computed here."""
    name = params.get("ChecksumAlgorithm")
    if name is None:
        return None
    try:
        return ChecksumAlgorithm(name)
    except ValueError as error:
        raise Unsupported(f"checksum algorithm {name}", f"use one of {_SERVED}") from error


def asked_type(params: Members) -> ChecksumType | None:
    name = params.get("ChecksumType")
    return None if name is None else ChecksumType(name)


def given(params: Members, *, composite: bool = False) -> Checksum | None:
    """The one checksum among the members. Raises: WireError, Unsupported."""
    for name in _UNSERVED:
        if params.get(name) is not None:
            raise Unsupported(f"checksum algorithm {name.removeprefix('Checksum')}", f"use one of {_SERVED}")
    found = [(name, params[name]) for name in _MEMBERS if params.get(name) is not None]
    if len(found) > 1:
        message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        raise WireError("InvalidRequest", 400, message)
    if not found:
        return None
    name, value = found[0]
    return _checked(_MEMBERS[name], value, composite)


def announced(trailer_names: Iterable[str]) -> ChecksumAlgorithm | None:
    """The algorithm of the checksum that will follow the body."""
    return next((_HEADERS[name] for name in trailer_names if name in _HEADERS), None)


def trailing(trailers: Mapping[str, str]) -> Checksum | None:
    """The checksum that followed the body. Raises: WireError when it is not one."""
    for name, value in trailers.items():
        if name in _HEADERS:
            return _checked(_HEADERS[name], value, composite=False)
    return None


def _checked(algorithm: ChecksumAlgorithm, value: str, composite: bool) -> Checksum:
    head = value.partition("-")[0] if composite else value
    try:
        digest = base64.b64decode(head, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != DIGEST_BYTES[algorithm]:
        raise WireError("InvalidRequest", 400, f"Value for x-amz-checksum-{algorithm.lower()} header is invalid.")
    return Checksum(algorithm, value)


def members(checksum: Checksum | None, *, with_type: bool = True) -> Members:
    """A checksum as members of an answer; nothing when there is none."""
    if checksum is None:
        return {}
    found: Members = {f"Checksum{checksum.algorithm.value}": checksum.value}
    if with_type:
        found["ChecksumType"] = checksum.type.value
    return found


def content_md5(params: Members) -> bytes | None:
    """The digest in Content-MD5. Raises: WireError."""
    text = params.get("ContentMD5")
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise WireError("InvalidDigest", 400, "The Content-MD5 you specified is not valid.", {"Content-MD5": text})
    return digest
