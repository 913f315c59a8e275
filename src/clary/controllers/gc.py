"""What nobody wants any more: unpacked models and snapshots of deployments that are gone.

A folder goes when no endpoint's prepared deployments and no job that runs name it, and it is old enough that no
preparation can be about to: a deployment's files exist for a while before the endpoint's record names them. What the
control before this one was in the middle of unpacking goes at once: nobody will finish it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from pathlib import Path

from clary.domain.endpoint import Observed
from clary.domain.errors import StoreFailed
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT, TRANSFORM_JOB
from clary.domain.transform_job import CLEARED, TransformObserved
from clary.paths import Layout
from clary.store.codec import decode
from clary.store.resources import Resources

log = logging.getLogger(__name__)

EVERY_S = 60.0
GRACE_S = 3600.0  # longer than the longest unpacking may take


Prune = Callable[[AbstractSet[str]], Awaitable[list[str]]]


class GarbageCollector:
    """Looks once a minute while things change, and once after."""

    def __init__(
        self, layout: Layout, resources: Resources, grace_s: float = GRACE_S, prune: Prune | None = None
    ) -> None:
        """`prune` lets a container engine forget all loaded images but those with the ids it is given."""
        self._prune = prune
        self._layout = layout
        self._resources = resources
        self._grace_s = grace_s
        # Looked up now, before this control unpacks anything of its own.
        self._unfinished = [folder for folder in layout.models.iterdir() if folder.name.startswith(".")]

    async def run(self) -> None:
        """For ever; cancel to stop."""
        await asyncio.to_thread(self.clear)
        version = -1
        while True:
            await self._resources.changed_since(version, timeout_s=3600.0)
            await asyncio.sleep(EVERY_S)
            version = self._resources.version
            gone = await self.collect()
            if gone:
                log.info("event=collected folders=%d", gone)

    def clear(self) -> None:
        """Removes what a predecessor left unfinished."""
        for place in self._unfinished:
            _remove(place)
        self._unfinished = []

    async def collect(self) -> int:
        """One look; how many folders went."""
        wanted: set[str] = set()
        images: set[str] = set()
        for record in [*await self._resources.all(ENDPOINT), *await self._resources.all(INFERENCE_COMPONENT)]:
            for prepared in decode(Observed, record.observed).prepared.values():
                wanted |= {prepared.model_dir, prepared.code_dir, prepared.cache_dir}
                wanted |= set(prepared.additional_dirs.values())
                images.add(prepared.container.get("image", ""))
        for record in await self._resources.unfinished(TRANSFORM_JOB, CLEARED):
            observed = decode(TransformObserved, record.observed)
            for of_job in (observed.prepared, *observed.further) if observed.prepared is not None else ():
                assert of_job is not None
                wanted |= {of_job.model_dir, of_job.code_dir, of_job.cache_dir, *of_job.additional_dirs.values()}
                images.add(of_job.container.get("image", ""))
        if self._prune is not None:
            try:
                await self._prune(images - {""})
            except StoreFailed as error:
                log.warning("event=images_not_pruned reason=%s", error)  # the next look tries again
        wanted |= {str(Path(one).parent) for one in wanted if one}  # a script's folder may be one inside its archive's
        return await asyncio.to_thread(self._remove_all_but, wanted)

    def _remove_all_but(self, wanted: set[str]) -> int:
        before_s = time.time() - self._grace_s
        gone = 0
        for parent in (self._layout.models, self._layout.snapshots):
            for folder in parent.iterdir():
                if str(folder) in wanted or folder.stat().st_ctime > before_s:
                    continue
                _remove(folder)
                gone += 1
        return gone


def _remove(folder: Path) -> None:
    """Out of its name at once, so that nobody takes a half-emptied folder for a whole one."""
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    doomed = folder.with_name(f".{folder.name.lstrip('.')}.gone")
    if doomed != folder:
        os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
