"""Control's parts, put together. What is chosen is chosen here; everything else gets what it needs handed in."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import uv

from clary.control.administration import Administration
from clary.control.object_stores import ObjectStores
from clary.control.sessions import RoleSessions
from clary.control.universal_target import TransformJobTarget
from clary.controllers import model_gauges
from clary.controllers.artifacts import Artifacts
from clary.controllers.async_metrics import AsyncMetrics, Queue
from clary.controllers.asynchronous import AsyncController
from clary.controllers.calls import CallController
from clary.controllers.capture import CaptureDelivery
from clary.controllers.component_places import ComponentPlaces
from clary.controllers.containers import Containers
from clary.controllers.deliveries import Deliveries
from clary.controllers.endpoints import EndpointController
from clary.controllers.environments import RecipeEnvironments
from clary.controllers.function_code import UnpackedCode
from clary.controllers.function_runs import FunctionRuns
from clary.controllers.functions import FunctionController
from clary.controllers.gc import GarbageCollector
from clary.controllers.hub_snapshots import HubSnapshots
from clary.controllers.log_tail import LogTail
from clary.controllers.metering import Metering
from clary.controllers.multimodel import MultiModels
from clary.controllers.object_events import ObjectEvents
from clary.controllers.preparation import Preparation
from clary.controllers.publication import Publisher, measure_host
from clary.controllers.source_mappings import SourceMappings
from clary.controllers.state_changes import KINDS, StateChanges
from clary.controllers.timers import Timers
from clary.controllers.transform_objects import TransformObjects
from clary.controllers.transforms import TransformController
from clary.controllers.unpacking import Unpacking
from clary.domain import prices
from clary.domain.asynchronous import age_s
from clary.domain.errors import NotFound
from clary.domain.fleet_name import account_of
from clary.domain.topics import networks
from clary.gateway.app import Gateway
from clary.gateway.authentication import Authentication
from clary.gateway.distribution import Distribution
from clary.gateway.hold import EndpointHold
from clary.gateway.layer_streams import Layers
from clary.images.recipes import ImagesMode
from clary.paths import Layout
from clary.runtimes.process import ProcessRuntime
from clary.services.autoscaling import Autoscaling
from clary.services.base import Service
from clary.services.cloudwatch import CloudWatch
from clary.services.ecr.images import Images
from clary.services.ecr.repositories import Repositories
from clary.services.ecr.service import Ecr
from clary.services.events import Events
from clary.services.functions.configurations import Configurations
from clary.services.functions.invocations import Invocations
from clary.services.functions.mappings import Mappings
from clary.services.functions.permissions import Permissions
from clary.services.functions.service import Lambda
from clary.services.identity.iam import Iam
from clary.services.identity.sts import Sts
from clary.services.logs import Logs
from clary.services.sagemaker.deployments import observed_of
from clary.services.sagemaker.endpoint_configs import EndpointConfigs
from clary.services.sagemaker.endpoints import Endpoints
from clary.services.sagemaker.inference_components import InferenceComponents
from clary.services.sagemaker.models import Models
from clary.services.sagemaker.service import SageMaker
from clary.services.sagemaker.tags import Tags
from clary.services.sagemaker.transform_jobs import TransformJobs
from clary.services.sagemaker_runtime import SageMakerRuntime
from clary.services.scheduler import Scheduler
from clary.services.sns import Sns
from clary.services.sqs import Sqs
from clary.settings import Settings, inherited
from clary.store import schema
from clary.store.bus import Bus
from clary.store.calls import Calls
from clary.store.database import Database
from clary.store.function_code import FunctionCode
from clary.store.identities import Identities
from clary.store.invocations import Backlog
from clary.store.invocations import Invocations as AsyncInvocations
from clary.store.layers import LayerFiles
from clary.store.logs import LogStore
from clary.store.migrate import ensure_schema
from clary.store.objects_port import Objects
from clary.store.queues import Queues
from clary.store.registry import Registry
from clary.store.resources import Resources
from clary.store.targets import find_target
from clary.store.topics import Topics


class Control:
    """Every part of the control plane."""

    def __init__(self, layout: Layout, settings: Settings, now: Callable[[], datetime]) -> None:
        self.settings = settings
        self._now = now
        self.prices = prices.parse(json.loads(files("clary.data").joinpath("prices.json").read_text()))
        self.database = Database(f"sqlite:///{layout.database}")
        ensure_schema(
            self.database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=layout.database, now=now()
        )
        self.resources = Resources(self.database, now)
        self.stores = ObjectStores(layout, settings, now, self._target_exists)
        self.objects = self.stores.objects
        self.registry = Registry(self.database, LayerFiles(layout.registry), now)
        self.runtime = ProcessRuntime(layout.supervisor_socket, self._fleet_changed)
        unpacking = Unpacking(self.runtime, settings.uid_last + 1)
        artifacts = Artifacts(layout.models, self.objects, unpacking)
        self.publisher = Publisher(
            layout,
            self.resources,
            self.runtime,
            self.prices,
            measure_host,
            {"worker_network": settings.worker_network, "docker_writable": settings.docker_writable},
        )
        images = RecipeEnvironments(
            Path(settings.environments_dir) if settings.environments_dir else layout.data,
            self.runtime,
            Path(uv.find_uv_bin()),
            ImagesMode(settings.images),
            inherited(),
        )
        self.containers = Containers(
            images,
            self.registry,
            self.resources,
            self.runtime,
            settings.account,
            _addresses(settings),
            settings.docker,
            os.geteuid() == 0,
            layout.mark,
        )
        self.preparation = Preparation(
            self.containers,
            artifacts,
            HubSnapshots(artifacts, settings.hugging_face_models),
            self.resources,
            measure_host,
            now,
            (settings.uid_first, settings.uid_last),
            layout.snapshots,
        )
        self.endpoints = EndpointController(layout, self.resources, self.runtime, self.preparation, self.publisher)
        self.components = EndpointController(
            layout,
            self.resources,
            self.runtime,
            self.preparation,
            self.publisher,
            ComponentPlaces(self.resources, self.prices),
        )
        self.transforms = TransformController(
            layout,
            self.resources,
            self.runtime,
            self.preparation,
            self.publisher,
            TransformObjects(self.objects),
            now,
            {name: value for name, value in inherited().items() if name == "CLARY_FAILPOINT"},
        )
        self.queues = Queues(self.database, now, settings.queue_messages_limit)
        base_url = f"http://{settings.host}:{settings.port}"
        self.topics = Topics(self.database, self.resources, self.queues, base_url, now)
        self.deliveries = Deliveries(self.topics, self.resources, networks(settings.webhook_networks), now)
        self.invocations = AsyncInvocations(self.database, settings.async_queue_limit, self._queued)
        self.async_metrics = AsyncMetrics(self.database, self._queues, now)
        self.asynchronous = AsyncController(
            layout,
            self.resources,
            self.invocations,
            self.objects,
            self.publisher,
            self.async_metrics,
            self.topics.publish,
            now,
            settings.async_concurrency,
        )
        self.identities = Identities(layout.identities, layout.identity_snapshot, settings.account, now)
        log_store = LogStore(layout.logs / "groups")
        self.calls = Calls(self.database, now, settings.calls_limit)
        self.bus = Bus(self.database, self.calls)
        self.resources.witness = StateChanges(self.bus, now)
        self.resources.after_witness = self.calls.woken
        self.resources.witnessed = KINDS
        self.timers = Timers(self.database, self.resources, self.calls, now)
        sessions = RoleSessions(self.identities)
        transform_jobs = TransformJobs(self.resources, self.prices, now)
        universal = TransformJobTarget(transform_jobs.create_transform_job, self.identities, sessions)
        code = FunctionCode(layout.functions)
        self.function_runs = FunctionRuns(
            layout,
            self.runtime,
            sessions,
            log_store,
            (settings.host, settings.port),
            settings.worker_network,
            now,
            settings.function_concurrency,
        )
        self.functions = FunctionController(
            self.resources,
            images,
            UnpackedCode(code, unpacking),
            code,
            (settings.uid_first, settings.uid_last),
            self.function_runs.running,
        )
        self.call_controller = CallController(
            self.database,
            self.resources,
            self.calls,
            self.queues,
            self.topics,
            self.function_runs,
            universal,
            settings.function_retry_s,
        )
        self.source_mappings = SourceMappings(self.resources, self.queues, self.function_runs)
        own = self.stores.own
        self.object_events = (
            None if own is None else ObjectEvents(own, self.database, self.calls, self.bus, settings.account)
        )
        self.capture = CaptureDelivery(layout.capture, self.objects)
        self.garbage = GarbageCollector(layout, self.resources, prune=self.containers.prune)
        self.metering = Metering(
            layout,
            self.database,
            self.prices,
            settings.account,
            self._workers,
            models=lambda: model_gauges.ask(layout.proxy_socket),
        )
        self.log_tail = LogTail(layout.worker_logs, log_store, settings.account, self._workers)
        models = Models(self.resources, ObjectPresence(self.objects), self.containers)
        sagemaker = SageMaker(
            models,
            EndpointConfigs(self.resources, self.prices),
            Endpoints(self.resources, now, self._instances),
            InferenceComponents(self.resources, models, self.prices, now, self._ready_instances),
            transform_jobs,
            Tags(self.resources),
        )
        runtime = SageMakerRuntime(
            self.resources, self.invocations, now, lambda: _disk_full(layout.data, settings.disk_reserve_mib)
        )
        rooms: list[Service] = [
            sagemaker,
            runtime,
            Autoscaling(self.resources),
            Sqs(self.resources, self.queues),
            Sns(self.resources, self.topics, now),
            Sts(self.identities, settings.account),
            Iam(self.identities, settings.account, now),
            Ecr(
                [
                    Repositories(self.resources, self.registry, self.identities.find, now),
                    Images(self.resources, self.registry),
                ],
                settings.account,
            ),
            *(() if self.stores.s3 is None else (self.stores.s3,)),
            Events(self.resources, self.bus, self.identities, now),
            Scheduler(self.resources, self.identities, universal.check, now),
            Lambda(
                [
                    Configurations(self.resources, code, self.objects, self.identities, now),
                    Invocations(self.resources, self.function_runs, self.calls, lambda: str(uuid.uuid4())),
                    Permissions(self.resources),
                    Mappings(self.resources),
                ]
            ),
            CloudWatch(self.database, now),
            Logs(log_store, lambda: round(now().timestamp() * 1000)),
        ]
        services = {room.name: room for room in rooms}
        authentication = Authentication(self.identities, settings.auth, settings.account, now)
        self.layers = Layers(self.registry.files)
        distribution = Distribution(self.resources, self.registry, authentication, settings.account, self.layers)
        self.administration = Administration(
            layout,
            self.database,
            self.resources,
            self.prices,
            self.metering,
            self.containers,
            self.transforms,
            MultiModels(self.resources, artifacts, self.objects, self.runtime, settings.account),
            self.stores.look,
            settings.region,
            now,
        )
        self.gateway = Gateway(
            services,
            authentication,
            settings.account,
            EndpointHold(self.resources, settings.hold_s),
            runtime.at_the_door,
            distribution,
            self.stores.external,
        )

    def _fleet_changed(self, fleet: str) -> None:
        self.endpoints.fleet_changed(fleet)
        self.components.fleet_changed(fleet)
        self.transforms.fleet_changed(fleet)
        self.metering.poke()
        self.log_tail.poke()

    def _workers(self) -> Iterable[Mapping[str, Any]]:
        return list(self.runtime.workers.values())

    def _queued(self, endpoint_uid: int) -> None:
        self.asynchronous.queued(endpoint_uid)

    async def _target_exists(self, arn: str) -> bool:
        """Whether the function, queue or topic of an ARN is there."""
        return await find_target(self.resources, arn) is not None

    def _instances(self, account: str) -> int:
        """How many instances of an account run, whichever of their containers do."""
        return len({worker["instance"] for worker in self._workers() if account_of(worker["fleet"]) == account})

    def _ready_instances(self, fleet: str) -> int:
        """How many instances of a fleet have a worker that takes requests."""
        ready = (worker for worker in self._workers() if worker["fleet"] == fleet and worker["state"] == "ready")
        return len({worker["instance"] for worker in ready})

    async def _queues(self) -> list[Queue]:
        """The queues of all asynchronous endpoints in service."""
        backlogs = await self.invocations.backlogs()
        now_us = round(self._now().timestamp() * 1_000_000)
        found = []
        for record, _ in await self.resources.all_with_tags("endpoint"):
            serving = observed_of(record).serving
            if serving is None or serving.asynchronous is None:
                continue
            backlog = backlogs.get(record.uid, Backlog(0, now_us))
            fleets = [serving.fleet(record.place.region, record.name, variant.name) for variant in serving.variants]
            found.append(
                Queue(
                    record.place,
                    record.name,
                    backlog.count,
                    age_s(backlog.oldest_us, now_us),
                    sum(self._instances(fleet) for fleet in fleets),
                )
            )
        return found

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the gateway until it is cancelled."""
        return [self.runtime.follow(), self._reconcile()]

    async def _reconcile(self) -> None:
        await self.runtime.connected()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.registry.care())
            tasks.create_task(self.endpoints.loop.run())
            tasks.create_task(self.endpoints.watch())
            tasks.create_task(self.components.loop.run())
            tasks.create_task(self.components.watch())
            tasks.create_task(self.transforms.loop.run())
            tasks.create_task(self.transforms.watch())
            tasks.create_task(self.deliveries.run())
            tasks.create_task(self.asynchronous.loop.run())
            tasks.create_task(self.asynchronous.watch())
            tasks.create_task(self.async_metrics.run())
            tasks.create_task(self.functions.loop.run())
            tasks.create_task(self.functions.watch())
            tasks.create_task(self.call_controller.run())
            if self.object_events is not None:
                tasks.create_task(self.object_events.run())
            tasks.create_task(self.timers.run())
            tasks.create_task(self.source_mappings.run())
            tasks.create_task(self.capture.run())
            tasks.create_task(self.garbage.run())
            tasks.create_task(self.metering.run())
            tasks.create_task(self.log_tail.run())

    async def ready(self) -> None:
        """Returns when the supervisor's view is there and the tables say what the database says."""
        async with asyncio.timeout(10.0):
            await self.runtime.connected()

    def close(self) -> None:
        self.asynchronous.close()
        self.layers.close()
        self.stores.close()
        self.database.close()


def _addresses(settings: Settings) -> list[str]:
    """Where our own registry is, as references of images name it."""
    named = (name.strip() for name in settings.host_names.split(","))
    hosts = dict.fromkeys([settings.host, "localhost", "127.0.0.1", *(name for name in named if name)])
    return [f"{host}:{settings.port}" for host in hosts]


def _disk_full(folder: Path, reserve_mib: int) -> str:
    """Why nothing more may be queued; "" while there is room."""
    free_mib = shutil.disk_usage(folder).free >> 20
    if free_mib >= reserve_mib:
        return ""
    return f"{free_mib} MiB are free on the disk, {reserve_mib} are kept (setting disk_reserve_mib)"


class ObjectPresence:
    """Whether model data is there, asked of the object store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def exists(self, bucket: str, key: str) -> bool:
        return await asyncio.to_thread(self._exists, bucket, key)

    def _exists(self, bucket: str, key: str) -> bool:
        try:
            self._objects.head(bucket, key)
        except NotFound:
            return False
        return True

    async def any_under(self, bucket: str, prefix: str) -> bool:
        page = await asyncio.to_thread(self._objects.list_objects, bucket, prefix=prefix, max_keys=1)
        return bool(page.objects)
