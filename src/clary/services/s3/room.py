"""What the rooms of S3 share: the store, the lanes, who owns everything, and the check in front of every call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from clary.domain.names import partition
from clary.services.base import Context, Members
from clary.services.s3.lanes import Lanes
from clary.services.s3.refusals import refuse
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError


class Room:
    """The base of one group of operations. One account owns every bucket."""

    def __init__(self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime]) -> None:
        self.objects = objects
        self.lanes = lanes
        self.account = account
        self.now = now
        # A canonical user id is 64 hexadecimal digits that never change for an account.
        self.owner: Members = {"DisplayName": account, "ID": hashlib.sha256(account.encode()).hexdigest()}

    async def admit(self, context: Context, params: Members, action: str, *more: str) -> None:
        """Before anything is done: what cannot be honoured, who may, and whose bucket the caller expects.

        `action` and `more` are IAM's, without "s3:"; they are asked on the object where there is a key.
        Raises: AccessDenied, Unsupported, WireError.
        """
        refuse(params)
        resource = arn(context, params["Bucket"], params.get("Key"))
        for one in (action, *more):
            context.authorize(f"s3:{one}", resource)
        await self.expect_owner(params["Bucket"], params.get("ExpectedBucketOwner"))

    async def expect_owner(self, bucket: str, expected: str | None) -> None:
        """Raises: WireError when the bucket exists and is another account's, NotFound when it does not exist."""
        if expected is not None and expected != self.account:
            await self.lanes.meta(lambda: self.objects.head_bucket(bucket))
            message = f"Access Denied: the bucket {bucket} belongs to account {self.account}, not to {expected}"
            raise WireError("AccessDenied", 403, message)


def arn(context: Context, bucket: str, key: str | None = None) -> str:
    """The ARN of a bucket, or of an object in it."""
    of_bucket = f"arn:{partition(context.place.region)}:s3:::{bucket}"
    return of_bucket if key is None else f"{of_bucket}/{key}"


def quoted(etag: str) -> str:
    """An ETag as headers and listings have it."""
    return f'"{etag}"'
