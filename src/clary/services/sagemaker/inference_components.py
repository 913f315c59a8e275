"""CreateInferenceComponent, Describe, List, Update, UpdateRuntimeConfig and Delete of it.

Each records what is wanted and returns; `controllers.endpoints` makes it so. A component is stored as an endpoint is,
with one variant, which its host endpoint's variant lends its name and instance type. Status is derived, never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain.component import Component, HostVariant, Requirements
from clary.domain.endpoint import (
    Deployment,
    Desired,
    Observed,
    Variant,
    failure_reason,
    prepared_of,
    resized,
    status,
    wanted,
)
from clary.domain.errors import Invalid, NotFound, NotReady, Unsupported
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT, owner_name
from clary.domain.names import Place
from clary.domain.prices import PriceBook
from clary.domain.routing import RoutingStrategy
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.sagemaker import endpoint_configs
from clary.services.sagemaker.deployments import container_of_stored, containers_of, desired_of, observed_of
from clary.services.sagemaker.listing import query_of
from clary.services.sagemaker.models import KIND as MODEL
from clary.services.sagemaker.models import Models, holds_many
from clary.store.codec import encode
from clary.store.resources import Record, Resources, all_of, find, new_deployment_number, want

KIND = INFERENCE_COMPONENT
STARTUP_TIMEOUT_S = 480  # 8 min, as for endpoints (container contract)
# Members whose silent loss would be a lie about results.
REFUSED = {
    "BaseInferenceComponentName": "adapters are not served; give the component a model of its own",
    "InstanceType": "instance pools are not served; leave it out",
}


class InferenceComponents:
    """The inference component operations."""

    def __init__(
        self,
        resources: Resources,
        models: Models,
        prices: PriceBook,
        now: Callable[[], datetime],
        copies: Callable[[str], int] = lambda fleet: 0,
    ) -> None:
        """`copies` tells how many copies of a fleet are ready."""
        self._resources = resources
        self._models = models
        self._prices = prices
        self._now = now
        self._copies = copies
        self.operations: Mapping[str, Handler] = {
            "CreateInferenceComponent": self.create_inference_component,
            "DescribeInferenceComponent": self.describe_inference_component,
            "ListInferenceComponents": self.list_inference_components,
            "UpdateInferenceComponent": self.update_inference_component,
            "UpdateInferenceComponentRuntimeConfig": self.update_inference_component_runtime_config,
            "DeleteInferenceComponent": self.delete_inference_component,
        }

    async def create_inference_component(self, context: Context, request: Members) -> Members:
        name = request["InferenceComponentName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:CreateInferenceComponent", arn)
        context.authorize("sagemaker:CreateInferenceComponent", context.place.arn(ENDPOINT, request["EndpointName"]))
        if request.get("Specifications"):
            raise Unsupported("Specifications", "instance pools are not served; give one Specification")
        specification = request.get("Specification")
        if not specification:
            raise Invalid("Specification", "An inference component needs a Specification.")
        if "RuntimeConfig" not in request:
            raise Invalid("RuntimeConfig", "An inference component needs RuntimeConfig.CopyCount.")
        await self._check(context, specification)
        asked_at = self._now().isoformat()

        def desired(connection: Connection, uid: int) -> Mapping[str, Any]:
            endpoint, host = _host(connection, context.place, request["EndpointName"], request.get("VariantName"))
            component = Component(endpoint.name, host.name, desired_of(endpoint).target.number, specification)
            target = _target(
                connection, context.place, uid, asked_at, component, host, _copies(request["RuntimeConfig"])
            )
            encoded: Mapping[str, Any] = encode(Desired(target=target))
            return encoded

        await self._resources.create(
            KIND,
            context.place,
            name,
            desired,
            created_by=context.caller.arn,
            token=context.token,
            tags_of_it=request.get("Tags", ()),
        )
        return {"InferenceComponentArn": arn}

    async def _check(self, context: Context, specification: Members) -> None:
        """Raises: Invalid, Unsupported, NotFound, AccessDenied."""
        for member, why in REFUSED.items():
            if specification.get(member):
                raise Unsupported(member, why)
        if ("ModelName" in specification) == ("Container" in specification):
            raise Invalid("Specification", "Specification takes either ModelName or Container.")
        needs = specification.get("ComputeResourceRequirements")
        if not needs:
            raise Invalid("ComputeResourceRequirements", "Specification needs ComputeResourceRequirements.")
        if needs.get("NumberOfAcceleratorDevicesRequired"):
            raise Unsupported("NumberOfAcceleratorDevicesRequired", "models run on CPU here; leave it out")
        least, most = needs["MinMemoryRequiredInMb"], needs.get("MaxMemoryRequiredInMb")
        if most is not None and most < least:
            raise Invalid(
                "MaxMemoryRequiredInMb", f"MaxMemoryRequiredInMb {most} is less than MinMemoryRequiredInMb {least}."
            )
        if "Container" in specification:
            if not specification["Container"].get("Image"):
                raise Invalid("Image", "Container needs an Image.")
            await self._models.check_container(context, _as_container(specification["Container"]))

    async def describe_inference_component(self, context: Context, request: Members) -> Members:
        name = request["InferenceComponentName"]
        context.authorize("sagemaker:DescribeInferenceComponent", context.place.arn(KIND, name))
        record = await self._resources.get(KIND, context.place, name)
        desired, observed = desired_of(record), observed_of(record)
        shown = observed.serving or desired.target
        component = _component(shown)
        (asked,) = wanted(desired, observed).variants
        ready = self._copies(shown.fleet(record.place.region, owner_name(KIND, record.name), component.variant))
        follows = asked.name in desired.scaling  # what runs is what is wanted
        return present(
            InferenceComponentName=record.name,
            InferenceComponentArn=record.place.arn(KIND, record.name),
            EndpointName=component.endpoint,
            EndpointArn=record.place.arn(ENDPOINT, component.endpoint),
            VariantName=component.variant,
            FailureReason=failure_reason(desired, observed) or None,
            Specification=_specification(component, desired, observed),
            RuntimeConfig={
                "DesiredCopyCount": ready if follows else asked.instance_count,
                "CurrentCopyCount": ready,
            },
            CreationTime=record.created_at,
            LastModifiedTime=record.modified_at,
            InferenceComponentStatus=status(desired, observed).value,
        )

    async def list_inference_components(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:ListInferenceComponents", "*")

        def keep(record: Record) -> bool:
            component, state = (
                _component(desired_of(record).target),
                status(desired_of(record), observed_of(record)).value,
            )
            return bool(
                request.get("EndpointNameEquals", component.endpoint) == component.endpoint
                and request.get("VariantNameEquals", component.variant) == component.variant
                and request.get("StatusEquals", state) == state
            )

        if request.get("SortBy") == "Status":
            raise Unsupported("SortBy Status", "sort by Name or CreationTime, and filter by StatusEquals")
        records, following = await self._resources.list(
            KIND,
            context.place,
            query_of(request),
            request.get("MaxResults", 10),
            page_position(request.get("NextToken")),
            keep=keep,
        )
        return present(InferenceComponents=[_summary(record) for record in records], NextToken=page_token(following))

    async def update_inference_component(self, context: Context, request: Members) -> Members:
        name = request["InferenceComponentName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:UpdateInferenceComponent", arn)
        for member, why in {
            "Specifications": "instance pools are not served; give one Specification",
            "DeploymentConfig": "updates go all at once, new copies beside the old; leave it out",
        }.items():
            if request.get(member):
                raise Unsupported(member, why)
        held = _component(desired_of(await self._resources.get(KIND, context.place, name)).target)
        specification = _merged(held.specification, request.get("Specification") or {})
        await self._check(context, specification)
        asked_at = self._now().isoformat()

        def decide(connection: Connection, record: Record) -> Mapping[str, Any] | None:
            _must_be_settled(record)
            desired = desired_of(record)
            (now,) = desired.target.variants
            copies = _copies(request["RuntimeConfig"]) if "RuntimeConfig" in request else now.instance_count
            endpoint, host = _host(connection, context.place, held.endpoint, held.variant)
            component = Component(endpoint.name, host.name, desired_of(endpoint).target.number, specification)
            target = _target(connection, context.place, record.uid, asked_at, component, host, copies)
            changed: Mapping[str, Any] = encode(replace(desired, target=target))
            return changed

        await self._resources.change(KIND, context.place, name, decide)
        return {"InferenceComponentArn": arn}

    async def update_inference_component_runtime_config(self, context: Context, request: Members) -> Members:
        name = request["InferenceComponentName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:UpdateInferenceComponentRuntimeConfig", arn)
        copies = _copies(request["DesiredRuntimeConfig"])

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            _must_be_settled(record)
            desired = desired_of(record)
            serving = observed_of(record).serving or desired.target
            (variant,) = serving.variants
            target = resized(serving, {variant.name: replace(variant, instance_count=copies)})
            changed: Mapping[str, Any] = encode(replace(desired, target=target, revision=desired.revision + 1))
            return changed

        await self._resources.change(KIND, context.place, name, decide)
        return {"InferenceComponentArn": arn}

    async def delete_inference_component(self, context: Context, request: Members) -> Members:
        name = request["InferenceComponentName"]
        context.authorize("sagemaker:DeleteInferenceComponent", context.place.arn(KIND, name))

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            changed: Mapping[str, Any] = encode(replace(desired, deleted=True))
            return None if desired.deleted else changed

        await self._resources.change(KIND, context.place, name, decide)
        return {}


# -- what an endpoint's operations do to its components, in their own transactions -----------------------


def of_endpoint(connection: Connection, place: Place, endpoint: str) -> list[Record]:
    """The components on an endpoint that nobody has deleted."""
    return [
        record
        for record in all_of(connection, KIND, place)
        if not (desired := desired_of(record)).deleted and _component(desired.target).endpoint == endpoint
    ]


def delete_all(connection: Connection, place: Place, endpoint: str) -> None:
    """The endpoint goes, and they with it: AWS leaves them behind, in service on nothing."""
    for record in of_endpoint(connection, place, endpoint):
        want(connection, record.uid, encode(replace(desired_of(record), deleted=True)))


def move_all(connection: Connection, place: Place, endpoint: str, to: Deployment) -> None:
    """The endpoint has new instances: its components are rolled out on them.

    Raises: Invalid when a component's variant is not among them.
    """
    hosts = {host.name: host for host in to.hosts}
    for record in of_endpoint(connection, place, endpoint):
        desired = desired_of(record)
        component = _component(desired.target)
        host = hosts.get(component.variant)
        if host is None:
            raise Invalid(
                "EndpointConfigName",
                f"Inference component {record.name} is on variant {component.variant}, which the new configuration "
                "does not have for inference components; delete the component first.",
            )
        (variant,) = desired.target.variants
        target = replace(
            desired.target,
            number=new_deployment_number(connection, record.uid),
            variants=(replace(variant, instance_type=host.instance_type),),
            component=replace(component, host_number=to.number),
        )
        want(connection, record.uid, encode(replace(desired, target=target)))


def placements(connection: Connection, place: Place, endpoint: str) -> dict[str, list[tuple[int, ...]]]:
    """By variant, the instances that the copies of each component are on."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for record in of_endpoint(connection, place, endpoint):
        found.setdefault(_component(desired_of(record).target).variant, []).append(observed_of(record).placement)
    return found


def highest_instance(connection: Connection, place: Place, endpoint: str, variant: str) -> int:
    """One more than the highest instance of a host that a copy is on."""
    return max(
        (instance + 1 for placed in placements(connection, place, endpoint).get(variant, ()) for instance in placed),
        default=0,
    )


# -- pieces ---------------------------------------------------------------------------------------------


def _component(deployment: Deployment) -> Component:
    assert deployment.component is not None
    return deployment.component


def _copies(config: Members) -> int:
    return int(config["CopyCount"])


def _merged(held: Mapping[str, Any], asked: Members) -> Members:
    """The specification with what an update gives over it; a model takes a container's place, and the other way."""
    if "ModelName" in asked or "Container" in asked:
        held = {key: value for key, value in held.items() if key not in ("ModelName", "Container")}
    return {**held, **asked}


def _as_container(asked: Mapping[str, Any]) -> Members:
    """InferenceComponentContainerSpecification as the ContainerDefinition that it comes to."""
    return present(
        Image=asked["Image"], ModelDataUrl=asked.get("ArtifactUrl"), Environment=asked.get("Environment") or None
    )


def _host(connection: Connection, place: Place, endpoint: str, variant: str | None) -> tuple[Record, HostVariant]:
    """Raises: NotFound, Invalid."""
    record = find(connection, ENDPOINT, place, endpoint)
    if record is None or record.name != endpoint:
        raise NotFound(ENDPOINT, place.arn(ENDPOINT, endpoint))
    desired = desired_of(record)
    hosts = desired.target.hosts
    if desired.deleted:
        raise NotReady(ENDPOINT, place.arn(ENDPOINT, endpoint), state="Deleting", next_step="create it anew")
    if not hosts:
        raise Invalid(
            "EndpointName",
            f"Endpoint {endpoint} has models of its own; inference components need variants without a ModelName.",
        )
    names = ", ".join(host.name for host in hosts)
    if variant is None and len(hosts) > 1:
        raise Invalid("VariantName", f"Endpoint {endpoint} has the variants {names}; give a VariantName.")
    for host in hosts:
        if variant in (None, host.name):
            return record, host
    raise Invalid("VariantName", f"Endpoint {endpoint} has no variant {variant}; it has {names}.")


def _target(
    connection: Connection,
    place: Place,
    uid: int,
    asked_at: str,
    component: Component,
    host: HostVariant,
    copies: int,
) -> Deployment:
    """The snapshot to be rolled out, under a fresh number. Raises: NotFound, Invalid."""
    asked: Mapping[str, Any] = component.specification
    name, role, isolated = asked.get("ModelName", ""), "", False
    if name:
        model = find(connection, MODEL, place, name)
        if model is None:
            raise NotFound(MODEL, place.arn(MODEL, name))
        if holds_many(model):
            raise Invalid("ModelName", f"Model {name} is MultiModel: an inference component takes one model.")
        (container, *further) = containers_of(model)
        if further:
            raise Invalid("ModelName", f"Model {name} has several containers: an inference component takes one.")
        role = model.desired.get("ExecutionRoleArn", "")
        isolated = model.desired.get("EnableNetworkIsolation", False)
    else:
        container = container_of_stored(_as_container(asked["Container"]))
    if not role:
        endpoint = find(connection, ENDPOINT, place, component.endpoint)
        assert endpoint is not None
        config = find(connection, endpoint_configs.KIND, place, desired_of(endpoint).target.config_name)
        role = config.desired.get("ExecutionRoleArn", "") if config is not None else ""
    needs: Mapping[str, Any] = asked["ComputeResourceRequirements"]
    startup = asked.get("StartupParameters", {})
    variant = Variant(
        name=host.name,
        model_name=name,
        container=container,
        role_arn=role,
        instance_type=host.instance_type,
        instance_count=copies,
        startup_timeout_s=startup.get("ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT_S),
        strategy=RoutingStrategy(host.strategy),
        network_isolation=isolated,
        requirements=Requirements(
            needs["MinMemoryRequiredInMb"],
            needs.get("MaxMemoryRequiredInMb", 0),
            needs.get("NumberOfCpuCoresRequired", 0.0),
        ),
    )
    number = new_deployment_number(connection, uid)
    return Deployment(number, "", (variant,), asked_at, component=component)


def _must_be_settled(record: Record) -> None:
    state = status(desired_of(record), observed_of(record)).value
    if state not in ("InService", "Failed"):
        raise NotReady(
            KIND, record.place.arn(KIND, record.name), state=state, next_step="wait for InService or delete it"
        )


def _specification(component: Component, desired: Desired, observed: Observed) -> Members:
    asked: Mapping[str, Any] = component.specification
    prepared = prepared_of(observed, observed.serving or desired.target, component.variant)
    image = prepared.image if prepared else None
    told = {key: value for key, value in asked.items() if key not in ("Container", "SchedulingConfig")}
    container = asked.get("Container")
    if container is not None:
        told["Container"] = present(
            DeployedImage={
                "SpecifiedImage": image.specified_image,
                "ResolvedImage": image.resolved_image,
                "ResolutionTime": datetime.fromisoformat(image.resolved_at),
            }
            if image
            else None,
            ArtifactUrl=container.get("ArtifactUrl"),
            Environment=container.get("Environment"),
        )
    return told


def _summary(record: Record) -> Members:
    component = _component(desired_of(record).target)
    return {
        "InferenceComponentName": record.name,
        "InferenceComponentArn": record.place.arn(KIND, record.name),
        "EndpointName": component.endpoint,
        "EndpointArn": record.place.arn(ENDPOINT, component.endpoint),
        "VariantName": component.variant,
        "InferenceComponentStatus": status(desired_of(record), observed_of(record)).value,
        "CreationTime": record.created_at,
        "LastModifiedTime": record.modified_at,
    }
