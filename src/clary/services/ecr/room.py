"""What the rooms of ECR share: finding a repository, its names, and who may."""

from __future__ import annotations

from collections.abc import Mapping

from clary.domain.errors import NotFound
from clary.domain.names import Place, partition
from clary.services.base import Context, Handler, Members
from clary.store.registry import KIND, Registry
from clary.store.resources import Record, Resources


class Room:
    """The base of one group of operations."""

    operations: Mapping[str, Handler]

    def __init__(self, resources: Resources, registry: Registry) -> None:
        self.resources = resources
        self.registry = registry

    async def repository(self, context: Context, request: Members, action: str) -> Record:
        """The repository of a request whose caller may do `action` on it. Raises: AccessDenied, NotFound."""
        name = request["repositoryName"]
        context.authorize(f"ecr:{action}", repository_arn(context.place, name))
        own_registry(context, request)
        record = await self.resources.find(KIND, context.place, name)
        if record is None:
            raise NotFound(KIND, name)
        return record


def own_registry(context: Context, request: Members) -> None:
    """Only one account's registry is here. Raises: NotFound."""
    asked = request.get("registryId")
    if asked is not None and asked != context.place.account:
        raise NotFound("registry", asked)


def repository_arn(place: Place, name: str) -> str:
    return f"arn:{partition(place.region)}:ecr:{place.region}:{place.account}:repository/{name}"


def registry_host(context: Context) -> str:
    """Where images are pushed to and pulled from: as the client addressed us."""
    return context.base_url.partition("://")[2]
