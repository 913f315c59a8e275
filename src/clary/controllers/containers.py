"""Images that a container serves: those of our own registry, and those that the container engine holds already.

    recipe? -> RecipeEnvironments.  Else the own registry -> loaded into the engine from the blobs' files, once a digest
    -> else the engine's own -> else a refusal that lists what was tried

Nothing is pulled from elsewhere. All that is asked of the engine runs as tasks of the supervisor (`clary_worker.
container_tasks`), so neither a slow daemon nor gigabytes of layers hold control up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.controllers.environments import RecipeEnvironments
from clary.controllers.preparation import Asked, Environment
from clary.controllers.turns import Turns
from clary.domain.container_image import (
    MULTI_MODEL_LABEL,
    Manifest,
    Reference,
    of_platform,
    own_region,
    parse_reference,
)
from clary.domain.errors import StoreFailed, Unsupported
from clary.domain.names import Place
from clary.images.recipes import Refusal
from clary.paths import engine_socket
from clary.runtimes.process import ProcessRuntime
from clary.store.registry import KIND, Image, Registry
from clary.store.resources import Resources

LOOK_LIMIT_S = 20.0
LOAD_LIMIT_S = 600.0
KEPT_S = 3600.0  # as long as unpacked models that nothing names yet


@dataclass(frozen=True, slots=True)
class Own:
    """An image of our own registry, and its name as AWS says it, by digest."""

    resolved_image: str
    repository: int
    image: Image


@dataclass(frozen=True, slots=True)
class Found:
    """Where an image is: `own`, or held by the engine as `held`; `tried` tells why not where there is neither."""

    own: Own | None = None
    held: dict[str, Any] | None = None
    tried: tuple[str, ...] = ()

    @property
    def nowhere(self) -> bool:
        return self.own is None and self.held is None


def _whole(refusal: Refusal, found: Found) -> Refusal:
    """With what was tried after the recipes."""
    return Refusal(refusal.image, refusal.reason, (*refusal.tried, *found.tried))


class Containers:
    """The `Environments` of preparation: recipes first, containers else."""

    def __init__(
        self,
        recipes: RecipeEnvironments,
        registry: Registry,
        resources: Resources,
        runtime: ProcessRuntime,
        account: str,
        hosts: Sequence[str],
        docker: str,
        root: bool,
        mark: str,
    ) -> None:
        """`hosts` are our own addresses; `docker` is the setting; `mark` is of the data folder (`Layout.mark`)."""
        self._root = root
        self._recipes = recipes
        self._registry = registry
        self._resources = resources
        self._runtime = runtime
        self._account = account
        self._hosts = frozenset(hosts)
        self._docker = docker
        self._repository = f"clary-registry-{mark}"  # what loaded images are tagged as
        self._turns = Turns()
        self._lately: dict[str, float] = {}  # ids of images that were asked for, and when
        self._pruned: frozenset[str] | None = None  # what was kept when it was last pruned

    async def provide(
        self, asked: Asked, requirements_txt: str | None, model_dir: Path | None, on_progress: Callable[[str], None]
    ) -> Environment:
        """See `preparation.Environments`. Raises: Unsupported, StoreFailed."""
        refusal = await self._recipes.refusal(asked.image)
        if refusal is None:
            return await self._recipes.provide(asked, requirements_txt, model_dir, on_progress)
        found = await self._find(asked)
        if found.nowhere:
            raise Unsupported(f"image {asked.image}", str(_whole(refusal, found)))
        engine = self._engine()
        if found.own is not None:
            on_progress("loading the image into the container engine")
            held, resolved = await self._loaded(found.own), found.own.resolved_image
        else:
            assert found.held is not None
            held, resolved = found.held, _resolved(asked.image, found.held)
        if asked.multi_model and str(held["labels"].get(MULTI_MODEL_LABEL, "")).lower() != "true":
            raise Unsupported(
                f"image {asked.image} in Mode MultiModel",
                f"Your Ecr Image {asked.image} does not contain required {MULTI_MODEL_LABEL}=true Docker label(s).",
            )
        return Environment(
            python=sys.executable,
            prefixes=(),
            framework="container",
            zygote="",
            resolved_image=resolved,
            note="it runs as a container",
            container={"engine": engine, "image": held["id"], "user": held["user"]},
        )

    async def refusal(self, image: str, region: str) -> str:
        """Why nothing can serve an image, with all that was tried; "" where something can."""
        refusal = await self._recipes.refusal(image)
        if refusal is None:
            return ""
        found = await self._find(Asked(image, region))
        return str(_whole(refusal, found)) if found.nowhere else ""

    async def is_container(self, asked: Asked) -> bool:
        if await self._recipes.refusal(asked.image) is None:
            return False
        return not (await self._find(asked)).nowhere

    async def explain(self, image: str, region: str) -> list[str]:
        """How an image resolves, line by line."""
        lines = await asyncio.to_thread(self._recipes.explain, image)
        if await self._recipes.refusal(image) is None:
            return lines
        found = await self._find(Asked(image, region))
        if found.own is not None:
            return [
                f"image        {image}",
                "runs as      a container, from clary's own registry",
                f"resolved     {found.own.resolved_image}",
                f"engine       {self._engine()}",
            ]
        if found.held is not None:
            return [
                f"image        {image}",
                "runs as      a container, of an image that the container engine holds",
                f"resolved     {_resolved(image, found.held)}",
                f"engine       {self._engine()}",
            ]
        return lines + [f"tried        {one}" for one in found.tried]

    async def engine(self) -> dict[str, str]:
        """{"state", "detail"} of the container engine, for `clary doctor`."""
        problem = self._unusable()
        if problem:
            return {"state": "note", "detail": problem}
        try:
            told = await self._task("look", [], [], LOOK_LIMIT_S)
        except StoreFailed as error:
            return {"state": "note", "detail": str(error)}
        return {"state": "ok", "detail": f"{told['version']} ({told['platform']}) at {self._engine()}"}

    async def prune(self, wanted: AbstractSet[str]) -> list[str]:
        """Lets the engine forget images that were loaded and that nothing needs any more; their tags.

        What was loaded lately stays: a preparation may be about to name it. Raises: StoreFailed.
        """
        now_s = time.monotonic()
        self._lately = {name: at_s for name, at_s in self._lately.items() if now_s - at_s < KEPT_S}
        kept = frozenset(wanted | self._lately.keys())
        if kept == self._pruned or self._unusable():
            return []
        told = await self._task("prune", [self._repository], sorted(kept), LOOK_LIMIT_S)
        self._pruned = kept
        gone: list[str] = told["gone"]
        return gone

    # -- where it is -----------------------------------------------------------------------------

    async def _find(self, asked: Asked) -> Found:
        reference = parse_reference(asked.image)
        if reference is None:
            return Found(tried=("container registry (it is no image's name)",))
        own, where = await self._own(reference, asked.region)
        problem = self._unusable()
        if problem:
            return Found(tried=(*where, f"docker backend ({problem})"))
        if own is not None:
            return Found(own=own)
        try:
            told = await self._task("look", [], [asked.image], LOOK_LIMIT_S)
        except StoreFailed as error:
            return Found(tried=(*where, f"docker backend ({error})"))
        held = told["images"][asked.image]
        if held is None:
            return Found(tried=(*where, f"docker backend ({self._engine()} holds no such image)"))
        return Found(held=held)

    async def _own(self, reference: Reference, region: str) -> tuple[Own | None, tuple[str, ...]]:
        """The image in our own registry, or what was looked for there."""
        there = own_region(reference, self._account, region, self._hosts)
        if not there:
            return None, ("own registry (the name is of another registry)",) if reference.registry else ()
        record = await self._resources.find(KIND, Place(self._account, there), reference.repository)
        if record is None:
            return None, (f"own registry (no repository {reference.repository} in {there})",)
        image = await self._registry.image(record.uid, reference.target)
        if image is None:
            return None, (f"own registry ({reference.repository} in {there} has no {reference.target})",)
        name = f"{self._account}.dkr.ecr.{there}.amazonaws.com/{reference.repository}@{image.digest}"
        return Own(name, record.uid, image), ()

    def _engine(self) -> str:
        return engine_socket(self._docker)

    def _unusable(self) -> str:
        """Why there is no container engine; "" where one may be."""
        if self._docker == "off":
            return "the setting docker is off"
        if not self._root:
            return "only root may enter a container's network"
        if not self._engine():
            return "no container engine listens here"
        return "" if os.path.exists(self._engine()) else f"{self._engine()} does not exist"

    # -- bringing it in --------------------------------------------------------------------------

    async def _loaded(self, own: Own) -> dict[str, Any]:
        """What the engine holds of our own image, loaded unless it is there. Raises: Unsupported, StoreFailed."""
        tag = f"{self._repository}:{own.image.digest.removeprefix('sha256:')}"
        async with self._turns.of(tag):
            told = await self._task("look", [], [tag], LOOK_LIMIT_S)
            held: dict[str, Any] | None = told["images"][tag]
            if held is None:
                held = await self._load(own, tag, told["platform"])
            self._lately[held["id"]] = time.monotonic()
            self._pruned = None
            return held

    async def _load(self, own: Own, tag: str, platform: str) -> dict[str, Any]:
        manifest = await self._manifest(own, platform)
        if manifest.config is None:
            raise Unsupported(own.resolved_image, "its manifest has no config")
        order = {
            "tag": tag,
            "config": str(self._registry.files.path(manifest.config.digest)),
            "layers": [
                {"digest": layer.digest, "path": str(self._registry.files.path(layer.digest))}
                for layer in manifest.layers
            ],
        }
        return await self._task("load", [], order, LOAD_LIMIT_S)

    async def _manifest(self, own: Own, platform: str) -> Manifest:
        """The image itself, where the name means an index. Raises: Unsupported."""
        manifest = own.image.manifest
        if not manifest.manifests:
            return manifest
        chosen = of_platform(manifest, platform)
        image = None if chosen is None else await self._registry.image(own.repository, chosen.digest)
        if image is None:
            there = ", ".join(one.platform or "of no platform" for one in manifest.manifests)
            raise Unsupported(own.resolved_image, f"it has no image for {platform}; there are: {there}")
        return image.manifest

    async def _task(self, operation: str, words: Sequence[str], told: Any, limit_s: float) -> dict[str, Any]:
        """One task of `clary_worker.container_tasks`. Raises: StoreFailed with what it said."""
        result = await self._runtime.request(
            "task",
            limit_s=limit_s + 10,
            argv=[sys.executable, "-I", "-m", "clary_worker.container_tasks", operation, self._engine(), *words],
            environ={"PATH": "/usr/bin:/bin"},
            stdin=json.dumps(told),
            timeout_s=limit_s,
        )
        lines = str(result["output"]).strip().splitlines()
        if int(result["code"]) != 0 or not lines:
            why = "it took too long" if result.get("timed_out") else lines[-1] if lines else "it ended without a word"
            raise StoreFailed(f"asking the container engine to {operation}", detail=why)
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer


def _resolved(image: str, held: dict[str, Any]) -> str:
    """The digest under which the engine knows an image; its id where it was never pulled or pushed."""
    digests: list[str] = held["digests"]
    return digests[0] if digests else f"{image.partition('@')[0]}@{held['id']}"
