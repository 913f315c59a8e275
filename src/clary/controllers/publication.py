"""Desired and observed, of endpoints and jobs, to the launch table and the route table; published whole, confirmed.

Both tables are functions of what the database holds, so publishing twice, or after any crash, gives the same.
Requests to publish that come while one is being made share the next.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clary import tables
from clary.controllers.container_fleets import as_container
from clary.domain.asynchronous import ASYNC_MAX_BYTES, AsyncConfig, most_processes, worker_concurrency
from clary.domain.component import Component
from clary.domain.endpoint import Deployment, Desired, Observed, Prepared, Variant, prepared_of
from clary.domain.fleet_name import (
    ENDPOINT,
    INFERENCE_COMPONENT,
    TRANSFORM_JOB,
    account_of,
    owner_name,
    parse_fleet_name,
    transform_fleet,
)
from clary.domain.isolation import zygote_environ, zygote_key
from clary.domain.placement import Host, Share, fit_copy, fit_instance, fit_serverless
from clary.domain.prices import PriceBook
from clary.domain.rollout import FleetSize, component_route, rolling_out, route, running, size
from clary.domain.routing import RouteTable, VariantRoute
from clary.domain.transform_job import CLEARED, TransformDesired, TransformObserved, runs
from clary.domain.transform_plan import max_body_bytes
from clary.failpoints import failpoint
from clary.paths import Layout
from clary.runtimes.process import ProcessRuntime
from clary.store.codec import decode
from clary.store.resources import Record, Resources

KEEP_ALIVE_TAG = "clary:keep-alive-s"
SCALE_TO_ZERO_TAG = "clary:scale-to-zero"
PROXY_LIMIT_S = 5.0
PIDS = 512  # processes and threads, for each container of an instance
SAFE_PORTS = "8081-8180"  # besides SAGEMAKER_BIND_TO_PORT, of a container that stands among others
JOB_DRAIN_S = 1.0  # a job's workers go when nobody waits for what they compute


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One stored endpoint or inference component, decoded."""

    record: Record
    desired: Desired
    observed: Observed

    @property
    def owner(self) -> str:
        """Its part of its fleets' names."""
        return owner_name(self.record.kind, self.record.name)

    def fleet(self, deployment: Deployment, variant: str) -> str:
        return deployment.fleet(self.record.place.region, self.owner, variant)


def read(record: Record, tags: Mapping[str, str]) -> Endpoint:
    desired = decode(Desired, record.desired)
    keep_alive = tags.get(KEEP_ALIVE_TAG)
    wanted = replace(
        desired,
        keep_alive_s=_seconds(keep_alive),
        scale_to_zero=tags.get(SCALE_TO_ZERO_TAG, "").lower() in ("true", "1", "yes"),
    )
    return Endpoint(record, wanted, decode(Observed, record.observed))


@dataclass(frozen=True, slots=True)
class TransformJob:
    """One stored transform job, decoded."""

    record: Record
    desired: TransformDesired
    observed: TransformObserved

    @property
    def fleet(self) -> str:
        return transform_fleet(self.record.place.region, self.record.name, self.desired.number)

    @property
    def fleets(self) -> tuple[str, ...]:
        """Of its model's containers, in order; the job's own where there is one only."""
        whole = parse_fleet_name(self.fleet)
        several = bool(self.desired.variant.further)
        names = [part.container.hostname if several else "" for part in self.desired.variant.parts]
        return tuple(str(replace(whole, container=name)) for name in names)


def read_job(record: Record) -> TransformJob:
    return TransformJob(record, decode(TransformDesired, record.desired), decode(TransformObserved, record.observed))


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None  # a tag is free text; one that is no number leaves the adaptive policy in force


class Publisher:
    """Writes the tables and tells their readers."""

    def __init__(
        self,
        layout: Layout,
        resources: Resources,
        runtime: ProcessRuntime,
        prices: PriceBook,
        host: Callable[[], Host],
        settings: Mapping[str, Any],
    ) -> None:
        self._layout = layout
        self._resources = resources
        self._runtime = runtime
        self._prices = prices
        self._host = host
        self._settings = settings
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._done = 0
        self._generation = 0

    def share(
        self, variant: Variant, asynchronous: AsyncConfig | None = None, prepared: Prepared | None = None
    ) -> Share:
        """What one instance (or serverless slot) of a variant gets on this host; of containers it holds one."""
        share = self._share(variant)
        if prepared is not None and prepared.container:
            return replace(share, processes=1)
        if asynchronous is None:
            return share
        return replace(share, processes=most_processes(asynchronous, share.processes))

    def _share(self, variant: Variant) -> Share:
        if variant.serverless is not None:
            return fit_serverless(variant.serverless.memory_mib, self._host())
        processes = variant.container.environment.get("SAGEMAKER_MODEL_SERVER_WORKERS", "")
        count = int(processes) if processes.isdigit() and int(processes) > 0 else None
        kind = self._prices.instances[variant.instance_type]
        if variant.requirements is not None:
            return fit_copy(variant.requirements, kind, self._host(), count)
        return fit_instance(kind, self._host(), count)

    def sizes(self, endpoint: Endpoint, deployment: Deployment) -> dict[str, FleetSize]:
        """The workers each part of a deployment should have now."""
        serving = endpoint.observed.serving
        in_service = serving is not None and serving.number == deployment.number
        if in_service and rolling_out(endpoint.desired, endpoint.observed):
            in_service = False  # new counts have to be proven like a new fleet
        return {
            part.name: size(
                part,
                endpoint.desired,
                self.share(
                    part, deployment.asynchronous, prepared_of(endpoint.observed, deployment, part.name)
                ).processes,
                in_service,
            )
            for part in deployment.parts
        }

    def async_slots(self, endpoint: Endpoint, deployment: Deployment) -> int:
        """Asynchronous invocations that a deployment can work on at once, when all its instances are up."""
        if deployment.asynchronous is None:
            return 0
        sizes = self.sizes(endpoint, deployment)
        # A pipeline takes no more than the narrowest of its containers.
        return sum(
            min(
                max(1, wanted.max) * worker_concurrency(deployment.asynchronous, wanted.processes)
                for wanted in (sizes[part.name] for part in variant.parts)
            )
            for variant in deployment.variants
        )

    async def publish(self) -> None:
        """Returns when supervisor and proxy have taken tables that hold everything committed before the call.

        Raises: StoreFailed or OSError when one of them cannot be reached (the caller's loop tries again).
        """
        self._waiting += 1
        ticket = self._waiting
        async with self._lock:
            if self._done >= ticket:
                return  # a publication that began after this call has carried it
            covers = self._waiting
            await self._publish()
            self._done = covers

    async def _publish(self) -> None:
        endpoints, components = [
            [read(record, tags) for record, tags in await self._resources.all_with_tags(kind)]
            for kind in (ENDPOINT, INFERENCE_COMPONENT)
        ]
        self._generation += 1
        jobs = [read_job(record) for record in await self._resources.unfinished(TRANSFORM_JOB, CLEARED)]
        launch = self._launch_table([*endpoints, *components], jobs)
        routes = self._route_table(endpoints, components)
        failpoint("publication.before_launch_table")
        await asyncio.to_thread(tables.write, self._layout.launch_table, launch)
        failpoint("publication.after_launch_table")
        await self._runtime.request("reload")
        failpoint("publication.before_route_table")
        await asyncio.to_thread(tables.write, self._layout.route_table, routes.as_dict())
        failpoint("publication.after_route_table")
        await ask_proxy(self._layout.proxy_socket, {"op": "reload"})

    # -- the tables ------------------------------------------------------------------------------

    def _route_table(self, endpoints: list[Endpoint], components: list[Endpoint]) -> RouteTable:
        hosted = self._component_routes(components)
        routes = {}
        for endpoint in endpoints:
            routed = endpoint.observed.routed
            if routed is None or endpoint.desired.deleted:
                continue
            place = endpoint.record.place
            entry = route(
                place.region,
                place.account,
                endpoint.record.name,
                endpoint.desired,
                routed,
                self.sizes(endpoint, routed),
            )
            if entry.hosts_components:
                entry = replace(entry, variants=tuple(hosted.get((place.region, entry.name), ())))
            routes[place.region, entry.name] = entry
        return RouteTable(self._generation, routes)

    def _component_routes(self, components: list[Endpoint]) -> dict[tuple[str, str], list[VariantRoute]]:
        """By (region, endpoint), what of its components takes requests."""
        found: dict[tuple[str, str], list[VariantRoute]] = {}
        for one in components:
            routed, component = one.observed.routed, one.desired.target.component
            if routed is None or component is None or one.desired.deleted:
                continue
            region = one.record.place.region
            entry = component_route(region, one.record.name, one.desired, routed, self.sizes(one, routed))
            found.setdefault((region, component.endpoint), []).append(entry)
        return found

    def _launch_table(self, endpoints: list[Endpoint], jobs: list[TransformJob]) -> dict[str, Any]:
        fleets: dict[str, Any] = {}
        zygotes: dict[str, Any] = {}
        for endpoint in endpoints:
            for deployment in running(endpoint.desired, endpoint.observed):
                sizes = self.sizes(endpoint, deployment)
                for variant in deployment.variants:
                    for part in variant.parts:
                        prepared = prepared_of(endpoint.observed, deployment, part.name)
                        if prepared is None:
                            continue
                        name = endpoint.fleet(deployment, part.name)
                        share = self.share(part, deployment.asynchronous, prepared)
                        fleets[name] = self._fleet(endpoint.record, part, share, prepared, sizes[part.name])
                        _among(fleets[name], name, len(variant.parts))
                        if deployment.component is not None:
                            fleets[name] |= _hosted(endpoint, deployment.component, sizes[part.name])
                        if deployment.asynchronous is not None:
                            fleets[name]["worker"]["max_payload_bytes"] = ASYNC_MAX_BYTES
                        _add_zygote(zygotes, fleets[name], prepared, part)
        for job in jobs:
            if job.observed.prepared is None or not runs(job.desired, job.observed):
                continue
            all_prepared = (job.observed.prepared, *job.observed.further)
            for name, part, prepared in zip(job.fleets, job.desired.variant.parts, all_prepared, strict=True):
                share = self.share(part, prepared=prepared)
                full = part.instance_count * share.processes
                fleet = self._fleet(job.record, part, share, prepared, FleetSize(full, full, full))
                _among(fleet, name, len(all_prepared))
                fleet["worker"] |= {"transform": True, "max_payload_bytes": max_body_bytes(job.desired.handling)}
                fleet["drain_s"] = JOB_DRAIN_S
                fleets[name] = fleet
                _add_zygote(zygotes, fleet, prepared, part)
        return {"generation": self._generation, "fleets": fleets, "zygotes": zygotes}

    def _fleet(
        self, record: Record, variant: Variant, share: Share, prepared: Prepared, wanted: FleetSize
    ) -> dict[str, Any]:
        private_root = bool(self._runtime.isolation.get("private_root"))
        seen_at = "/opt/ml/models" if variant.container.multi_model else "/opt/ml/model"
        model_dir = seen_at if private_root else prepared.model_dir
        code_dir = ("/opt/ml/code" if private_root else prepared.code_dir) if prepared.code_dir else ""
        binds = [[prepared.model_dir, seen_at, "ro"]]
        if prepared.code_dir:
            binds.append([prepared.code_dir, "/opt/ml/code", "ro"])
        for channel, folder in prepared.additional_dirs.items():
            binds.append([folder, f"/opt/ml/additional-model-data-sources/{channel}", "ro"])
        binds.append([prepared.cache_dir, "/var/cache/clary", "rw"])
        threads = max(1, int(share.cpus) // share.processes)
        environment = variant.container.environment
        network = bool(self._settings.get("worker_network")) and not variant.network_isolation
        zygote = zygote_key(
            prepared.zygote, prepared.zygote_trusted, variant.role_arn, network, variant.container.environment
        )
        fleet = {
            "endpoint": record.name,
            "variant": variant.production_variant,
            "min": wanted.min,
            "max": max(wanted.max, 1),
            "processes_per_instance": share.processes,
            "zygote": zygote,
            "python": prepared.python,
            "prefixes": list(prepared.prefixes),
            "worker": {
                "endpoint_name": record.name,
                "variant_name": variant.production_variant,
                "framework": prepared.framework,
                "model_dir": model_dir,
                "code_dir": code_dir,
                "environ": environment,
                "threads": threads,
                "batching": environment.get("CLARY_BATCHING", "auto"),
                "cache_dir": "/var/cache/clary" if private_root else prepared.cache_dir,
                # What was proven needs no second proof: the request that wakes a variant is its first prediction.
                "warm_up": wanted.min >= wanted.proof,
                "private_network": bool(self._runtime.isolation.get("private_network")) and not network,
                "command": list(prepared.command),
                "multi_model": variant.container.multi_model,
                "memory_bytes": share.memory_bytes // share.processes,
            },
            "environ": worker_environment(record, variant, model_dir, code_dir, str(Path(prepared.python).parent)),
            "binds": binds,
            "memory_bytes": share.memory_bytes,
            "cpus": share.cpus,
            "uid": prepared.uid,
            "network": network,
            "start_timeout_s": variant.startup_timeout_s,
            "label": {
                "region": record.place.region,
                "endpoint": record.name,
                "variant": variant.production_variant,
                "instance_type": variant.instance_type,
                "serverless_mib": variant.serverless.memory_mib if variant.serverless else 0,
            },
        }
        if not prepared.container:
            return fleet
        return as_container(fleet, prepared, environment, bool(self._settings.get("docker_writable")))


def _among(fleet: dict[str, Any], name: str, containers: int) -> None:
    """One of an instance's `containers`: they share its limits, so that it is no larger than a single one's."""
    if containers == 1:
        return
    fleet["group"] = account_of(name)
    fleet["pids"] = PIDS * containers
    fleet["worker"]["memory_bytes"] //= containers  # what a server that holds many models keeps to by itself
    fleet["environ"] = {"SAGEMAKER_SAFE_PORT_RANGE": SAFE_PORTS, **fleet["environ"]}


def _hosted(one: Endpoint, component: Component, wanted: FleetSize) -> dict[str, Any]:
    """What a component's fleet has that an endpoint's has not: its host's instances, and perhaps no worker at all."""
    host = f"{one.record.place.region}/{component.endpoint}/{component.variant}/{component.host_number}"
    return {"host": {"fleet": host, "instances": list(one.observed.placement)}, "max": wanted.max}


def _add_zygote(zygotes: dict[str, Any], fleet: Mapping[str, Any], prepared: Prepared, variant: Variant) -> None:
    if fleet["zygote"]:
        zygotes[fleet["zygote"]] = {
            "python": prepared.python,
            "framework": prepared.framework,
            "prefixes": list(prepared.prefixes),
            "trusted": prepared.zygote_trusted,
            "network": fleet["network"],
            "imports": list(prepared.zygote_imports),
            "environ": zygote_environ(variant.container.environment),
        }


def worker_environment(record: Record, variant: Variant, model_dir: str, code_dir: str, bin_dir: str) -> dict[str, str]:
    """Every variable a worker has: an allow-list, then the container contract, then the Model's own."""
    region = record.place.region
    environment = {
        "PATH": f"{bin_dir}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "SAGEMAKER_REGION": region,
        "SM_MODEL_DIR": model_dir,
        "SAGEMAKER_BASE_DIR": str(Path(model_dir).parent) if model_dir.startswith("/opt/ml/model") else model_dir,
        "SAGEMAKER_BIND_TO_PORT": "8080",
        **variant.container.environment,
    }
    if variant.container.multi_model:
        environment["SAGEMAKER_MULTI_MODEL"] = "true"
    if code_dir:
        environment["SAGEMAKER_SUBMIT_DIRECTORY"] = code_dir
    return environment


async def ask_proxy(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """One request to the proxy's own socket. Raises: OSError, TimeoutError when it is away."""
    async with asyncio.timeout(PROXY_LIMIT_S):
        reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
        finally:
            writer.close()
    if not answer.get("ok"):
        raise OSError(f"the proxy refused {request['op']}: {answer.get('error')}")
    return answer


def measure_host() -> Host:
    """This machine, now."""
    facts = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        facts[name] = int(rest.split()[0]) * 1024
    return Host(os.cpu_count() or 1, facts["MemTotal"], facts["MemAvailable"])
