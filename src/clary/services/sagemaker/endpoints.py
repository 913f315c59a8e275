"""CreateEndpoint, DescribeEndpoint, ListEndpoints, UpdateEndpoint, UpdateEndpointWeightsAndCapacities, DeleteEndpoint.

Each records what is wanted and returns; `controllers.endpoints` makes it so. Status is derived, never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain.component import HostVariant, instances_in_use
from clary.domain.endpoint import (
    Deployment,
    Desired,
    EndpointStatus,
    Observed,
    Variant,
    can_update,
    failure_reason,
    prepared_of,
    resized,
    retain,
    status,
)
from clary.domain.errors import Invalid, NotReady, Unsupported
from clary.failpoints import failpoint
from clary.services.base import Context, Handler, Members, page_position, page_token, present
from clary.services.sagemaker import inference_components as components
from clary.services.sagemaker.deployments import desired_of, observed_of, snapshot
from clary.services.sagemaker.listing import query_of
from clary.store.codec import encode
from clary.store.resources import Record, Resources

KIND = "endpoint"
# By variant, the instances that the copies of each of its inference components are on.
Placements = Mapping[str, Sequence[tuple[int, ...]]]


def status_of(record: Record) -> EndpointStatus:
    return status(desired_of(record), observed_of(record))


class Endpoints:
    """The endpoint operations."""

    def __init__(
        self, resources: Resources, now: Callable[[], datetime], instances: Callable[[str], int] = lambda fleet: 0
    ) -> None:
        """`instances` tells how many instances of an account (`fleet_name.account_of`) run."""
        self._resources = resources
        self._now = now
        self._instances = instances
        self.operations: Mapping[str, Handler] = {
            "CreateEndpoint": self.create_endpoint,
            "DescribeEndpoint": self.describe_endpoint,
            "ListEndpoints": self.list_endpoints,
            "UpdateEndpoint": self.update_endpoint,
            "UpdateEndpointWeightsAndCapacities": self.update_endpoint_weights_and_capacities,
            "DeleteEndpoint": self.delete_endpoint,
        }

    async def create_endpoint(self, context: Context, request: Members) -> Members:
        name, config_name = request["EndpointName"], request["EndpointConfigName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:CreateEndpoint", arn)
        context.authorize("sagemaker:CreateEndpoint", context.place.arn("endpoint-config", config_name))
        _check_deployment_config(request.get("DeploymentConfig"))
        asked_at = self._now().isoformat()

        def desired(connection: Connection, uid: int) -> Mapping[str, Any]:
            target = snapshot(connection, context.place, config_name, uid, asked_at)
            encoded: Mapping[str, Any] = encode(
                Desired(target=target, deployment_config=request.get("DeploymentConfig", {}))
            )
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
        failpoint("create_endpoint.after_commit")
        return {"EndpointArn": arn}

    async def describe_endpoint(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:DescribeEndpoint", context.place.arn(KIND, request["EndpointName"]))
        record = await self._resources.get(KIND, context.place, request["EndpointName"])
        placements = None
        if desired_of(record).target.hosts:
            placements = await self._resources.read(lambda c: components.placements(c, record.place, record.name))
        return _description(record, self._instances, placements)

    async def list_endpoints(self, context: Context, request: Members) -> Members:
        context.authorize("sagemaker:ListEndpoints", "*")
        wanted = request.get("StatusEquals")
        records, following = await self._resources.list(
            KIND,
            context.place,
            query_of(request),
            request.get("MaxResults", 10),
            page_position(request.get("NextToken")),
            keep=(lambda record: status_of(record) == wanted) if wanted else None,
        )
        summaries = [
            {
                "EndpointName": record.name,
                "EndpointArn": record.place.arn(KIND, record.name),
                "CreationTime": record.created_at,
                "LastModifiedTime": record.modified_at,
                "EndpointStatus": status_of(record).value,
            }
            for record in records
        ]
        return present(Endpoints=summaries, NextToken=page_token(following))

    async def update_endpoint(self, context: Context, request: Members) -> Members:
        name = request["EndpointName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:UpdateEndpoint", arn)
        context.authorize(
            "sagemaker:UpdateEndpoint", context.place.arn("endpoint-config", request["EndpointConfigName"])
        )
        deployment_config = request.get("DeploymentConfig")
        _check_deployment_config(deployment_config)
        asked_at = self._now().isoformat()
        excluded = frozenset(
            item["VariantPropertyType"] for item in request.get("ExcludeRetainedVariantProperties", ())
        )

        def decide(connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            _must_be_updatable(record)
            target = snapshot(connection, context.place, request["EndpointConfigName"], record.uid, asked_at)
            _no_conversion_to_serverless(desired.target, target)
            if bool(target.hosts) != bool(desired.target.hosts) and components.of_endpoint(
                connection, context.place, record.name
            ):
                raise Invalid(
                    "EndpointConfigName", f"Endpoint {record.name} has inference components; delete them first."
                )
            components.move_all(connection, context.place, record.name, target)
            if request.get("RetainAllVariantProperties"):
                target = retain(target, desired.target, excluded)
            kept = desired.deployment_config if request.get("RetainDeploymentConfig") else {}
            changed: Mapping[str, Any] = encode(
                replace(desired, target=target, deployment_config=deployment_config or kept)
            )
            return changed

        await self._resources.change(KIND, context.place, name, decide)
        failpoint("update_endpoint.after_commit")
        return {"EndpointArn": arn}

    async def update_endpoint_weights_and_capacities(self, context: Context, request: Members) -> Members:
        name = request["EndpointName"]
        arn = context.place.arn(KIND, name)
        context.authorize("sagemaker:UpdateEndpointWeightsAndCapacities", arn)
        asked = request["DesiredWeightsAndCapacities"]
        names = [item["VariantName"] for item in asked]
        for variant_name in names:
            if names.count(variant_name) > 1:
                raise Invalid("VariantName", f'The variant name "{variant_name}" was non-unique within the request.')

        def decide(connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            _must_be_updatable(record)
            serving = observed_of(record).serving or desired.target
            if serving.hosts:
                hosts = _resize_hosts(connection, record, serving.hosts, asked)
                resized_: Mapping[str, Any] = encode(
                    replace(desired, target=replace(serving, hosts=hosts), revision=desired.revision + 1)
                )
                return resized_
            known = {variant.name: variant for variant in serving.variants}
            missing = [variant_name for variant_name in names if variant_name not in known]
            if missing:
                raise Invalid(
                    "VariantName",
                    f'The variant name(s) "{", ".join(missing)}" is/are not present within endpoint configuration '
                    f'"{serving.config_name}".',
                )
            changes = {item["VariantName"]: _resize(known[item["VariantName"]], item) for item in asked}
            changed: Mapping[str, Any] = encode(
                replace(desired, target=resized(serving, changes), revision=desired.revision + 1)
            )
            return changed

        await self._resources.change(KIND, context.place, name, decide)
        return {"EndpointArn": arn}

    async def delete_endpoint(self, context: Context, request: Members) -> Members:
        name = request["EndpointName"]
        context.authorize("sagemaker:DeleteEndpoint", context.place.arn(KIND, name))

        def decide(connection: Connection, record: Record) -> Mapping[str, Any] | None:
            desired = desired_of(record)
            if desired.target.hosts:
                components.delete_all(connection, context.place, record.name)
            changed: Mapping[str, Any] = encode(replace(desired, deleted=True))
            return None if desired.deleted else changed

        await self._resources.change(KIND, context.place, name, decide)
        failpoint("delete_endpoint.after_commit")
        return {}


def _must_be_updatable(record: Record) -> None:
    state = status_of(record)
    arn = record.place.arn(KIND, record.name)
    if state is EndpointStatus.FAILED:
        raise Invalid("EndpointStatus", f'Endpoint "{arn}" is Failed; call DeleteEndpoint and create it anew.')
    if not can_update(state):
        raise NotReady(KIND, arn, state=state.value, next_step="wait for InService or call DeleteEndpoint")


def _no_conversion_to_serverless(old: Deployment, new: Deployment) -> None:
    was = any(variant.serverless for variant in old.variants)
    if not was and any(variant.serverless for variant in new.variants):
        raise Invalid("ServerlessConfig", "An instance-based endpoint cannot be updated to a serverless one.")


def _resize(variant: Variant, item: Members) -> Variant:
    weight = item.get("DesiredWeight", variant.weight)
    if "DesiredInstanceCount" in item and variant.serverless is not None:
        raise Invalid("DesiredInstanceCount", f"Variant {variant.name} is serverless and has no instances.")
    if "ServerlessUpdateConfig" in item and variant.serverless is None:
        raise Invalid("ServerlessUpdateConfig", f"Variant {variant.name} is not serverless.")
    serverless = variant.serverless
    if serverless is not None:
        update = item.get("ServerlessUpdateConfig", {})
        serverless = replace(
            serverless,
            max_concurrency=update.get("MaxConcurrency", serverless.max_concurrency),
            provisioned_concurrency=update.get("ProvisionedConcurrency", serverless.provisioned_concurrency),
        )
        if serverless.provisioned_concurrency > serverless.max_concurrency:
            raise Invalid("ProvisionedConcurrency", "ProvisionedConcurrency exceeds MaxConcurrency.")
    count = item.get("DesiredInstanceCount", variant.instance_count)
    return replace(variant, weight=weight, instance_count=count, serverless=serverless)


def _resize_hosts(
    connection: Connection, record: Record, hosts: tuple[HostVariant, ...], asked: list[Members]
) -> tuple[HostVariant, ...]:
    """Raises: Invalid."""
    known = {host.name: host for host in hosts}
    for item in asked:
        name = item["VariantName"]
        if name not in known:
            raise Invalid(
                "VariantName", f'The variant name(s) "{name}" is/are not present within endpoint configuration.'
            )
        if "ServerlessUpdateConfig" in item:
            raise Invalid("ServerlessUpdateConfig", f"Variant {name} is not serverless.")
        count = item.get("DesiredInstanceCount", known[name].instance_count)
        resized_host = replace(known[name], instance_count=count, weight=item.get("DesiredWeight", known[name].weight))
        needed = components.highest_instance(connection, record.place, record.name, name)
        if resized_host.limit < needed:
            raise Invalid(
                "DesiredInstanceCount", f"Variant {name} has copies of inference components on {needed} instances."
            )
        known[name] = resized_host
    return tuple(known.values())


def _check_deployment_config(config: Members | None) -> None:
    """All at once is what is built; a policy that would be ignored is refused by name."""
    if not config:
        return
    if "RollingUpdatePolicy" in config:
        raise Unsupported("RollingUpdatePolicy", "updates go all at once; leave DeploymentConfig out")
    if "AutoRollbackConfiguration" in config and config["AutoRollbackConfiguration"].get("Alarms"):
        raise Unsupported("AutoRollbackConfiguration", "alarms are not served yet; leave it out")
    policy = config.get("BlueGreenUpdatePolicy", {})
    routing = policy.get("TrafficRoutingConfiguration", {})
    if routing.get("Type", "ALL_AT_ONCE") != "ALL_AT_ONCE":
        raise Unsupported(f"TrafficRoutingConfiguration {routing['Type']}", "updates go ALL_AT_ONCE")
    if policy.get("TerminationWaitInSeconds"):
        raise Unsupported("TerminationWaitInSeconds", "the old fleet goes when it has drained; give 0")


def _description(record: Record, instances: Callable[[str], int], placements: Placements | None) -> Members:
    desired, observed = desired_of(record), observed_of(record)
    state = status(desired, observed)
    shown = observed.serving or desired.target
    reason = failure_reason(desired, observed)
    if state in (EndpointStatus.CREATING, EndpointStatus.UPDATING) and observed.progress:
        reason = ""
    answer = present(
        EndpointName=record.name,
        EndpointArn=record.place.arn(KIND, record.name),
        EndpointConfigName=shown.config_name,
        EndpointStatus=state.value,
        CreationTime=record.created_at,
        LastModifiedTime=record.modified_at,
        FailureReason=reason or None,
        LastDeploymentConfig=desired.deployment_config or None,
        AsyncInferenceConfig=_async(shown),
        DataCaptureConfig=_capture(shown),
    )
    if observed.serving is not None:
        wanted = {variant.name: variant for variant in desired.target.variants}
        same = observed.serving.number == desired.target.number
        answer["ProductionVariants"] = [
            _variant(variant, wanted.get(variant.name, variant) if same else variant, observed, state)
            for variant in observed.serving.variants
        ]
        if placements is not None:
            answer["ProductionVariants"] = [_host(host, placements) for host in observed.serving.hosts]
        for variant in answer["ProductionVariants"]:
            if variant["VariantName"] in desired.scaling:  # it follows its backlog: what runs is what is wanted
                account = observed.serving.fleet(record.place.region, record.name, variant["VariantName"])
                variant["CurrentInstanceCount"] = variant["DesiredInstanceCount"] = instances(account)
    if state is EndpointStatus.UPDATING and desired.target.number != (observed.serving or desired.target).number:
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": desired.target.config_name,
            "ProductionVariants": [_pending(variant) for variant in desired.target.variants],
            "StartTime": datetime.fromisoformat(desired.target.asked_at),
        }
    return answer


def _host(host: HostVariant, placements: Placements) -> Members:
    managed = present(
        Status="ENABLED" if host.max_instances else None,
        MinInstanceCount=host.min_instances,
        MaxInstanceCount=host.max_instances,
    )
    return present(
        VariantName=host.name,
        CurrentWeight=host.weight,
        DesiredWeight=host.weight,
        CurrentInstanceCount=instances_in_use(placements.get(host.name, ()), host),
        DesiredInstanceCount=instances_in_use(placements.get(host.name, ()), host),
        ManagedInstanceScaling=managed if host.max_instances else None,
        RoutingConfig={"RoutingStrategy": host.strategy},
    )


def _capture(deployment: Deployment) -> Members | None:
    capture = deployment.capture
    if capture is None:
        return None
    return {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": round(capture.sampling * 100),
        "DestinationS3Uri": capture.destination,
        "KmsKeyId": "",  # required by the model; there is none
    }


def _async(deployment: Deployment) -> Members | None:
    config = deployment.asynchronous
    if config is None:
        return None
    told = present(
        SuccessTopic=config.success_topic or None,
        ErrorTopic=config.error_topic or None,
        IncludeInferenceResponseIn=list(config.include_response_in) or None,
    )
    return present(
        ClientConfig={"MaxConcurrentInvocationsPerInstance": config.max_concurrent} if config.max_concurrent else None,
        OutputConfig=present(
            S3OutputPath=config.output_path,
            S3FailurePath=config.failure_path or None,
            NotificationConfig=told or None,
        ),
    )


def _serverless(variant: Variant) -> Members | None:
    if variant.serverless is None:
        return None
    return present(
        MemorySizeInMB=variant.serverless.memory_mib,
        MaxConcurrency=variant.serverless.max_concurrency,
        ProvisionedConcurrency=variant.serverless.provisioned_concurrency or None,
    )


def _variant(now: Variant, wanted: Variant, observed: Observed, state: EndpointStatus) -> Members:
    found = [prepared_of(observed, observed.serving, part.name) for part in now.parts] if observed.serving else []
    images = [prepared.image for prepared in found if prepared is not None and prepared.image is not None]
    doing = observed.progress if state is EndpointStatus.UPDATING and now != wanted else ""
    return present(
        VariantName=now.name,
        DeployedImages=[
            {
                "SpecifiedImage": image.specified_image,
                "ResolvedImage": image.resolved_image,
                "ResolutionTime": datetime.fromisoformat(image.resolved_at),
            }
            for image in images
        ]
        or None,
        CurrentWeight=now.weight,
        DesiredWeight=wanted.weight,
        CurrentInstanceCount=now.instance_count,
        DesiredInstanceCount=wanted.instance_count,
        CurrentServerlessConfig=_serverless(now),
        DesiredServerlessConfig=_serverless(wanted),
        VariantStatus=[{"Status": "Updating", "StatusMessage": doing}] if doing else None,
    )


def _pending(variant: Variant) -> Members:
    return present(
        VariantName=variant.name,
        DesiredWeight=variant.weight,
        DesiredInstanceCount=variant.instance_count,
        InstanceType=variant.instance_type or None,
        DesiredServerlessConfig=_serverless(variant),
    )
