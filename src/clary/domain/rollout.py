"""From what is wanted and seen of an endpoint to what should run and who should be routed to. Pure.

An all-at-once update never loses a request because of its order: the new fleet is started and ready; then the routes
are swapped; then the old fleet, to which nothing is sent any more, is let finish; then it is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from clary.domain.asynchronous import worker_concurrency
from clary.domain.containers import ExecutionMode
from clary.domain.endpoint import Deployment, Desired, Observed, Variant, given_up
from clary.domain.fleet_name import CONTAINER_MARK, INFERENCE_COMPONENT, TRANSFORM_VARIANT, owner_name
from clary.domain.routing import EndpointRoute, KeepAlive, VariantRoute

SERVERLESS_MAX_BYTES = 4 * 1024 * 1024  # request and response (serverless guide)
REAL_TIME_MAX_BYTES = 25 * 1024 * 1024
START_ATTEMPTS = 2  # a start that fails this often is not tried again by a rollout


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How many workers of one variant: `min` without being asked, `max` at all, `proof` before it counts as ready."""

    min: int
    max: int
    proof: int
    processes: int = 1  # of one instance


@dataclass(frozen=True, slots=True)
class FleetView:
    """What truly runs of a fleet."""

    ready: int = 0
    live: int = 0
    failures: int = 0  # starts that failed, since the fleet was first seen
    hopeless: bool = False  # the last failure would come again: out of time, or out of memory
    reason: str = ""  # of the last failure, ready for FailureReason


class Verdict(StrEnum):
    WAIT = "wait"
    READY = "ready"
    FAILED = "failed"


def sleeps(variant: Variant, desired: Desired) -> bool:
    """Whether the variant may go to zero workers when idle."""
    bounds = desired.scaling.get(variant.production_variant)
    return variant.serverless is not None or desired.scale_to_zero or (bounds is not None and bounds.min < bounds.max)


def size(variant: Variant, desired: Desired, processes: int, in_service: bool) -> FleetSize:
    """The workers of a variant; `processes` is how many one instance runs."""
    if variant.serverless is not None:
        proof = max(1, variant.serverless.provisioned_concurrency)
        resting = variant.serverless.provisioned_concurrency
        return FleetSize(resting if in_service else proof, variant.serverless.max_concurrency, proof)
    bounds = desired.scaling.get(variant.production_variant)
    if bounds is not None:  # a fleet is proven with at least one instance, whatever it may shrink to
        proof = max(1, min(variant.instance_count, bounds.max)) * processes
        return FleetSize(bounds.min * processes if in_service else proof, bounds.max * processes, proof, processes)
    full = variant.instance_count * processes
    resting = 0 if desired.scale_to_zero and in_service else full
    return FleetSize(resting, full, full, processes)


def running(desired: Desired, observed: Observed) -> list[Deployment]:
    """The deployments whose fleets may run now: the one in service, the one being rolled out, those draining."""
    if desired.deleted:
        return []
    found: dict[int, Deployment] = {}
    for deployment in observed.retiring:
        found[deployment.number] = deployment
    for current in (observed.serving, observed.routed):
        if current is not None:
            found[current.number] = current
    if not given_up(desired, observed):
        found[desired.target.number] = desired.target  # also carries new counts of the one in service
    return list(found.values())


def rolling_out(desired: Desired, observed: Observed) -> bool:
    """Whether the target is not in service yet and has not been given up."""
    if desired.deleted or given_up(desired, observed):
        return False
    if observed.serving is None or observed.serving.number != desired.target.number:
        return True
    return observed.revision < desired.revision


def verdict(sizes: Mapping[str, FleetSize], views: Mapping[str, FleetView]) -> tuple[Verdict, str]:
    """Whether a deployment is ready, by part (see `Deployment.parts`): all of them; with the failed part's name when
    it is not to be."""
    for variant, view in views.items():
        if view.ready < sizes[variant].proof and (view.hopeless or view.failures >= START_ATTEMPTS):
            return Verdict.FAILED, variant
    if all(views[variant].ready >= wanted.proof for variant, wanted in sizes.items()):
        return Verdict.READY, ""
    return Verdict.WAIT, ""


def route(
    region: str, account: str, name: str, desired: Desired, deployment: Deployment, sizes: Mapping[str, FleetSize]
) -> EndpointRoute:
    """The endpoint's entry in the route table."""
    return EndpointRoute(
        name=name,
        region=region,
        account=account,
        variants=tuple(_variant_route(region, name, desired, deployment, v, sizes) for v in deployment.variants),
        asynchronous=deployment.asynchronous is not None,
        hosts_components=bool(deployment.hosts),
    )


def component_route(
    region: str, name: str, desired: Desired, deployment: Deployment, sizes: Mapping[str, FleetSize]
) -> VariantRoute:
    """An inference component's entry among its host's routes. With no copy it has room for no worker."""
    (variant,) = deployment.variants
    found = _variant_route(region, owner_name(INFERENCE_COMPONENT, name), desired, deployment, variant, sizes)
    return replace(found, component=name, max_workers=sizes[variant.name].max)


def _variant_route(
    region: str,
    owner: str,
    desired: Desired,
    deployment: Deployment,
    variant: Variant,
    sizes: Mapping[str, FleetSize],
) -> VariantRoute:
    routes = tuple(_part_route(region, owner, desired, deployment, part, sizes[part.name]) for part in variant.parts)
    if not variant.further:
        return routes[0]
    direct = variant.mode is ExecutionMode.DIRECT
    return replace(
        routes[0],
        fleet=deployment.fleet(region, owner, variant.name),
        containers=routes,
        direct=direct,
        container="",
        multi_model=not direct and any(one.multi_model for one in routes),
    )


def _part_route(
    region: str, owner: str, desired: Desired, deployment: Deployment, variant: Variant, wanted: FleetSize
) -> VariantRoute:
    serverless = variant.serverless is not None
    limit = SERVERLESS_MAX_BYTES if serverless else REAL_TIME_MAX_BYTES
    concurrency = 1 if serverless else 256
    if deployment.asynchronous is not None:
        concurrency = worker_concurrency(deployment.asynchronous, wanted.processes)
    return VariantRoute(
        name=variant.production_variant,
        container=variant.container.hostname if CONTAINER_MARK in variant.name else "",
        fleet=deployment.fleet(region, owner, variant.name),
        weight=variant.weight,
        serverless=serverless,
        max_concurrency=variant.serverless.max_concurrency if variant.serverless else 0,
        worker_concurrency=concurrency,
        min_workers=wanted.min,
        max_workers=max(wanted.max, 1),
        strategy=variant.strategy,
        keep_alive=KeepAlive(fixed_s=desired.keep_alive_s) if sleeps(variant, desired) else None,
        max_request_bytes=limit,
        max_response_bytes=limit,
        capture=deployment.capture,
        multi_model=variant.container.multi_model,
        cache_models=variant.container.cache_models,
    )


def failure_text(variant: str, cause: str, log_tail: Iterable[str], hint: str) -> str:
    """FailureReason, at most 1,024 characters: AWS's sentence first (clients match it), then what truly happened.

    `variant` is the part's name (see `Variant.parts`): of several containers the sentence names the one.
    """
    variant, _, hostname = variant.partition(CONTAINER_MARK)
    job = variant == TRANSFORM_VARIANT
    container = f"The {hostname or 'primary'} container" + ("" if job else f" for production variant {variant}")
    head = (
        f"{container} did not pass the ping health check. "
        f"Please check CloudWatch logs for this {'job' if job else 'endpoint'}. Cause: {cause}"
    )
    tail = f" Hint: {hint}." if hint else ""
    room = 1024 - len(head) - len(tail) - len(" Last log lines: ")
    lines = " | ".join(line.strip() for line in log_tail if line.strip())
    shown = lines[-room:] if room > 40 else ""
    middle = f" Last log lines: {shown}" if shown else ""
    return (head + middle + tail)[:1024]
