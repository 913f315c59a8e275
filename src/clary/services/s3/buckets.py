"""Buckets: create, look at, list, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from clary.domain.errors import AlreadyExists, Unsupported
from clary.domain.names import DEFAULT_REGION, partition
from clary.services.base import Context, Handler, Members, present
from clary.services.s3.errors import invalid_argument
from clary.services.s3.lanes import Lanes
from clary.services.s3.listing import continuation_of, token_of
from clary.services.s3.metadata import distinct_tags
from clary.services.s3.room import Room, arn
from clary.services.s3.tagging import check_bucket_tags, tags_document
from clary.store.object_info import BucketInfo
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError

# S3 API reference, ListBuckets.
LIST_MAX_BUCKETS = 10_000


class Buckets(Room):
    """The buckets themselves; names are global, any region may be asked about any of them."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        super().__init__(objects, lanes, account, now)
        self.operations: Mapping[str, Handler] = {
            "CreateBucket": self.create,
            "HeadBucket": self.head,
            "DeleteBucket": self.delete,
            "ListBuckets": self.list,
            "GetBucketLocation": self.location,
        }

    async def create(self, context: Context, params: Members) -> Members:
        name: str = params["Bucket"]
        await self.admit(context, params, "CreateBucket")
        configuration: Members = params.get("CreateBucketConfiguration") or {}
        for member in ("Location", "Bucket"):
            if configuration.get(member) is not None:
                raise Unsupported(f"CreateBucketConfiguration.{member}", "directory buckets are not served")
        region = _region_of(context.place.region, configuration.get("LocationConstraint"))
        tags = distinct_tags([(tag["Key"], tag["Value"]) for tag in configuration.get("Tags") or []])
        check_bucket_tags(tags)

        def work() -> None:
            try:
                self.objects.create_bucket(name, region, owner=self.account)
            except AlreadyExists:
                self._created_before(name, region)
                return
            if tags:
                self.objects.put_bucket_document(name, "tagging", tags_document(tags))

        await self.lanes.meta(work)
        location = f"/{name}" if region == DEFAULT_REGION else f"http://{name}.s3.amazonaws.com/"
        return {"Location": location, "BucketArn": arn(context, name)}

    def _created_before(self, name: str, region: str) -> None:
        """As on AWS, only in us-east-1 may an owner create again what is there. Raises: AlreadyExists, WireError."""
        known = self.objects.head_bucket(name)
        if known.owner not in ("", self.account):
            message = "The requested bucket name is not available. Please select a different name and try again."
            raise WireError("BucketAlreadyExists", 409, message, {"BucketName": name})
        if not known.region == region == DEFAULT_REGION:
            raise AlreadyExists("Bucket", name)

    async def head(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "ListBucket")
        info = await self.lanes.meta(lambda: self.objects.head_bucket(params["Bucket"]))
        return {"BucketRegion": info.region, "AccessPointAlias": False, "BucketArn": arn(context, info.name)}

    async def delete(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "DeleteBucket")
        await self.lanes.meta(lambda: self.objects.delete_bucket(params["Bucket"]))
        return {}

    async def list(self, context: Context, params: Members) -> Members:
        context.authorize("s3:ListAllMyBuckets", f"arn:{partition(context.place.region)}:s3:::*")
        most = params.get("MaxBuckets") or LIST_MAX_BUCKETS
        if not 1 <= most <= LIST_MAX_BUCKETS:
            raise invalid_argument("max-buckets", most, f"max-buckets must be 1 to {LIST_MAX_BUCKETS}")
        after = continuation_of(params.get("ContinuationToken"))
        prefix, region = params.get("Prefix") or "", params.get("BucketRegion")
        known = await self.lanes.meta(self.objects.list_buckets)
        fitting = [
            one
            for one in known
            if one.name.startswith(prefix) and one.name > after and region in (None, one.region)
        ]  # fmt: skip
        page = fitting[:most]
        return present(
            Buckets=[_listed(context, one) for one in page],
            Owner=self.owner,
            Prefix=params.get("Prefix"),
            ContinuationToken=token_of(page[-1].name) if len(fitting) > most else None,
        )

    async def location(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetBucketLocation")
        info = await self.lanes.meta(lambda: self.objects.head_bucket(params["Bucket"]))
        return {"LocationConstraint": None if info.region == DEFAULT_REGION else info.region}


def _listed(context: Context, info: BucketInfo) -> dict[str, Any]:
    return {
        "Name": info.name,
        "CreationDate": info.created_at,
        "BucketRegion": info.region,
        "BucketArn": arn(context, info.name),
    }


def _region_of(asked_at: str, constraint: str | None) -> str:
    """Where a new bucket lies: us-east-1 creates anywhere, other regions only in themselves. Raises: WireError."""
    named = "eu-west-1" if constraint == "EU" else constraint
    if asked_at == DEFAULT_REGION:
        return named or DEFAULT_REGION
    if named != asked_at:
        message = (
            f"The {constraint or 'unspecified'} location constraint is incompatible for the region specific endpoint "
            f"this request was sent to."
        )
        raise WireError("IllegalLocationConstraintException", 400, message)
    return asked_at
