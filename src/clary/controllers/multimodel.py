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
from pathlib import Path

from clary.controllers.artifacts import Artifacts, folder_bytes
from clary.domain.endpoint import DataSource, Observed, Variant, prepared_of
from clary.domain.errors import Invalid, NotFound
from clary.domain.fleet_name import parse_fleet_name
from clary.domain.multimodel import least_recent_files
from clary.domain.names import Place, S3Uri, parse_s3_uri
from clary.runtimes.process import ProcessRuntime
from clary.store.codec import decode
from clary.store.objects import ObjectStore
from clary.store.resources import Resources

GIB = 1024**3
SEEN_AT = "/opt/ml/models"
RECENT_S = 600.0  # what was asked for lately stays on the disk: a worker may just be reading it


class MultiModels:
    """Fetches by fleet and target."""

    def __init__(
        self, resources: Resources, artifacts: Artifacts, objects: ObjectStore, runtime: ProcessRuntime, account: str
    ) -> None:
        self._resources = resources
        self._artifacts = artifacts
        self._objects = objects
        self._runtime = runtime
        self._account = account
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, fleet: str, target: str) -> dict[str, object]:
        """{"name", "url", "bytes"} of a target's model, on the disk when this returns.

        Raises: NotFound when there is no such endpoint or object, Invalid when the archive is refused.
        """
        variant, folder = await self._place_of(fleet)
        key = _key(variant, target)
        try:
            info = await asyncio.to_thread(self._objects.head, key.bucket, key.key)
        except NotFound as error:
            raise NotFound("model", target) from error
        name = hashlib.sha256(f"{target}\0{info.etag}\0{info.content_id}".encode()).hexdigest()[:32]
        place = folder / name
        async with self._locks.setdefault(f"{fleet}/{name}", asyncio.Lock()):
            if place.is_dir():
                os.utime(place)
            else:
                source = DataSource(str(key), compressed=target.endswith((".tar.gz", ".tgz")))
                made, _ = await self._artifacts.fetch(source, variant.volume_gib)
                await asyncio.to_thread(_link, made, place)
                await asyncio.to_thread(_make_room, folder, variant.volume_gib * GIB)
        self._locks.pop(f"{fleet}/{name}", None)
        seen = SEEN_AT if self._runtime.isolation.get("private_root") else str(folder)
        return {"name": name, "url": f"{seen}/{name}/model", "bytes": folder_bytes(place)}

    async def _place_of(self, fleet: str) -> tuple[Variant, Path]:
        name = parse_fleet_name(fleet)
        record = await self._resources.find("endpoint", Place(self._account, name.region), name.owner)
        if record is None:
            raise NotFound("endpoint", name.owner)
        observed = decode(Observed, record.observed)
        for deployment in (observed.routed, observed.serving, *observed.retiring):
            if deployment is None or str(deployment.number) != name.generation:
                continue
            for variant in deployment.variants:
                prepared = prepared_of(observed, deployment, variant.name)
                if variant.name == name.variant and variant.container.multi_model and prepared is not None:
                    return variant, Path(prepared.model_dir)
        raise NotFound("multi-model variant", fleet)


def _key(variant: Variant, target: str) -> S3Uri:
    """The object of a target. Raises: Invalid for one that is no path below the prefix."""
    assert variant.container.data is not None
    prefix = parse_s3_uri(variant.container.data.uri)
    assert prefix is not None
    parts = target.split("/")
    if not target or target.startswith("/") or ".." in parts or "\0" in target:
        raise Invalid("TargetModel", f"{target!r} is no path below {variant.container.data.uri}.")
    return S3Uri(prefix.bucket, prefix.key + target)


def _link(made: Path, place: Path) -> None:
    """The same files under the variant's folder, all at once. They are links: the cache may go, they stay."""
    temporary = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    temporary.mkdir(mode=0o755)
    temporary.chmod(0o755)
    try:
        shutil.copytree(made, temporary / "model", symlinks=True, copy_function=os.link)
        os.rename(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _make_room(folder: Path, limit_bytes: int) -> None:
    """Keeps the variant's files within its volume."""
    now_s = time.time()
    held = {}
    for place in folder.iterdir():
        if not place.name.startswith("."):
            used_s = place.stat().st_mtime
            held[place.name] = (used_s, folder_bytes(place))
    for name in least_recent_files(held, limit_bytes):
        if now_s - held[name][0] > RECENT_S:
            shutil.rmtree(folder / name, ignore_errors=True)
