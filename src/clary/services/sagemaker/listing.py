"""The filters and orders that SageMaker's List operations share."""

from __future__ import annotations

from clary.services.base import Members
from clary.store.resources import Query


def query_of(request: Members) -> Query:
    """NameContains, CreationTime and LastModifiedTime bounds, SortBy, SortOrder (newest first by default)."""
    return Query(
        name_contains=request.get("NameContains", ""),
        created_after=request.get("CreationTimeAfter"),
        created_before=request.get("CreationTimeBefore"),
        modified_after=request.get("LastModifiedTimeAfter"),
        modified_before=request.get("LastModifiedTimeBefore"),
        sort_by="Name" if request.get("SortBy") == "Name" else "CreationTime",
        descending=request.get("SortOrder", "Descending") == "Descending",
    )
