"""The `application-autoscaling` service, as far as it is built: scalable targets of asynchronous endpoints and of
inference components.

A registered variant or component follows its load by itself between MinCapacity and MaxCapacity: no policy, no alarm.
Policies, scheduled actions and other kinds of endpoints are refused by name.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from clary.domain.asynchronous import Bounds
from clary.domain.errors import ClaryError, Invalid, NotFound, Unsupported
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT
from clary.domain.names import partition
from clary.services.base import Context, Handler, Members, common_error, present
from clary.services.sagemaker.deployments import desired_of, observed_of
from clary.store.codec import encode
from clary.store.resources import Record, Resources
from clary.wire.errors import WireError

INSTANCES = "sagemaker:variant:DesiredInstanceCount"
COPIES = "sagemaker:inference-component:DesiredCopyCount"
MAX_CAPACITY = 1000


class Autoscaling:
    """See the module. A target is kept with its endpoint and goes with it."""

    name = "application-autoscaling"

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.operations: Mapping[str, Handler] = {
            "RegisterScalableTarget": self.register_scalable_target,
            "DescribeScalableTargets": self.describe_scalable_targets,
            "DeregisterScalableTarget": self.deregister_scalable_target,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        if isinstance(error, NotFound):
            return WireError("ObjectNotFoundException", 400, str(error))
        if isinstance(error, Unsupported):
            return WireError("ValidationException", 400, str(error))
        return common_error(error)

    async def register_scalable_target(self, context: Context, request: Members) -> Members:
        target = _target(request)
        context.authorize("application-autoscaling:RegisterScalableTarget", "*")
        context.authorize(f"sagemaker:{target.action}", context.place.arn(target.kind, target.name))
        if any(request.get("SuspendedState", {}).values()):
            raise Unsupported("SuspendedState", "leave it out, or deregister the target meanwhile")

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            deployment = observed_of(record).serving or desired.target
            variant = target.variant or deployment.variants[0].name
            if variant not in {one.name for one in deployment.variants}:
                raise Invalid("ResourceId", f"Endpoint {target.name} has no variant {variant}.")
            if target.kind == ENDPOINT and deployment.asynchronous is None:
                raise Unsupported(
                    f"a scalable target on endpoint {target.name}, which is not asynchronous",
                    "a real-time variant goes to zero by the tag clary:scale-to-zero; a serverless one does by itself",
                )
            held = desired.scaling.get(variant)
            bounds = _bounds(request, held)
            changed: Mapping[str, Any] = encode(replace(desired, scaling={**desired.scaling, variant: bounds}))
            return None if bounds == held else changed

        await self._change(context, target, decide)
        return {"ScalableTargetARN": _arn(context, request["ResourceId"])}

    async def describe_scalable_targets(self, context: Context, request: Members) -> Members:
        context.authorize("application-autoscaling:DescribeScalableTargets", "*")
        _check_namespace(request)
        wanted, dimension = set(request.get("ResourceIds", ())), request.get("ScalableDimension")
        found = []
        for kind, dimension_of_it in ((ENDPOINT, INSTANCES), (INFERENCE_COMPONENT, COPIES)):
            if dimension not in (None, dimension_of_it):
                continue
            for record, _ in await self._resources.all_with_tags(kind):
                if record.place != context.place:
                    continue
                for variant, bounds in sorted(desired_of(record).scaling.items()):
                    resource = f"{kind}/{record.name}" + (f"/variant/{variant}" if kind == ENDPOINT else "")
                    if wanted and resource not in wanted:
                        continue
                    found.append(_shown(context, resource, dimension_of_it, bounds, record))
        return {"ScalableTargets": found}

    async def deregister_scalable_target(self, context: Context, request: Members) -> Members:
        target = _target(request)
        context.authorize("application-autoscaling:DeregisterScalableTarget", "*")

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            variant = target.variant or desired.target.variants[0].name
            if variant not in desired.scaling:
                raise NotFound("scalable target", request["ResourceId"])
            left = {name: bounds for name, bounds in desired.scaling.items() if name != variant}
            changed: Mapping[str, Any] = encode(replace(desired, scaling=left))
            return changed

        await self._change(context, target, decide)
        return {}

    async def _change(self, context: Context, target: _Target, decide: Any) -> None:
        try:
            await self._resources.change(target.kind, context.place, target.name, decide)
        except NotFound as error:
            if error.kind != target.kind:
                raise
            what = "Endpoint" if target.kind == ENDPOINT else "Inference component"
            raise Invalid("ResourceId", f"{what} {target.name} does not exist.") from error


@dataclass(frozen=True, slots=True)
class _Target:
    """What a ResourceId names. `variant` is empty for an inference component, which has one."""

    kind: str
    name: str
    variant: str

    @property
    def action(self) -> str:
        """The operation whose right registering needs."""
        return (
            "UpdateEndpointWeightsAndCapacities" if self.kind == ENDPOINT else "UpdateInferenceComponentRuntimeConfig"
        )


def _check_namespace(request: Members) -> None:
    if request["ServiceNamespace"] != "sagemaker":
        raise Unsupported(f"ServiceNamespace {request['ServiceNamespace']}", "sagemaker is what scales here")
    dimension = request.get("ScalableDimension", INSTANCES)
    if dimension not in (INSTANCES, COPIES):
        raise Unsupported(
            f"ScalableDimension {dimension}",
            f"{INSTANCES} of asynchronous endpoints and {COPIES} are served",
        )


def _target(request: Members) -> _Target:
    """Raises: Invalid, Unsupported."""
    _check_namespace(request)
    parts = request["ResourceId"].split("/")
    if request["ScalableDimension"] == COPIES:
        if len(parts) != 2 or parts[0] != INFERENCE_COMPONENT:
            raise Invalid("ResourceId", f"{request['ResourceId']} is not inference-component/NAME.")
        return _Target(INFERENCE_COMPONENT, parts[1], "")
    if len(parts) != 4 or parts[0] != ENDPOINT or parts[2] != "variant":
        raise Invalid("ResourceId", f"{request['ResourceId']} is not endpoint/NAME/variant/NAME.")
    return _Target(ENDPOINT, parts[1], parts[3])


def _shown(context: Context, resource: str, dimension: str, bounds: Bounds, record: Record) -> Members:
    return present(
        ServiceNamespace="sagemaker",
        ResourceId=resource,
        ScalableDimension=dimension,
        MinCapacity=bounds.min,
        MaxCapacity=bounds.max,
        RoleARN=_role(context),
        CreationTime=record.modified_at,
        SuspendedState={
            "DynamicScalingInSuspended": False,
            "DynamicScalingOutSuspended": False,
            "ScheduledScalingSuspended": False,
        },
        ScalableTargetARN=_arn(context, resource),
    )


def _bounds(request: Members, held: Bounds | None) -> Bounds:
    """The capacities asked for; an update may leave one out. Raises: Invalid."""
    least, most = request.get("MinCapacity"), request.get("MaxCapacity")
    if held is None and (least is None or most is None):
        raise Invalid("MinCapacity", "A new scalable target needs MinCapacity and MaxCapacity.")
    least = held.min if least is None and held else least
    most = held.max if most is None and held else most
    assert least is not None
    assert most is not None
    if not 0 <= least <= most or not 1 <= most <= MAX_CAPACITY:
        raise Invalid(
            "MaxCapacity", f"MinCapacity {least} and MaxCapacity {most}: 0 <= min <= max, max 1 to {MAX_CAPACITY}."
        )
    return Bounds(least, most)


def _arn(context: Context, resource: str) -> str:
    region, account = context.place.region, context.place.account
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"{region}/{account}/{resource}").hex
    return f"arn:{partition(region)}:application-autoscaling:{region}:{account}:scalable-target/{number}"


def _role(context: Context) -> str:
    return (
        f"arn:{partition(context.place.region)}:iam::{context.place.account}:role/aws-service-role/"
        "sagemaker.application-autoscaling.amazonaws.com/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    )
