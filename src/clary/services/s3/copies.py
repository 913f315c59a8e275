"""CopyObject: another name for the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from clary.services.base import Context, Handler, Members
from clary.services.s3 import checksum_members
from clary.services.s3.conditions import only_new, read_conditions
from clary.services.s3.copy_source import parse_copy_source
from clary.services.s3.lanes import Lanes
from clary.services.s3.metadata import header_tags, metadata_of
from clary.services.s3.room import Room, arn, quoted
from clary.store.object_info import ObjectInfo
from clary.store.objects import ObjectStore


class Copies(Room):
    """Copies are made on a lane of their own: a checksum that the source lacks makes its bytes be read once."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {"CopyObject": self.copy}

    async def copy(self, context: Context, params: Members) -> Members:
        source = parse_copy_source(params["CopySource"])
        context.authorize("s3:GetObject", arn(context, source.bucket, source.key))
        with_tags = params.get("TaggingDirective") == "REPLACE"
        await self.admit(context, params, "PutObject", *(("PutObjectTagging",) if with_tags else ()))
        await self.expect_owner(source.bucket, params.get("ExpectedSourceBucketOwner"))
        conditions = read_conditions(params, self.now(), "CopySource")
        replaced = metadata_of(params) if params.get("MetadataDirective") == "REPLACE" else None
        tags = header_tags(params.get("Tagging")) if with_tags else None
        algorithm = checksum_members.asked_algorithm(params)
        none_match = only_new(params)
        storage_class = params.get("StorageClass")

        def work() -> ObjectInfo:
            metadata = replaced
            if metadata is None and storage_class is not None:
                found = self.objects.head(source.bucket, source.key)
                metadata = replace(found.metadata, storage_class=storage_class)
            return self.objects.copy(
                source.bucket,
                source.key,
                params["Bucket"],
                params["Key"],
                metadata=metadata,
                tags=tags,
                checksum_algorithm=algorithm,
                source_conditions=conditions,
                if_match=params.get("IfMatch"),
                if_none_match=none_match,
            )

        info = await self.lanes.copy(work)
        result = {"ETag": quoted(info.etag), "LastModified": info.last_modified_at}
        return {"CopyObjectResult": {**result, **checksum_members.members(info.checksum)}}
