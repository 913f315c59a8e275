"""Listing keys, in both of S3's versions, and what stands for versions of them.

Texts go out plain; the wire percent-encodes them where `encoding-type=url` was asked for. A continuation token is the
position in a coat: clients must not look into it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime

from clary.services.base import Context, Handler, Members, present
from clary.services.s3.errors import invalid_argument
from clary.services.s3.lanes import Lanes
from clary.services.s3.room import Room, quoted
from clary.store.object_info import ListedObject, Page
from clary.store.objects import ObjectStore

# S3 API reference, ListObjectsV2: more may be asked for, no more is given.
LIST_MAX_KEYS = 1000


class Listing(Room):
    """ListObjectsV2, ListObjects and ListObjectVersions."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "ListObjectsV2": self.second,
            "ListObjects": self.first,
            "ListObjectVersions": self.versions,
        }

    async def second(self, context: Context, params: Members) -> Members:
        """ListObjectsV2."""
        token = params.get("ContinuationToken")
        start_after = continuation_of(token) if token is not None else params.get("StartAfter") or ""
        page, most = await self._page(context, params, start_after)
        owner = self.owner if params.get("FetchOwner") else None
        return present(
            **_shared(params, page, most, owner),
            KeyCount=len(page.objects) + len(page.common_prefixes),
            ContinuationToken=token,
            NextContinuationToken=None if page.next is None else token_of(page.next),
            StartAfter=params.get("StartAfter"),
        )

    async def first(self, context: Context, params: Members) -> Members:
        """ListObjects. NextMarker comes only with a delimiter, as on AWS: without one it is the last key."""
        marker = params.get("Marker") or ""
        page, most = await self._page(context, params, marker)
        return present(
            **_shared(params, page, most, self.owner),
            Marker=marker,
            NextMarker=page.next if params.get("Delimiter") else None,
        )

    async def versions(self, context: Context, params: Members) -> Members:
        """ListObjectVersions: each object is its own one version, "null", as in a bucket that never kept any."""
        marker = params.get("KeyMarker") or ""
        if params.get("VersionIdMarker") not in (None, "", "null"):
            raise invalid_argument("version-id-marker", params["VersionIdMarker"], "Invalid version id specified")
        page, most = await self._page(context, params, marker, "ListBucketVersions")
        shared = _shared(params, page, most, self.owner)
        versions = [{**item, "VersionId": "null", "IsLatest": True} for item in shared.pop("Contents")]
        return present(
            **shared,
            Versions=versions,
            KeyMarker=marker,
            VersionIdMarker="",
            NextKeyMarker=page.next,
            NextVersionIdMarker=None if page.next is None else "null",
        )

    async def _page(
        self, context: Context, params: Members, start_after: str, action: str = "ListBucket"
    ) -> tuple[Page, int]:
        await self.admit(context, params, action)
        most = at_most(params.get("MaxKeys"), "max-keys", LIST_MAX_KEYS)
        page = await self.lanes.meta(
            lambda: self.objects.list_objects(
                params["Bucket"],
                prefix=params.get("Prefix") or "",
                delimiter=params.get("Delimiter") or "",
                start_after=start_after,
                max_keys=most,
            )
        )
        return page, most


def _shared(params: Members, page: Page, most: int, owner: Members | None) -> Members:
    return {
        "Name": params["Bucket"],
        "Prefix": params.get("Prefix") or "",
        "Delimiter": params.get("Delimiter") or None,
        "MaxKeys": most,
        "EncodingType": params.get("EncodingType"),
        "IsTruncated": page.next is not None,
        "Contents": [_listed(one, owner) for one in page.objects],
        "CommonPrefixes": [{"Prefix": one} for one in page.common_prefixes],
    }


def _listed(item: ListedObject, owner: Members | None) -> Members:
    algorithm = item.checksum_algorithm
    return present(
        Key=item.key,
        LastModified=item.last_modified_at,
        ETag=quoted(item.etag),
        ChecksumAlgorithm=None if algorithm is None else [algorithm.value],
        ChecksumType=None if item.checksum_type is None else item.checksum_type.value,
        Size=item.size_bytes,
        StorageClass=item.storage_class,
        Owner=owner,
    )


def at_most(asked: int | None, name: str, most: int) -> int:
    """The page size: what was asked for, never more than S3 gives. Raises: WireError."""
    if asked is None:
        return most
    if asked < 0:
        raise invalid_argument(name, asked, f"Argument {name} must be an integer between 0 and 2147483647")
    return min(asked, most)


def token_of(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode()


def continuation_of(token: str | None) -> str:
    """The position in a token of ours; the start without one. Raises: WireError."""
    if token is None:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("continuation-token", token, "The continuation token provided is incorrect") from error
