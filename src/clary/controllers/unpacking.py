"""Unpacking what a user uploaded, as all of it is done: behind walls, under the unpacker's uid, then made ours.

What is unpacked lies in a folder of another name until `seal`: a crash leaves nothing half-done in place.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.runtimes.process import ProcessRuntime
from clary.runtimes.task import walls

PACKAGES = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of archive. `program`: the interpreter's arguments; {root} in them is where clary_worker lies."""

    program: Sequence[str]
    memory_bytes: int
    limit_s: float


class Unpacking:
    """Runs the extractors of `clary_worker`; `uid` is theirs."""

    def __init__(self, runtime: ProcessRuntime, uid: int) -> None:
        self._runtime = runtime
        self._uid = uid

    async def run(
        self, kind: Kind, archive: Path, temporary: Path, max_bytes: int, warm: bool = False
    ) -> dict[str, Any]:
        """The task's outcome, for `refusal`. `warm`: by the unpacker that is kept, where one is ready; "lost" in the
        outcome tells that it ended meanwhile."""
        private = bool(self._runtime.isolation.get("private_root"))
        if self._runtime.isolation.get("own_uid"):
            os.chown(temporary, self._uid, self._uid)
        root, destination = ("/", "/out") if private else (f"{PACKAGES}/", str(temporary))
        program = [part.format(root=root) for part in kind.program]
        binds = [(str(temporary), "/out", "rw"), (str(PACKAGES / "clary_worker"), "/clary_worker", "ro")]
        return await self._runtime.request(
            "task",
            limit_s=kind.limit_s + 10,
            argv=[os.path.realpath(sys.executable), "-I", "-S", *program, "{fd0}", destination, str(max_bytes)],
            files=[str(archive)],
            environ={"LANG": "C.UTF-8"},
            timeout_s=kind.limit_s,
            jail=walls(binds, self._uid, kind.memory_bytes, kind.limit_s),
            unpack={"destination": destination, "max_bytes": max_bytes} if warm else None,
        )


def fresh(folder: Path) -> Path:
    """A new empty folder beside `folder`, to be unpacked into."""
    temporary = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.tmp")
    temporary.mkdir(mode=0o755)
    temporary.chmod(0o755)
    return temporary


def refusal(result: dict[str, Any]) -> str:
    """Why the archive was not unpacked; "" when it was."""
    lines = result["output"].strip().splitlines()
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        told = {}
    if result["code"] == 0 and "files" in told:
        return ""
    return told.get("error") or result["output"].strip()[-500:] or f"the extractor ended with {result['facts']}"


def empty(folder: Path) -> None:
    """Removes what lies in it."""
    for place in folder.iterdir():
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def seal(temporary: Path, folder: Path) -> None:
    """Ours, and nobody's to write; then in place under its name."""
    if os.geteuid() == 0:
        for place, folders, files in os.walk(temporary):
            for name in [*folders, *files]:
                os.lchown(os.path.join(place, name), 0, 0)
        os.chown(temporary, 0, 0)
    os.rename(temporary, folder)
