"""Models of multi-model endpoints, from the object store to a folder that the variant's workers see.

    models/multi-NUMBER-VARIANT/NAME/model/...      seen as /opt/ml/models/NAME/model

NAME is made of the target and of the bytes that its object has now, so an object that was replaced is another model.
The proxy asks when a model is to be loaded that nobody holds; it gives up by itself when nobody answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from clary.controllers.artifacts import Artifacts, folder_bytes
from clary.controllers.turns import Turns
from clary.domain.endpoint import DataSource, Observed, Variant, prepared_of
from clary.domain.errors import ClaryError, NotFound, StoreFailed
from clary.domain.fleet_name import parse_fleet_name, part_name
from clary.domain.multimodel import least_recent_files
from clary.domain.names import Place, S3Uri, parse_s3_uri
from clary.runtimes.process import ProcessRuntime
from clary.store.codec import decode
from clary.store.objects_port import Objects
from clary.store.resources import Resources

GIB = 1024**3
SEEN_AT = "/opt/ml/models"
RECENT_S = 600.0  # what was asked for lately stays on the disk: a worker may just be reading it
SHELVES_KEPT = 1000
PACKED = (".tar.gz", ".tgz")


class NotAModel(ClaryError):
    """The target names nothing below the prefix: the caller's mistake, told in AWS's words."""


@dataclass(slots=True)
class _Shelf:
    """One deployment variant's folder of models, and what lies in it: name -> (last use, bytes)."""

    variant: Variant
    folder: Path
    container: bool = False
    held: dict[str, tuple[float, int]] = field(default_factory=dict)
    bytes: int = 0

    def put(self, name: str, size_bytes: int) -> None:
        self.bytes += size_bytes - self.held.get(name, (0.0, 0))[1]
        self.held[name] = (time.time(), size_bytes)

    def make_room(self, limit_bytes: int) -> list[str]:
        """Names of what has to go, least recently used first; they are no longer counted."""
        if self.bytes <= limit_bytes:
            return []
        now_s = time.time()
        gone = [name for name in least_recent_files(self.held, limit_bytes) if now_s - self.held[name][0] > RECENT_S]
        for name in gone:
            self.bytes -= self.held.pop(name)[1]
        return gone


class MultiModels:
    """Fetches by fleet and target."""

    def __init__(
        self, resources: Resources, artifacts: Artifacts, objects: Objects, runtime: ProcessRuntime, account: str
    ) -> None:
        self._resources = resources
        self._artifacts = artifacts
        self._objects = objects
        self._runtime = runtime
        self._account = account
        self._turns = Turns()
        self._shelves: dict[str, _Shelf] = {}

    async def fetch(self, fleet: str, target: str) -> dict[str, object]:
        """{"name", "url", "bytes"} of a target's model, on the disk when this returns.

        Raises: NotAModel when there is no such object, Invalid when its archive is refused, NotFound for the fleet,
        StoreFailed.
        """
        async with self._turns.of(fleet):
            shelf = await self._shelf(fleet)
        key = _key(shelf.variant, target)
        try:
            info = await asyncio.to_thread(self._objects.head, key.bucket, key.key)
        except NotFound as error:
            raise NotAModel(
                f"Failed to download model data(bucket: {key.bucket}, key: {key.key}). Please ensure that there is an "
                "object located at the URL and that the role passed to CreateModel has permissions to download the "
                "model."
            ) from error
        name = hashlib.sha256(f"{target}\0{info.etag}\0{info.content_id}".encode()).hexdigest()[:32]
        volume_gib = shelf.variant.volume_gib
        async with self._turns.of(f"{fleet}/{name}"):
            if name not in shelf.held:
                source = DataSource(str(key), compressed=target.endswith(PACKED))
                try:
                    made = await self._artifacts.provide(source, info, volume_gib)
                    size_bytes = await asyncio.to_thread(_link, made, shelf.folder / name)
                except OSError as error:
                    raise StoreFailed(f"putting model {target} on the disk", detail=str(error)) from error
            else:
                size_bytes = shelf.held[name][1]
            shelf.put(name, size_bytes)
            gone = shelf.make_room(volume_gib * GIB)
            if gone:
                await asyncio.to_thread(_remove, shelf.folder, gone)
        private = shelf.container or self._runtime.isolation.get("private_root")
        seen = SEEN_AT if private else str(shelf.folder)
        return {"name": name, "url": f"{seen}/{name}/model", "bytes": size_bytes}

    async def _shelf(self, fleet: str) -> _Shelf:
        """The variant and what lies in its folder, read once: a fleet's deployment never changes."""
        shelf = self._shelves.pop(fleet, None)
        if shelf is None:
            shelf = await asyncio.to_thread(_read, *await self._place_of(fleet))
        while len(self._shelves) >= SHELVES_KEPT:
            del self._shelves[next(iter(self._shelves))]
        self._shelves[fleet] = shelf
        return shelf

    async def _place_of(self, fleet: str) -> tuple[Variant, Path, bool]:
        name = parse_fleet_name(fleet)
        record = await self._resources.find("endpoint", Place(self._account, name.region), name.owner)
        if record is None:
            raise NotFound("endpoint", name.owner)
        observed = decode(Observed, record.observed)
        for deployment in (observed.routed, observed.serving, *observed.retiring):
            if deployment is None or str(deployment.number) != name.generation:
                continue
            for part in deployment.parts:
                prepared = prepared_of(observed, deployment, part.name)
                here = part.name == part_name(name.variant, name.container)
                if here and part.container.multi_model and prepared is not None:
                    return part, Path(prepared.model_dir), bool(prepared.container)
        raise NotFound("multi-model variant", fleet)


def _key(variant: Variant, target: str) -> S3Uri:
    """The object of a target. Raises: NotAModel for one that is no path below the prefix."""
    assert variant.container.data is not None
    prefix = parse_s3_uri(variant.container.data.uri)
    assert prefix is not None
    relative = target.removeprefix("/")
    if not relative or ".." in relative.split("/") or "\0" in relative:
        raise NotAModel(f"TargetModel {target!r} is no path below {variant.container.data.uri}.")
    return S3Uri(prefix.bucket, prefix.key + relative)


def _link(made: Path, place: Path) -> int:
    """The same files under the variant's folder, all at once; their bytes. They are links: the cache may go."""
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    temporary.mkdir(mode=0o755)
    temporary.chmod(0o755)
    try:
        shutil.copytree(made, temporary / "model", symlinks=True, copy_function=os.link)
        size_bytes = folder_bytes(temporary)
        os.rename(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return size_bytes


def _read(variant: Variant, folder: Path, container: bool) -> _Shelf:
    """A folder as a control before this one left it; what it was in the middle of linking goes."""
    shelf = _Shelf(variant, folder, container)
    for place in folder.iterdir():
        if place.name.startswith("."):
            shutil.rmtree(place, ignore_errors=True)
            continue
        size_bytes = folder_bytes(place)
        shelf.held[place.name] = (place.stat().st_mtime, size_bytes)
        shelf.bytes += size_bytes
    return shelf


def _remove(folder: Path, names: list[str]) -> None:
    """Each out of its name at once, so that a half-emptied folder is taken for nothing."""
    for name in names:
        doomed = folder / f".{name}.gone"
        os.rename(folder / name, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
