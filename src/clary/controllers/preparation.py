"""Everything that must be there before a deployment's first worker starts: environment, files, uid, room in memory.

Work that may last (building an environment, unpacking gigabytes) runs beside the reconciler, one task a deployment;
the reconciler only looks. What was prepared is stored with the endpoint, so a restart starts nothing over.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from clary.controllers.artifacts import Artifacts, folder_bytes
from clary.controllers.hub_snapshots import HubSnapshots
from clary.controllers.publication import Endpoint
from clary.domain.endpoint import Container, DataSource, DeployedContainer, Deployment, Prepared, Variant, prepared_of
from clary.domain.errors import ClaryError, Unsupported
from clary.domain.placement import Host, admit
from clary.domain.rollout import failure_text
from clary.failpoints import failpoint
from clary.store.resources import Resources

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """An image, and by whom: an address of our own registry means a repository of the asker's region."""

    image: str
    region: str
    multi_model: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that is there."""

    python: str
    prefixes: tuple[str, ...]
    framework: str
    zygote: str  # key of its warm interpreter; "" for none
    resolved_image: str
    note: str = ""
    trusted: bool = True  # nothing of a user's choice is in it
    imports: tuple[str, ...] = ()  # distributions that the user named: worth importing ahead of time
    command: tuple[str, ...] = ()
    container: dict[str, str] = field(default_factory=dict)  # {"engine", "image", "user"} in the place of all that


class Environments(Protocol):
    """Images to interpreters."""

    async def provide(
        self, asked: Asked, requirements_txt: str | None, model_dir: Path | None, on_progress: Callable[[str], None]
    ) -> Environment:
        """The environment of an image, built when it was not there. Raises: ClaryError with the reason.

        `model_dir`: the unpacked archive, where its content decides what is needed.
        """
        ...

    async def is_container(self, asked: Asked) -> bool:
        """Whether a container serves it, which may bring its model along."""
        ...


@dataclass(slots=True)
class _Job:
    task: asyncio.Task[None] | None = None
    progress: str = "preparing"
    prepared: dict[str, Prepared] = field(default_factory=dict)
    problem: str = ""
    done: bool = False


class Preparation:
    """One job a deployment number."""

    def __init__(
        self,
        environments: Environments,
        artifacts: Artifacts,
        hub_snapshots: HubSnapshots,
        resources: Resources,
        host: Callable[[], Host],
        now: Callable[[], datetime],
        uids: tuple[int, int],
        snapshots: Path,
    ) -> None:
        self._environments = environments
        self._artifacts = artifacts
        self._snapshots_of_hub = hub_snapshots
        self._resources = resources
        self._host = host
        self._now = now
        self._uids = uids
        self._snapshots = snapshots
        self._jobs: dict[int, _Job] = {}

    async def look(
        self, endpoint: Endpoint, deployment: Deployment, wake: Callable[[int], None]
    ) -> tuple[dict[str, Prepared] | None, str, str]:
        """(what is prepared by "number/part", or None while it is not; the problem that ends it; progress)."""
        stored = {
            f"{deployment.number}/{part.name}": prepared_of(endpoint.observed, deployment, part.name)
            for part in deployment.parts
        }
        if all(stored.values()):
            self._jobs.pop(deployment.number, None)
            return {name: value for name, value in stored.items() if value is not None}, "", ""
        job = self._jobs.get(deployment.number)
        if job is None:
            job = self._jobs[deployment.number] = _Job()
            job.task = asyncio.create_task(self._run(endpoint, deployment, job, wake))
        if not job.done:
            # Most deployments are ready in the blink of an eye: a short wait here saves a round of the loop.
            assert job.task is not None
            await asyncio.wait({job.task}, timeout=0.2)
        if not job.done:
            return None, "", job.progress
        del self._jobs[deployment.number]
        return (None, job.problem, "") if job.problem else (job.prepared, "", "")

    async def _run(self, endpoint: Endpoint, deployment: Deployment, job: _Job, wake: Callable[[int], None]) -> None:
        name = ""
        try:
            for variant in deployment.variants:
                for place, part in enumerate(variant.parts):
                    name = part.name
                    prepared = await self._part(endpoint, deployment.number, part, place, job)
                    failpoint("preparation.after_uid")
                    folder = self._snapshots / f"{deployment.number}-{name}"
                    _own_folder(folder, prepared.uid)
                    failpoint("preparation.after_folder")
                    job.prepared[f"{deployment.number}/{name}"] = replace(prepared, cache_dir=str(folder))
        except ClaryError as error:
            job.problem = failure_text(name, str(error), (), "")
        except OSError as error:
            job.problem = failure_text(name, f"the host refused: {error}", (), "see `clary doctor`")
        finally:
            job.done = True
            wake(endpoint.record.uid)

    async def _part(self, endpoint: Endpoint, number: int, variant: Variant, place: int, job: _Job) -> Prepared:
        """A part of a deployment (see `Deployment.parts`); `place` is its container's among the variant's, from 0."""
        container = variant.container

        def progress(text: str) -> None:
            job.progress = f"{variant.name}: {text}"

        asked = Asked(container.image, endpoint.record.place.region, container.multi_model)
        etags: dict[str, str] = {}
        data_dir: Path | None = None
        if container.data is not None and not container.multi_model:
            progress("fetching model data")
            data_dir, etags[container.data.uri] = await self._artifacts.fetch(container.data, variant.volume_gib)
        if container.multi_model:
            hub = None
            model_dir = self._artifacts.own_folder(number, variant.name)
        else:
            hub = await self._snapshots_of_hub.find(container, variant.volume_gib, progress)
            if hub is None and data_dir is None and await self._environments.is_container(asked):
                data_dir = self._artifacts.own_folder(number, variant.name)  # the image brings its model
            model_dir = _chosen(container, data_dir, None if hub is None else hub.folder)
        if hub is not None:
            etags[hub.uri] = hub.etag
        additional = {}
        for source in container.additional_data:
            folder, etags[source.uri] = await self._artifacts.fetch(source, variant.volume_gib)
            additional[source.channel] = str(folder)
        code_dir = ""
        submit = container.environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
        if submit.startswith("s3://"):
            progress("fetching source code")
            folder, etags[submit] = await self._artifacts.fetch(DataSource(submit), variant.volume_gib)
            code_dir = str(folder)
        elif hub is not None and data_dir is not None and (data_dir / "code").is_dir():
            code_dir = str(data_dir / "code")  # the weights are HF_MODEL_ID's, the model data brings the script
        environment = await self._environments.provide(
            asked,
            _requirements(Path(model_dir), Path(code_dir) if code_dir else None),
            Path(model_dir),
            progress,
        )
        size = await asyncio.to_thread(folder_bytes, Path(model_dir))
        refusal = admit(size, max(1, variant.instance_count), self._host())
        if refusal:
            raise Unsupported("this deployment", refusal)
        uid = await self._resources.worker_uid(endpoint.record.uid, *self._uids, place)
        return Prepared(
            python=environment.python,
            prefixes=environment.prefixes,
            framework=environment.framework,
            zygote=environment.zygote,
            zygote_trusted=environment.trusted,
            zygote_imports=environment.imports,
            model_dir=str(model_dir),
            code_dir=code_dir,
            artifact_bytes=size,
            etags=etags,
            uid=uid,
            image=DeployedContainer(
                container.image, environment.resolved_image, self._now().isoformat(), environment.note
            ),
            additional_dirs=additional,
            command=environment.command,
            container=environment.container,
        )


def _chosen(container: Container, data_dir: Path | None, hub_dir: Path | None) -> Path:
    """The model's folder: what HF_MODEL_ID names goes before the model data. Raises: Unsupported without either."""
    if hub_dir is not None:
        return hub_dir
    if data_dir is None:
        raise Unsupported(
            f"a model without model data (image {container.image})", "give ModelDataUrl or ModelDataSource"
        )
    return data_dir


def _own_folder(folder: Path, uid: int) -> None:
    """An empty-or-older folder that only `uid` can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, uid, uid)


def _requirements(model_dir: Path, code_dir: Path | None) -> str | None:
    """The text of the user's requirements.txt, where script mode looks for it."""
    for folder in (code_dir, model_dir / "code"):
        if folder is not None and (file := folder / "requirements.txt").is_file() and not file.is_symlink():
            return file.read_text()
    return None
