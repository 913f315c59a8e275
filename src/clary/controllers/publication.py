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
from clary.domain.endpoint import Deployment, Desired, Observed, Prepared, Variant, prepared_of
from clary.domain.fleet_name import TRANSFORM_JOB, transform_fleet
from clary.domain.isolation import zygote_environ, zygote_key
from clary.domain.placement import Host, Share, fit_instance, fit_serverless
from clary.domain.prices import PriceBook
from clary.domain.rollout import FleetSize, rolling_out, route, running, size
from clary.domain.routing import RouteTable
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
JOB_DRAIN_S = 1.0  # a job's workers go when nobody waits for what they compute


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One stored endpoint, decoded."""

    record: Record
    desired: Desired
    observed: Observed


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
        return fit_instance(self._prices.instances[variant.instance_type], self._host(), count)

    def sizes(self, endpoint: Endpoint, deployment: Deployment) -> dict[str, FleetSize]:
        """The workers each variant of a deployment should have now."""
        serving = endpoint.observed.serving
        in_service = serving is not None and serving.number == deployment.number
        if in_service and rolling_out(endpoint.desired, endpoint.observed):
            in_service = False  # new counts have to be proven like a new fleet
        return {
            variant.name: size(
                variant,
                endpoint.desired,
                self.share(
                    variant, deployment.asynchronous, prepared_of(endpoint.observed, deployment, variant.name)
                ).processes,
                in_service,
            )
            for variant in deployment.variants
        }

    def async_slots(self, endpoint: Endpoint, deployment: Deployment) -> int:
        """Asynchronous invocations that a deployment can work on at once, when all its instances are up."""
        if deployment.asynchronous is None:
            return 0
        return sum(
            max(1, wanted.max) * worker_concurrency(deployment.asynchronous, wanted.processes)
            for wanted in self.sizes(endpoint, deployment).values()
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
        endpoints = [read(record, tags) for record, tags in await self._resources.all_with_tags("endpoint")]
        self._generation += 1
        jobs = [read_job(record) for record in await self._resources.unfinished(TRANSFORM_JOB, CLEARED)]
        launch = self._launch_table(endpoints, jobs)
        routes = self._route_table(endpoints)
        failpoint("publication.before_launch_table")
        await asyncio.to_thread(tables.write, self._layout.launch_table, launch)
        failpoint("publication.after_launch_table")
        await self._runtime.request("reload")
        failpoint("publication.before_route_table")
        await asyncio.to_thread(tables.write, self._layout.route_table, routes.as_dict())
        failpoint("publication.after_route_table")
        await ask_proxy(self._layout.proxy_socket, {"op": "reload"})

    # -- the tables ------------------------------------------------------------------------------

    def _route_table(self, endpoints: list[Endpoint]) -> RouteTable:
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
            routes[place.region, entry.name] = entry
        return RouteTable(self._generation, routes)

    def _launch_table(self, endpoints: list[Endpoint], jobs: list[TransformJob]) -> dict[str, Any]:
        fleets: dict[str, Any] = {}
        zygotes: dict[str, Any] = {}
        for endpoint in endpoints:
            for deployment in running(endpoint.desired, endpoint.observed):
                sizes = self.sizes(endpoint, deployment)
                for variant in deployment.variants:
                    prepared = prepared_of(endpoint.observed, deployment, variant.name)
                    if prepared is None:
                        continue
                    name = deployment.fleet(endpoint.record.place.region, endpoint.record.name, variant.name)
                    share = self.share(variant, deployment.asynchronous, prepared)
                    fleets[name] = self._fleet(endpoint.record, variant, share, prepared, sizes[variant.name])
                    if deployment.asynchronous is not None:
                        fleets[name]["worker"]["max_payload_bytes"] = ASYNC_MAX_BYTES
                    _add_zygote(zygotes, fleets[name], prepared, variant)
        for job in jobs:
            prepared = job.observed.prepared
            if prepared is not None and runs(job.desired, job.observed):
                variant = job.desired.variant
                share = self.share(variant, prepared=prepared)
                full = variant.instance_count * share.processes
                fleet = self._fleet(job.record, variant, share, prepared, FleetSize(full, full, full))
                fleet["worker"] |= {"transform": True, "max_payload_bytes": max_body_bytes(job.desired.handling)}
                fleet["drain_s"] = JOB_DRAIN_S
                fleets[job.fleet] = fleet
                _add_zygote(zygotes, fleet, prepared, variant)
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
            "variant": variant.name,
            "min": wanted.min,
            "max": max(wanted.max, 1),
            "processes_per_instance": share.processes,
            "zygote": zygote,
            "python": prepared.python,
            "prefixes": list(prepared.prefixes),
            "worker": {
                "endpoint_name": record.name,
                "variant_name": variant.name,
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
                "variant": variant.name,
                "instance_type": variant.instance_type,
                "serverless_mib": variant.serverless.memory_mib if variant.serverless else 0,
            },
        }
        if not prepared.container:
            return fleet
        return as_container(fleet, prepared, environment, bool(self._settings.get("docker_writable")))


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
