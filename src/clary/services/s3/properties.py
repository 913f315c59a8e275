"""What there is to know about a bucket or an object besides its bytes: versioning, owner's grant, attributes.

Here one account owns everything and buckets keep no versions; these operations say just that. Settings that a bucket
cannot be given are told as missing, with the code that S3 has for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from clary.services.base import Context, Handler, Members, present
from clary.services.s3 import checksum_members
from clary.services.s3.lanes import Lanes
from clary.services.s3.listing import at_most
from clary.services.s3.room import Room
from clary.store.object_info import ObjectInfo, PartInfo
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError

# S3 API reference, GetObjectAttributes.
PARTS_MAX = 1000
# Operation -> (IAM action, the code for "never set"). S3 API reference, "Error responses".
UNSET = {
    "GetBucketCors": ("GetBucketCORS", "NoSuchCORSConfiguration"),
    "GetBucketEncryption": ("GetEncryptionConfiguration", "ServerSideEncryptionConfigurationNotFoundError"),
    "GetBucketLifecycleConfiguration": ("GetLifecycleConfiguration", "NoSuchLifecycleConfiguration"),
    "GetBucketPolicy": ("GetBucketPolicy", "NoSuchBucketPolicy"),
    "GetBucketPolicyStatus": ("GetBucketPolicyStatus", "NoSuchBucketPolicy"),
    "GetBucketReplication": ("GetReplicationConfiguration", "ReplicationConfigurationNotFoundError"),
    "GetBucketWebsite": ("GetBucketWebsite", "NoSuchWebsiteConfiguration"),
    "GetObjectLockConfiguration": ("GetBucketObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"),
    "GetPublicAccessBlock": ("GetBucketPublicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
}


class Properties(Room):
    """Reading, and access control lists that say again what holds anyway."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "GetBucketVersioning": self.versioning,
            "GetBucketAcl": self.bucket_acl,
            "GetBucketOwnershipControls": self.ownership,
            "GetObjectAcl": self.object_acl,
            "PutBucketAcl": self.put_bucket_acl,
            "PutObjectAcl": self.put_object_acl,
            "GetObjectAttributes": self.attributes,
            **{operation: self._unset(*row) for operation, row in UNSET.items()},
        }

    async def versioning(self, context: Context, params: Members) -> Members:
        """Empty: versioning was never switched on."""
        await self._see_bucket(context, params, "GetBucketVersioning")
        return {}

    async def bucket_acl(self, context: Context, params: Members) -> Members:
        await self._see_bucket(context, params, "GetBucketAcl")
        return self._acl()

    async def ownership(self, context: Context, params: Members) -> Members:
        await self._see_bucket(context, params, "GetBucketOwnershipControls")
        return {"OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}}

    async def object_acl(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetObjectAcl")
        await self.lanes.meta(lambda: self.objects.head(params["Bucket"], params["Key"]))
        return self._acl()

    async def put_bucket_acl(self, context: Context, params: Members) -> Members:
        """Only the owner's full control, which there is already; admission refuses other canned lists and grants."""
        await self._see_bucket(context, params, "PutBucketAcl")
        self._check_acl(params)
        return {}

    async def put_object_acl(self, context: Context, params: Members) -> Members:
        """The same for an object."""
        await self.admit(context, params, "PutObjectAcl")
        await self.lanes.meta(lambda: self.objects.head(params["Bucket"], params["Key"]))
        self._check_acl(params)
        return {}

    def _check_acl(self, params: Members) -> None:
        """Raises: WireError for a list that grants anything to anybody but the owner."""
        asked = params.get("AccessControlPolicy")
        if asked is None:
            return
        granted = [(grant["Grantee"].get("ID"), grant["Permission"]) for grant in asked.get("Grants") or []]
        if granted != [(self.owner["ID"], "FULL_CONTROL")]:
            message = "The bucket does not allow ACLs: the one grant is the owner's FULL_CONTROL"
            raise WireError("AccessControlListNotSupported", 400, message)

    async def attributes(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetObject", "GetObjectAttributes")
        wanted = set(params["ObjectAttributes"])

        def look() -> tuple[ObjectInfo, tuple[PartInfo, ...]]:
            while True:
                info = self.objects.head(params["Bucket"], params["Key"])
                if info.part_count is None or "ObjectParts" not in wanted:
                    return info, ()
                parts = self.objects.parts_of(info.bucket, info.key)
                if self.objects.head(info.bucket, info.key).content_id == info.content_id:
                    return info, parts

        info, parts = await self.lanes.meta(look)
        found = {
            "ETag": info.etag,  # without quotes: here it is text in a document
            "Checksum": checksum_members.members(info.checksum) or None,
            "ObjectParts": _parts(params, parts) if parts else None,
            "StorageClass": info.metadata.storage_class,
            "ObjectSize": info.size_bytes,
        }
        chosen = {name: value for name, value in found.items() if name in wanted}
        return present(LastModified=info.last_modified_at, **chosen)

    async def _see_bucket(self, context: Context, params: Members, action: str) -> None:
        """Raises: AccessDenied, NotFound."""
        await self.admit(context, params, action)
        await self.lanes.meta(lambda: self.objects.head_bucket(params["Bucket"]))

    def _acl(self) -> Members:
        grantee = {**self.owner, "Type": "CanonicalUser"}
        return {"Owner": self.owner, "Grants": [{"Grantee": grantee, "Permission": "FULL_CONTROL"}]}

    def _unset(self, action: str, code: str) -> Handler:
        async def missing(context: Context, params: Members) -> Members:
            await self._see_bucket(context, params, action)
            message = f"The bucket {params['Bucket']} has no such configuration"
            raise WireError(code, 404, message, {"BucketName": params["Bucket"]})

        return missing


def _parts(params: Members, parts: tuple[PartInfo, ...]) -> Members:
    """The parts of a multipart object, one page; S3 lists them one by one only where they have checksums."""
    most = at_most(params.get("MaxParts"), "max-parts", PARTS_MAX)
    after = params.get("PartNumberMarker") or 0
    left = [part for part in parts if part.number > after and part.checksum is not None]
    page = left[:most]
    return {
        "TotalPartsCount": len(parts),
        "PartNumberMarker": after,
        "NextPartNumberMarker": page[-1].number if page else 0,
        "MaxParts": most,
        "IsTruncated": len(left) > len(page),
        "Parts": [
            {
                "PartNumber": part.number,
                "Size": part.size_bytes,
                **checksum_members.members(part.checksum, with_type=False),
            }
            for part in page
        ],
    }
