"""AddTags, ListTags, DeleteTags, by ARN."""

from __future__ import annotations

from collections.abc import Mapping

from clary.domain.errors import Invalid, LimitExceeded, NotFound
from clary.domain.names import Place, parse_sagemaker_arn
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.store.resources import Resources

MAX_TAGS = 50  # service model, TagList
PAGE = 50


class Tags:
    """The tag operations."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.operations: Mapping[str, Handler] = {
            "AddTags": self.add_tags,
            "ListTags": self.list_tags,
            "DeleteTags": self.delete_tags,
        }

    async def _resource(self, context: Context, action: str, arn: str) -> str:
        """The ARN as tags are stored under. Raises: Invalid, NotFound."""
        context.authorize(f"sagemaker:{action}", arn)
        parsed = parse_sagemaker_arn(arn)
        if parsed is None or parsed.region != context.place.region or parsed.account != context.place.account:
            raise Invalid("ResourceArn", f"{arn} is not the ARN of a SageMaker resource of this account and region.")
        place = Place(parsed.account, parsed.region)
        record = await self._resources.find(parsed.kind, place, parsed.name)
        if record is None:
            raise NotFound(parsed.kind, arn)
        return place.arn(parsed.kind, record.name)

    async def add_tags(self, context: Context, request: Members) -> Members:
        arn = await self._resource(context, "AddTags", request["ResourceArn"])
        held = await self._resources.tags(arn)
        count = len(held.keys() | {tag["Key"] for tag in request["Tags"]})
        if count > MAX_TAGS:
            raise LimitExceeded("tags of a resource", maximum=MAX_TAGS, asked=count)
        held = await self._resources.add_tags(arn, request["Tags"])
        return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(held.items())]}

    async def list_tags(self, context: Context, request: Members) -> Members:
        arn = await self._resource(context, "ListTags", request["ResourceArn"])
        held = [{"Key": key, "Value": value} for key, value in sorted((await self._resources.tags(arn)).items())]
        position = page_position(request.get("NextToken"))
        first = int(position[0]) if position else 0
        last = first + request.get("MaxResults", PAGE)
        following = [last, 0] if last < len(held) else None
        return present(Tags=held[first:last], NextToken=page_token(following))

    async def delete_tags(self, context: Context, request: Members) -> Members:
        arn = await self._resource(context, "DeleteTags", request["ResourceArn"])
        await self._resources.delete_tags(arn, request["TagKeys"])
        return {}
