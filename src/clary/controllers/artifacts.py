"""A deployment's files: fetched from the object store as they are now, unpacked behind walls, kept by content.

A folder under `models/` is named by what it was made from (URI, ETag, how it was packed), made under another name and
renamed when it is whole, owned by us and read-only to every worker. So the same archive is unpacked once however
many endpoints serve it, a wake never touches the object store, and a crash leaves nothing half-done in place.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from clary.controllers.turns import Turns
from clary.controllers.unpacking import Kind, Unpacking, empty, fresh, refusal, seal
from clary.domain.endpoint import DataSource
from clary.domain.errors import Invalid, NotFound
from clary.domain.names import parse_s3_uri
from clary.failpoints import failpoint
from clary.store.object_info import ObjectInfo
from clary.store.objects_port import Objects, Reader

GIB = 1024**3
TAR = Kind(("{root}clary_worker/archive.py",), memory_bytes=2 * GIB, limit_s=3600.0)


class Artifacts:
    """Fetches and unpacks; remembers nothing but what lies on the disk."""

    def __init__(self, folder: Path, objects: Objects, unpacking: Unpacking) -> None:
        self._folder = folder
        self._objects = objects
        self._unpacking = unpacking
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="artifacts")
        self._turns = Turns()

    async def fetch(self, source: DataSource, volume_gib: int) -> tuple[Path, str]:
        """The folder that holds the source's files, and the ETag they had.

        Raises: Invalid with the reason when the object is gone or the archive is refused.
        """
        place = parse_s3_uri(source.uri)
        if place is None:
            raise Invalid("ModelDataUrl", f"{source.uri} is not an s3:// URI")
        if source.prefix:
            return await self._fetch_prefix(source, place.bucket, place.key)
        try:
            info = await self._on_thread(self._objects.head, place.bucket, place.key)
        except NotFound as error:
            raise Invalid("ModelDataUrl", f"Could not find model data at {source.uri}.") from error
        return await self.provide(source, info, volume_gib), info.etag

    async def provide(self, source: DataSource, info: ObjectInfo, volume_gib: int) -> Path:
        """The folder that holds the files of one object, which was found just now. Raises: as `fetch`."""
        place = parse_s3_uri(source.uri)
        assert place is not None
        name = _digest(source.uri, info.etag, info.content_id, "tar" if source.compressed else place.key)
        async with self._turns.of(name):
            folder = self._folder / name
            if not folder.is_dir():
                if source.compressed:
                    await self._extract(place.bucket, place.key, folder, volume_gib * GIB, source.uri)
                else:
                    await self._on_thread(self._copy, place.bucket, {place.key: place.key.rpartition("/")[2]}, folder)
        return folder

    async def copy_folder(self, source: Path, root: Path) -> tuple[Path, str]:
        """The folder that holds copies of a folder's files, and a digest of their names, sizes and times.

        `source` is the operator's: links are followed as far as `root`. Raises: Invalid for one that leads out of it.
        """
        files = await self._on_thread(_files_below, source, root)
        told = "\n".join(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}" for name, (_, facts) in files.items())
        etag = hashlib.md5(told.encode()).hexdigest()
        name = _digest(str(source), etag, "folder")
        async with self._turns.of(name):
            folder = self._folder / name
            if not folder.is_dir():
                await self._on_thread(self._copy_files, {one: path for one, (path, _) in files.items()}, folder)
        return folder, etag

    def _copy_files(self, files: dict[str, Path], folder: Path) -> None:
        temporary = fresh(folder)
        try:
            for relative, path in files.items():
                target = temporary / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def own_folder(self, number: int, variant: str) -> Path:
        """A deployment's folder for models that come later; empty at first."""
        folder = self._folder / f"multi-{number}-{variant}"
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        return folder

    async def any_below(self, uri: str) -> bool:
        """Whether an object lies below that s3:// prefix; False where there is not even its bucket."""
        place = parse_s3_uri(uri)
        if place is None:
            return False
        try:
            page = await self._on_thread(
                partial(self._objects.list_objects, place.bucket, prefix=place.key, max_keys=1)
            )
        except NotFound:
            return False
        return bool(page.objects)

    async def _fetch_prefix(self, source: DataSource, bucket: str, prefix: str) -> tuple[Path, str]:
        listed = await self._on_thread(self._list, bucket, prefix)
        if not listed:
            raise Invalid("ModelDataSource", f"Could not find model data at {source.uri}.")
        etag = hashlib.md5("".join(sorted(f"{k}:{e}" for k, e in listed.items())).encode()).hexdigest()
        name = _digest(source.uri, etag, "prefix", "")
        async with self._turns.of(name):
            folder = self._folder / name
            if not folder.is_dir():
                files = {key: key[len(prefix) :] for key in listed if not key.endswith("/")}
                await self._on_thread(self._copy, bucket, files, folder)
        return folder, etag

    def _list(self, bucket: str, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        after: str | None = ""
        while after is not None:
            page = self._objects.list_objects(bucket, prefix=prefix, start_after=after, max_keys=1000)
            found |= {item.key: item.etag for item in page.objects}
            after = page.next
        return found

    async def _on_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _copy(self, bucket: str, files: dict[str, str], folder: Path) -> None:
        temporary = fresh(folder)
        try:
            for key, relative in files.items():
                parts = [part for part in relative.split("/") if part not in ("", ".")]
                if not parts or ".." in parts or "\0" in relative:
                    raise Invalid("ModelDataSource", f"the key {key!r} is no file name inside the model folder")
                target = temporary.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._objects.open(bucket, key) as reader, target.open("xb") as out:
                    for chunk in reader.chunks():
                        out.write(chunk)
            os.rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    async def _extract(self, bucket: str, key: str, folder: Path, max_bytes: int, uri: str) -> None:
        temporary = await self._on_thread(fresh, folder)
        failpoint("artifacts.before_unpacking")
        try:
            reader, archive, extra = await self._on_thread(self._one_file, bucket, key, temporary)
        except BaseException:
            await self._on_thread(shutil.rmtree, temporary, True)
            raise
        try:
            result = await self._unpacking.run(TAR, archive, temporary, max_bytes, warm=True)
            if result.get("lost"):
                await self._on_thread(empty, temporary)
                result = await self._unpacking.run(TAR, archive, temporary, max_bytes)
            if extra is not None:
                extra.unlink()
            if why := refusal(result):
                raise Invalid("ModelDataUrl", f"Could not unpack model data at {uri}: {why}")
            failpoint("artifacts.after_unpacking")
            await self._on_thread(seal, temporary, folder)
            failpoint("artifacts.after_rename")
        except BaseException:
            await self._on_thread(shutil.rmtree, temporary, True)
            raise
        finally:
            reader.close()

    def _one_file(self, bucket: str, key: str, temporary: Path) -> tuple[Reader, Path, Path | None]:
        """The archive as one file, to be read while its reader is open: in place when it was put in one piece, else
        joined beside the target."""
        reader = self._objects.open(bucket, key)
        try:
            if len(reader.stretches) == 1 and reader.stretches[0].offset_bytes == 0:
                return reader, reader.stretches[0].path, None
            joined = temporary.with_suffix(".archive")
            with joined.open("xb") as out:
                for chunk in reader.chunks():
                    out.write(chunk)
        except BaseException:
            reader.close()
            raise
        return reader, joined, joined


def _files_below(source: Path, root: Path) -> dict[str, tuple[Path, os.stat_result]]:
    """Relative name -> the file behind it, links followed, in the order of names."""
    inside = root.resolve()
    found: dict[str, tuple[Path, os.stat_result]] = {}
    for path in sorted(source.rglob("*")):
        real = path.resolve()
        if not real.is_file():
            continue
        if not real.is_relative_to(inside):
            raise Invalid("HF_MODEL_ID", f"{path} is a link out of {root}")
        found[str(path.relative_to(source))] = (real, real.stat())
    return found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, files in os.walk(folder) for name in files)
