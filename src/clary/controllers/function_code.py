"""A function's archive unpacked behind walls, once for all functions of the same bytes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from clary.domain.errors import Invalid
from clary.domain.functions import MAX_CODE_BYTES
from clary.runtimes.process import ProcessRuntime
from clary.store.function_code import FunctionCode

EXTRACT_LIMIT_S = 120.0
PACKAGES = Path(__file__).parents[2]
PROGRAM = "import sys; sys.path.insert(0, {!r}); from clary_worker.zip_archive import main; sys.exit(main())"


class Unpacking:
    """Remembers nothing but what lies on the disk."""

    def __init__(self, code: FunctionCode, runtime: ProcessRuntime, extractor_uid: int) -> None:
        self._code = code
        self._runtime = runtime
        self._uid = extractor_uid
        self._locks: dict[str, asyncio.Lock] = {}

    async def unpack(self, sha256: str) -> Path:
        """The folder with the code. Raises: Invalid with the reason when the archive is refused, StoreFailed."""
        folder = self._code.unpacked(sha256)
        async with self._locks.setdefault(sha256, asyncio.Lock()):
            if not folder.is_dir():
                await self._extract(self._code.archive(sha256), folder)
        return folder

    async def _extract(self, archive: Path, folder: Path) -> None:
        temporary = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
        await asyncio.to_thread(_fresh, temporary)
        private = bool(self._runtime.isolation.get("private_root"))
        if self._runtime.isolation.get("own_uid"):
            os.chown(temporary, self._uid, self._uid)
        try:
            result = await self._runtime.request(
                "task",
                limit_s=EXTRACT_LIMIT_S + 10,
                argv=[
                    os.path.realpath(sys.executable),
                    "-I",
                    "-S",
                    "-c",
                    PROGRAM.format("/" if private else str(PACKAGES)),
                    "{fd0}",
                    "/out" if private else str(temporary),
                    str(MAX_CODE_BYTES),
                ],
                files=[str(archive)],
                environ={"LANG": "C.UTF-8"},
                timeout_s=EXTRACT_LIMIT_S,
                jail=self._jail(temporary),
            )
            _judge(result)
            await asyncio.to_thread(_seal, temporary, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, temporary, True)

    def _jail(self, temporary: Path) -> dict[str, Any]:
        return {
            "endpoint": "",
            "variant": "",
            "min": 0,
            "max": 0,
            "processes_per_instance": 1,
            "zygote": "",
            "python": sys.executable,
            "prefixes": [sys.base_prefix],
            "worker": {},
            "environ": {},
            "binds": [[str(temporary), "/out", "rw"], [str(PACKAGES / "clary_worker"), "/clary_worker", "ro"]],
            "memory_bytes": 1 << 30,
            "cpus": 1.0,
            "uid": self._uid,
            "network": False,
            "start_timeout_s": EXTRACT_LIMIT_S,
        }


def _fresh(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)


def _judge(result: dict[str, Any]) -> None:
    lines = result["output"].strip().splitlines()
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        told = {}
    if result["code"] == 0 and "files" in told:
        return
    why = told.get("error") or result["output"].strip()[-500:] or f"the extractor ended with {result['facts']}"
    raise Invalid("ZipFile", f"Could not unzip uploaded file: {why}")


def _seal(temporary: Path, folder: Path) -> None:
    """Ours, nobody's to write, everybody's to read; then in place under its name."""
    root = os.geteuid() == 0
    for place, folders, files in os.walk(temporary):
        for name in [*folders, *files]:
            if root:
                os.lchown(os.path.join(place, name), 0, 0)
    if root:
        os.chown(temporary, 0, 0)
    os.rename(temporary, folder)
