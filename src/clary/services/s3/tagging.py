"""Tags of objects and of buckets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime

from clary.services.base import Context, Handler, Members
from clary.services.s3.lanes import Lanes
from clary.services.s3.metadata import document_tags, tag_members
from clary.services.s3.room import Room
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError

# S3 user guide, "Using cost allocation S3 bucket tags".
BUCKET_MAX_TAGS = 50


class Tagging(Room):
    """Put, get and delete; a put replaces all tags."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "PutObjectTagging": self.put_object,
            "GetObjectTagging": self.get_object,
            "DeleteObjectTagging": self.delete_object,
            "PutBucketTagging": self.put_bucket,
            "GetBucketTagging": self.get_bucket,
            "DeleteBucketTagging": self.delete_bucket,
        }

    async def put_object(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutObjectTagging")
        tags = document_tags(params)
        await self.lanes.meta(lambda: self.objects.put_tags(params["Bucket"], params["Key"], tags))
        return {}

    async def get_object(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetObjectTagging")
        tags = await self.lanes.meta(lambda: self.objects.get_tags(params["Bucket"], params["Key"]))
        return {"TagSet": tag_members(tags)}

    async def delete_object(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "DeleteObjectTagging")
        await self.lanes.meta(lambda: self.objects.delete_tags(params["Bucket"], params["Key"]))
        return {}

    async def put_bucket(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutBucketTagging")
        tags = document_tags(params)
        check_bucket_tags(tags)
        document = tags_document(tags)
        await self.lanes.meta(lambda: self.objects.put_bucket_document(params["Bucket"], "tagging", document))
        return {}

    async def get_bucket(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetBucketTagging")
        document = await self.lanes.meta(lambda: self.objects.bucket_document(params["Bucket"], "tagging"))
        if document is None:
            raise WireError("NoSuchTagSet", 404, "The TagSet does not exist", {"BucketName": params["Bucket"]})
        return {"TagSet": tag_members(json.loads(document))}

    async def delete_bucket(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutBucketTagging")
        await self.lanes.meta(lambda: self.objects.put_bucket_document(params["Bucket"], "tagging", None))
        return {}


def check_bucket_tags(tags: Mapping[str, str]) -> None:
    """Raises: WireError beyond S3's limits."""
    if len(tags) > BUCKET_MAX_TAGS:
        raise WireError("BadRequest", 400, f"Bucket tag count cannot be greater than {BUCKET_MAX_TAGS}")
    for name, value in tags.items():
        if not 1 <= len(name) <= 128:
            raise WireError("InvalidTag", 400, "The TagKey you have provided is invalid")
        if len(value) > 256:
            raise WireError("InvalidTag", 400, "The TagValue you have provided is invalid")


def tags_document(tags: Mapping[str, str]) -> str:
    """As the store keeps a bucket's tags."""
    return json.dumps(dict(tags))
