"""Repositories, their tags (of the resource), and the password of `docker login`.

`repositoryUri` and `proxyEndpoint` carry this server's own address, because that is where `docker push` must go. In an
Image, AWS's name (ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME) means the same repository.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Connection

from clary.domain import registry_login
from clary.domain.container_image import check_repository
from clary.domain.errors import InUse, Invalid, LimitExceeded, Unsupported
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.ecr.room import Room, own_registry, registry_host, repository_arn
from clary.store.registry import KIND, Registry
from clary.store.resources import Query, Record, Resources

PAGE = 100
MAX_TAGS = 50  # service model, TagList
_MUTABILITY = ("MUTABLE", "IMMUTABLE")


class Key(Protocol):
    """A key as far as a password needs it."""

    @property
    def secret_access_key(self) -> str: ...
    @property
    def expires_at(self) -> datetime | None: ...


class Repositories(Room):
    """See the module."""

    def __init__(
        self,
        resources: Resources,
        registry: Registry,
        find_key: Callable[[str], Key | None],
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(resources, registry)
        self._find_key = find_key
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "CreateRepository": self.create_repository,
            "DescribeRepositories": self.describe_repositories,
            "DeleteRepository": self.delete_repository,
            "PutImageTagMutability": self.put_image_tag_mutability,
            "GetAuthorizationToken": self.get_authorization_token,
            "DescribeRegistry": self.describe_registry,
            "TagResource": self.tag_resource,
            "UntagResource": self.untag_resource,
            "ListTagsForResource": self.list_tags_for_resource,
        }

    async def create_repository(self, context: Context, request: Members) -> Members:
        name = check_repository(request["repositoryName"])
        context.authorize("ecr:CreateRepository", repository_arn(context.place, name))
        own_registry(context, request)
        if request.get("encryptionConfiguration", {}).get("encryptionType", "AES256") != "AES256":
            raise Unsupported("encryptionConfiguration with a KMS key", "layers are not encrypted; leave it out")
        desired = {
            "mutability": _mutability(request),
            "scan_on_push": bool(request.get("imageScanningConfiguration", {}).get("scanOnPush", False)),
        }
        tags = request.get("tags", ())
        if len(tags) > MAX_TAGS:
            raise LimitExceeded("tags of a repository", maximum=MAX_TAGS, asked=len(tags))
        record = await self.resources.create(
            KIND,
            context.place,
            name,
            desired,
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=[{"Key": tag["Key"], "Value": tag.get("Value", "")} for tag in tags],
        )
        return {"repository": _told(context, record)}

    async def describe_repositories(self, context: Context, request: Members) -> Members:
        names = request.get("repositoryNames")
        if names:
            found = [
                await self.repository(context, {**request, "repositoryName": name}, "DescribeRepositories")
                for name in names
            ]
            return {"repositories": [_told(context, record) for record in found]}
        context.authorize("ecr:DescribeRepositories", repository_arn(context.place, "*"))
        own_registry(context, request)
        records, following = await self.resources.list(
            KIND,
            context.place,
            Query(sort_by="Name", descending=False),
            request.get("maxResults", PAGE),
            page_position(request.get("nextToken")),
        )
        return present(repositories=[_told(context, record) for record in records], nextToken=page_token(following))

    async def delete_repository(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "DeleteRepository")
        if not request.get("force", False) and await self.registry.images(record.uid):
            raise InUse(KIND, record.name, by="images")
        await self.resources.remove(KIND, context.place, record.name)
        await self.registry.delete_repository(record.uid)
        return {"repository": _told(context, record)}

    async def put_image_tag_mutability(self, context: Context, request: Members) -> Members:
        record = await self.repository(context, request, "PutImageTagMutability")
        wanted = _mutability(request)

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            return {**held.desired, "mutability": wanted}

        await self.resources.change(KIND, context.place, record.name, decide)
        return {
            "registryId": context.place.account,
            "repositoryName": record.name,
            "imageTagMutability": wanted,
        }

    async def get_authorization_token(self, context: Context, request: Members) -> Members:
        context.authorize("ecr:GetAuthorizationToken", "*")
        for asked in request.get("registryIds", ()):
            own_registry(context, {"registryId": asked})
        key = self._find_key(context.caller.access_key_id)
        expires_at = (self._now() + timedelta(seconds=registry_login.VALID_S)).astimezone(UTC)
        if key is not None and key.expires_at is not None:
            expires_at = min(expires_at, key.expires_at)  # a session's password ends with the session
        password = registry_login.password(
            context.caller.access_key_id,
            key.secret_access_key if key is not None else "",
            context.place.region,
            int(expires_at.timestamp()),
        )
        token = base64.b64encode(f"{registry_login.USER}:{password}".encode()).decode()
        return {
            "authorizationData": [
                {"authorizationToken": token, "expiresAt": expires_at, "proxyEndpoint": context.base_url}
            ]
        }

    async def describe_registry(self, context: Context, _request: Members) -> Members:
        context.authorize("ecr:DescribeRegistry", "*")
        return {"registryId": context.place.account, "replicationConfiguration": {"rules": []}}

    async def tag_resource(self, context: Context, request: Members) -> Members:
        arn = await self._tagged(context, request, "TagResource")
        held = await self.resources.tags(arn)
        count = len(held.keys() | {tag["Key"] for tag in request["tags"]})
        if count > MAX_TAGS:
            raise LimitExceeded("tags of a repository", maximum=MAX_TAGS, asked=count)
        await self.resources.add_tags(
            arn, [{"Key": tag["Key"], "Value": tag.get("Value", "")} for tag in request["tags"]]
        )
        return {}

    async def untag_resource(self, context: Context, request: Members) -> Members:
        await self.resources.delete_tags(await self._tagged(context, request, "UntagResource"), request["tagKeys"])
        return {}

    async def list_tags_for_resource(self, context: Context, request: Members) -> Members:
        held = await self.resources.tags(await self._tagged(context, request, "ListTagsForResource"))
        return {"tags": [{"Key": key, "Value": value} for key, value in held.items()]}

    async def _tagged(self, context: Context, request: Members, action: str) -> str:
        """What a repository's tags are stored under. Raises: Invalid for another ARN, NotFound."""
        arn = request["resourceArn"]
        prefix = repository_arn(context.place, "")
        if not arn.startswith(prefix):
            raise Invalid("resourceArn", f"{arn} is no repository of this account and region")
        record = await self.repository(context, {"repositoryName": arn.removeprefix(prefix)}, action)
        return record.place.arn(KIND, record.name)


def _mutability(request: Members) -> str:
    """Raises: Unsupported for what is not served."""
    asked: str = request.get("imageTagMutability", "MUTABLE")
    if asked not in _MUTABILITY or request.get("imageTagMutabilityExclusionFilters"):
        raise Unsupported("imageTagMutability with exclusion filters", f"give one of {', '.join(_MUTABILITY)}")
    return asked


def _told(context: Context, record: Record) -> Members:
    return {
        "repositoryArn": repository_arn(record.place, record.name),
        "registryId": record.place.account,
        "repositoryName": record.name,
        "repositoryUri": f"{registry_host(context)}/{record.name}",
        "createdAt": record.created_at,
        "imageTagMutability": record.desired["mutability"],
        "imageScanningConfiguration": {"scanOnPush": record.desired["scan_on_push"]},
        "encryptionConfiguration": {"encryptionType": "AES256"},
    }
