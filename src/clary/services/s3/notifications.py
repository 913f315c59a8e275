"""Who is told of a bucket's changes: PutBucketNotificationConfiguration and Get.

Whoever puts a configuration must be allowed to do himself what it makes clary do: invoke the function, send to the
queue, publish to the topic. Policies of the targets are kept there and not asked.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from clary.domain.bucket_notification import EVENT_BRIDGE, TARGETS, rules_of
from clary.services.base import Context, Handler, Members
from clary.services.rights import authorize_target
from clary.services.s3.lanes import Lanes
from clary.services.s3.room import Room
from clary.store.object_events import NOTIFICATION
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError

SERVICE_OF = {"LambdaFunctionConfigurations": "lambda", "QueueConfigurations": "sqs", "TopicConfigurations": "sns"}

# Whether the function, queue or topic of an ARN exists.
Exists = Callable[[str], Awaitable[bool]]


class Notifications(Room):
    """See the module."""

    def __init__(
        self, objects: ObjectStore, lanes: Lanes, account: str, now: Callable[[], datetime], exists: Exists
    ) -> None:
        super().__init__(objects, lanes, account, now)
        self._exists = exists
        self.operations: Mapping[str, Handler] = {
            "PutBucketNotificationConfiguration": self.put,
            "GetBucketNotificationConfiguration": self.get,
        }

    async def put(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "PutBucketNotification")
        configuration = json.loads(json.dumps(params["NotificationConfiguration"]))
        for member in TARGETS:
            for one in configuration.get(member) or []:
                one.setdefault("Id", uuid.uuid4().hex)
                one["Id"] = one["Id"] or uuid.uuid4().hex
        rules_of(configuration)
        for member, target in TARGETS.items():
            for one in configuration.get(member) or []:
                await self._check_target(context, SERVICE_OF[member], one[target], params)
        empty = not any(configuration.get(member) for member in TARGETS) and EVENT_BRIDGE not in configuration
        text = None if empty else json.dumps(configuration)
        await self.lanes.meta(lambda: self.objects.put_bucket_document(params["Bucket"], NOTIFICATION, text))
        return {}

    async def _check_target(self, context: Context, service: str, arn: str, params: Members) -> None:
        """Raises: AccessDenied, WireError."""
        parts = arn.split(":")
        if len(parts) < 6 or parts[2] != service:
            raise WireError("InvalidArgument", 400, "The ARN could not be parsed", {"ArgumentValue": arn})
        authorize_target(context, arn)
        if not params.get("SkipDestinationValidation") and not await self._exists(arn):
            text = "Unable to validate the following destination configurations"
            raise WireError("InvalidArgument", 400, text, {"ArgumentName": arn, "ArgumentValue": "it does not exist"})

    async def get(self, context: Context, params: Members) -> Members:
        await self.admit(context, params, "GetBucketNotification")
        text = await self.lanes.meta(lambda: self.objects.bucket_document(params["Bucket"], NOTIFICATION))
        found: Members = json.loads(text) if text else {}
        return found
