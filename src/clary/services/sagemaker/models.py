"""CreateModel, DescribeModel, ListModels, DeleteModel.

A model is only a record; what it names is checked to exist now, and resolved again by every deployment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from clary.domain import hub_model
from clary.domain.containers import ExecutionMode, Member, check
from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import parse_s3_uri
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.sagemaker.listing import query_of
from clary.store.resources import Record, Resources

KIND = "model"


class Artifacts(Protocol):
    """The object store as far as CreateModel needs it."""

    async def exists(self, bucket: str, key: str) -> bool: ...
    async def any_under(self, bucket: str, prefix: str) -> bool: ...


class Servers(Protocol):
    """What serves images."""

    async def refusal(self, image: str, region: str) -> str: ...


class Models:
    """The model operations."""

    def __init__(self, resources: Resources, artifacts: Artifacts, servers: Servers) -> None:
        self._resources = resources
        self._artifacts = artifacts
        self._servers = servers
        self.operations: Mapping[str, Handler] = {
            "CreateModel": self.create_model,
            "DescribeModel": self.describe_model,
            "ListModels": self.list_models,
            "DeleteModel": self.delete_model,
        }

    async def create_model(self, context: Context, request: Members) -> Members:
        name = request["ModelName"]
        arn = context.place.arn("model", name)
        context.authorize("sagemaker:CreateModel", arn)
        _check_together(request)
        for container in containers(request):
            await self.check_container(context, container)
        if role := request.get("ExecutionRoleArn"):
            context.authorize("iam:PassRole", role)
        await self._resources.create(
            KIND,
            context.place,
            name,
            {key: value for key, value in request.items() if key != "Tags"},
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=request.get("Tags", ()),
        )
        return {"ModelArn": arn}

    async def check_container(self, context: Context, container: Members) -> None:
        """A ContainerDefinition, whether its data is there and its image can be served. Raises: Invalid, Unsupported,
        AccessDenied."""
        _check_container(container)
        await self._check_data(context, container)
        refusal = await self._servers.refusal(container["Image"], context.place.region)
        if refusal:
            raise Invalid("Image", f"Nothing here can serve {refusal}.")

    async def _check_data(self, context: Context, container: Members) -> None:
        for source in [*data_sources(container), *_hub_sources(container)]:
            uri = source["S3Uri"]
            place = parse_s3_uri(uri)
            if place is None:
                raise Invalid("ModelDataUrl", f"Could not access model data at {uri}: only s3:// URIs are served.")
            prefix = source.get("S3DataType") == "S3Prefix"
            context.authorize(
                "s3:ListBucket" if prefix else "s3:GetObject",
                f"arn:aws:s3:::{place.bucket}" + ("" if prefix else f"/{place.key}"),
            )
            if is_multi_model(container):
                continue  # its models may come later
            found = await (
                self._artifacts.any_under(place.bucket, place.key)
                if prefix
                else self._artifacts.exists(place.bucket, place.key)
            )
            if not found:
                raise Invalid("ModelDataUrl", f"Could not find model data at {uri}.")

    async def describe_model(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:DescribeModel", context.place.arn("model", request["ModelName"]))
        record = await self._resources.get(KIND, context.place, request["ModelName"])
        stored = dict(record.desired)
        return present(
            ModelName=record.name,
            PrimaryContainer=stored.get("PrimaryContainer"),
            Containers=stored.get("Containers"),
            InferenceExecutionConfig=stored.get("InferenceExecutionConfig"),
            ExecutionRoleArn=stored.get("ExecutionRoleArn"),
            VpcConfig=stored.get("VpcConfig"),
            CreationTime=record.created_at,
            ModelArn=context.place.arn("model", record.name),
            EnableNetworkIsolation=stored.get("EnableNetworkIsolation", False),
        )

    async def list_models(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:ListModels", "*")
        records, following = await self._resources.list(
            KIND,
            context.place,
            query_of(request),
            request.get("MaxResults", 10),
            page_position(request.get("NextToken")),
        )
        return present(Models=[_summary(record) for record in records], NextToken=page_token(following))

    async def delete_model(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:DeleteModel", context.place.arn("model", request["ModelName"]))
        await self._resources.remove(KIND, context.place, request["ModelName"])
        return {}


def _summary(record: Record) -> Members:
    return {
        "ModelName": record.name,
        "ModelArn": record.place.arn("model", record.name),
        "CreationTime": record.created_at,
    }


def containers(stored: Mapping[str, Any]) -> list[Members]:
    """The containers of a model, asked for or stored, in order. One in Containers is like a PrimaryContainer."""
    primary = stored.get("PrimaryContainer")
    return [primary] if primary is not None else list(stored.get("Containers") or ())


def mode_of(stored: Mapping[str, Any]) -> ExecutionMode:
    """How a model, asked for or stored, runs its containers."""
    return ExecutionMode(stored.get("InferenceExecutionConfig", {}).get("Mode", ExecutionMode.SERIAL))


def _check_together(request: Members) -> None:
    """Whether the containers make a model. Raises: Invalid."""
    if request.get("PrimaryContainer") is not None and request.get("Containers"):
        raise Invalid("PrimaryContainer", "Specify either PrimaryContainer or Containers, not both.")
    found = containers(request)
    if not found:
        raise Invalid("PrimaryContainer", "A model needs a PrimaryContainer.")
    mode = mode_of(request)
    if "PrimaryContainer" in request and mode is ExecutionMode.DIRECT:
        raise Invalid("InferenceExecutionConfig", "Mode Direct goes with Containers, not with a PrimaryContainer.")
    check([_member(container) for container in found], mode)


def _member(container: Members) -> Member:
    environment = container.get("Environment", {})
    return Member(
        container.get("ContainerHostname", ""),
        is_multi_model(container),
        sum(len(key.encode()) + len(value.encode()) for key, value in environment.items()),
    )


def _check_container(container: Members) -> None:
    for member in ("ModelPackageName", "InferenceSpecificationName"):
        if container.get(member):
            raise Unsupported(member, "give Image and ModelDataUrl or ModelDataSource")
    if is_multi_model(container):
        if not container.get("ModelDataUrl") or container.get("ModelDataSource"):
            raise Invalid("ModelDataUrl", "A MultiModel container needs a ModelDataUrl: the prefix of its models.")
        if container.get("AdditionalModelDataSources"):
            raise Invalid("AdditionalModelDataSources", "They are not supported for MultiModel containers.")
    elif container.get("MultiModelConfig"):
        raise Invalid("MultiModelConfig", "MultiModelConfig goes with Mode MultiModel only.")
    if not container.get("Image"):
        raise Invalid("Image", "A container needs an Image.")
    if container.get("ModelDataUrl") and container.get("ModelDataSource"):
        raise Invalid("ModelDataUrl", "Specify either ModelDataUrl or ModelDataSource, not both.")
    for source in data_sources(container):
        if source.get("S3DataType") == "S3Prefix" and not source["S3Uri"].endswith("/"):
            raise Invalid("ModelDataSource", f"S3Uri {source['S3Uri']} is a prefix and must end with '/'.")
        if source.get("ManifestS3Uri"):
            raise Unsupported("ManifestS3Uri", "name the prefix itself")


def is_multi_model(container: Mapping[str, Any]) -> bool:
    return bool(container.get("Mode", "SingleModel") == "MultiModel")


def holds_many(model: Record) -> bool:
    """Whether one of a stored model's containers is a MultiModel one."""
    return any(is_multi_model(container) for container in containers(model.desired))


def _hub_sources(container: Mapping[str, Any]) -> list[Members]:
    """The prefix that HF_MODEL_ID names, if it does: it is checked and authorized like every model data."""
    prefix = hub_model.prefix_of(container.get("Image", ""), container.get("Environment", {}))
    return [{"S3Uri": prefix, "S3DataType": "S3Prefix"}] if prefix else []


def data_sources(container: Mapping[str, Any]) -> list[Members]:
    """Every S3DataSource of a container; ModelDataUrl counts as a gzip-compressed object."""
    sources: list[Members] = []
    if (url := container.get("ModelDataUrl")) and is_multi_model(container):
        sources.append({"S3Uri": url.rstrip("/") + "/", "S3DataType": "S3Prefix", "ChannelName": ""})
    elif url:
        sources.append({"S3Uri": url, "S3DataType": "S3Object", "CompressionType": "Gzip", "ChannelName": ""})
    if model := container.get("ModelDataSource", {}).get("S3DataSource"):
        sources.append({**model, "ChannelName": ""})
    for extra in container.get("AdditionalModelDataSources", ()):
        sources.append({**extra["S3DataSource"], "ChannelName": extra["ChannelName"]})
    return sources
