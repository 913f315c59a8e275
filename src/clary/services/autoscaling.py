"""The `application-autoscaling` service, as far as it is built: scalable targets of asynchronous endpoints.

A registered variant follows its backlog by itself between MinCapacity and MaxCapacity: no policy, no alarm. Policies,
scheduled actions and other kinds of endpoints are refused by name.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from clary.domain.asynchronous import Bounds
from clary.domain.errors import ClaryError, Invalid, NotFound, Unsupported
from clary.domain.names import partition
from clary.services.base import Context, Handler, Members, common_error, present
from clary.services.sagemaker.endpoints import KIND, desired_of, observed_of
from clary.store.codec import encode
from clary.store.resources import Record, Resources
from clary.wire.errors import WireError

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
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
        endpoint, variant = _parts(request)
        context.authorize("application-autoscaling:RegisterScalableTarget", "*")
        context.authorize("sagemaker:UpdateEndpointWeightsAndCapacities", context.place.arn(KIND, endpoint))
        if any(request.get("SuspendedState", {}).values()):
            raise Unsupported("SuspendedState", "leave it out, or deregister the target meanwhile")

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            deployment = observed_of(record).serving or desired.target
            if variant not in {one.name for one in deployment.variants}:
                raise Invalid("ResourceId", f"Endpoint {endpoint} has no variant {variant}.")
            if deployment.asynchronous is None:
                raise Unsupported(
                    f"a scalable target on endpoint {endpoint}, which is not asynchronous",
                    "a real-time variant goes to zero by the tag clary:scale-to-zero; a serverless one does by itself",
                )
            held = desired.scaling.get(variant)
            bounds = _bounds(request, held)
            changed: Mapping[str, Any] = encode(replace(desired, scaling={**desired.scaling, variant: bounds}))
            return None if bounds == held else changed

        await self._change(context, endpoint, decide)
        return {"ScalableTargetARN": _arn(context, endpoint, variant)}

    async def describe_scalable_targets(self, context: Context, request: Members) -> Members:
        context.authorize("application-autoscaling:DescribeScalableTargets", "*")
        _check_namespace(request)
        wanted = set(request.get("ResourceIds", ()))
        found = []
        for record, _ in await self._resources.all_with_tags(KIND):
            if record.place != context.place:
                continue
            for variant, bounds in sorted(desired_of(record).scaling.items()):
                resource = f"endpoint/{record.name}/variant/{variant}"
                if wanted and resource not in wanted:
                    continue
                found.append(
                    present(
                        ServiceNamespace="sagemaker",
                        ResourceId=resource,
                        ScalableDimension=DIMENSION,
                        MinCapacity=bounds.min,
                        MaxCapacity=bounds.max,
                        RoleARN=_role(context),
                        CreationTime=record.modified_at,
                        SuspendedState={
                            "DynamicScalingInSuspended": False,
                            "DynamicScalingOutSuspended": False,
                            "ScheduledScalingSuspended": False,
                        },
                        ScalableTargetARN=_arn(context, record.name, variant),
                    )
                )
        return {"ScalableTargets": found}

    async def deregister_scalable_target(self, context: Context, request: Members) -> Members:
        endpoint, variant = _parts(request)
        context.authorize("application-autoscaling:DeregisterScalableTarget", "*")

        def decide(_connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            if variant not in desired.scaling:
                raise NotFound("scalable target", request["ResourceId"])
            left = {name: bounds for name, bounds in desired.scaling.items() if name != variant}
            changed: Mapping[str, Any] = encode(replace(desired, scaling=left))
            return changed

        await self._change(context, endpoint, decide)
        return {}

    async def _change(self, context: Context, endpoint: str, decide: Any) -> None:
        try:
            await self._resources.change(KIND, context.place, endpoint, decide)
        except NotFound as error:
            if error.kind != KIND:
                raise
            raise Invalid("ResourceId", f"Endpoint {endpoint} does not exist.") from error


def _check_namespace(request: Members) -> None:
    if request["ServiceNamespace"] != "sagemaker":
        raise Unsupported(f"ServiceNamespace {request['ServiceNamespace']}", "sagemaker is what scales here")
    dimension = request.get("ScalableDimension", DIMENSION)
    if dimension != DIMENSION:
        raise Unsupported(f"ScalableDimension {dimension}", f"{DIMENSION} of asynchronous endpoints is served")


def _parts(request: Members) -> tuple[str, str]:
    """(endpoint, variant) of a ResourceId. Raises: Invalid, Unsupported."""
    _check_namespace(request)
    parts = request["ResourceId"].split("/")
    if len(parts) != 4 or parts[0] != "endpoint" or parts[2] != "variant":
        raise Invalid("ResourceId", f"{request['ResourceId']} is not endpoint/NAME/variant/NAME.")
    return parts[1], parts[3]


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


def _arn(context: Context, endpoint: str, variant: str) -> str:
    region, account = context.place.region, context.place.account
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"{region}/{account}/{endpoint}/{variant}").hex
    return f"arn:{partition(region)}:application-autoscaling:{region}:{account}:scalable-target/{number}"


def _role(context: Context) -> str:
    return (
        f"arn:{partition(context.place.region)}:iam::{context.place.account}:role/aws-service-role/"
        "sagemaker.application-autoscaling.amazonaws.com/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    )
