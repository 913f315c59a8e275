"""If-Match and its kin, from members to the store's conditions."""

from __future__ import annotations

from datetime import datetime

from clary.services.base import Members
from clary.store.object_info import ReadConditions
from clary.wire.errors import WireError


def etags(text: str | None) -> tuple[str, ...]:
    """The ETags of a list, without quotes and weakness marks."""
    return tuple(one.strip().removeprefix("W/").strip('"') for one in (text or "").split(",") if one.strip())


def only_new(params: Members) -> str | None:
    """If-None-Match of a write, which S3 has only as "*". Raises: WireError for an ETag."""
    asked: str | None = params.get("IfNoneMatch")
    if asked not in (None, "*"):
        message = "A header you provided implies functionality that is not implemented: If-None-Match takes only *"
        raise WireError("NotImplemented", 501, message, {"Header": "If-None-Match"})
    return asked


def read_conditions(params: Members, now: datetime, prefix: str = "") -> ReadConditions:
    """From IfMatch, ..., or from CopySourceIfMatch, ... with that prefix.

    A modification date in the future says nothing and is ignored (RFC 2616, section 14.25).
    """
    since: datetime | None = params.get(f"{prefix}IfModifiedSince")
    return ReadConditions(
        if_match=etags(params.get(f"{prefix}IfMatch")),
        if_none_match=etags(params.get(f"{prefix}IfNoneMatch")),
        if_modified_since=None if since is not None and since > now else since,
        if_unmodified_since=params.get(f"{prefix}IfUnmodifiedSince"),
    )
