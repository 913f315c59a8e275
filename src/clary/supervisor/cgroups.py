"""Memory, process and CPU limits by control group, in both layouts.

Version 1 mounts a tree per controller; version 2 one tree. Groups are made below the group we run in (v1), or below
the root of the tree (v2, where a group that holds processes cannot have limited children), one group per fleet, so
that a fork only has to write "0" to a file: about 30 us.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroups:
    """What this host offers. `version` 0 means none: limits then are rlimits only."""

    version: int
    bases: tuple[tuple[str, Path], ...]  # controller -> folder that ours are made in

    def folders(self, name: str) -> dict[str, Path]:
        return {controller: base / name for controller, base in self.bases}

    def create(self, name: str, memory_bytes: int, pids: int, cpus: float) -> list[str]:
        """Makes (or updates) the group; the files into which a process writes "0" to join it."""
        procs = []
        for controller, folder in self.folders(name).items():
            folder.mkdir(exist_ok=True)
            if controller in ("memory", "unified"):
                _write(folder, "memory.limit_in_bytes" if self.version == 1 else "memory.max", str(memory_bytes))
                if self.version == 2:
                    _write(folder, "memory.swap.max", "0")
            if controller in ("pids", "unified"):
                _write(folder, "pids.max", str(pids))
            if controller in ("cpu", "unified") and cpus < (os.cpu_count() or 1):
                quota_us = int(cpus * 100_000)
                if self.version == 1:
                    _write(folder, "cpu.cfs_quota_us", str(quota_us))
                else:
                    _write(folder, "cpu.max", f"{quota_us} 100000")
            procs.append(str(folder / "cgroup.procs"))
        return procs

    def oom_kills(self, name: str) -> int:
        """How many processes of the group the kernel has killed for memory since the group was made."""
        folders = self.folders(name)
        file = (
            folders["unified"] / "memory.events"
            if self.version == 2
            else folders["memory"] / "memory.oom_control"
            if self.version == 1
            else None
        )
        if file is None:
            return 0
        try:
            lines = file.read_text().splitlines()
        except FileNotFoundError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def processes(self, name: str) -> set[int]:
        """The pids in the group."""
        for folder in self.folders(name).values():
            with contextlib.suppress(FileNotFoundError):
                return {int(word) for word in (folder / "cgroup.procs").read_text().split()}
        return set()

    def remove(self, name: str) -> bool:
        """Removes the group; False while a process is still leaving it (try again)."""
        for folder in self.folders(name).values():
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise
        return True


def _write(folder: Path, name: str, text: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # e.g. memory.swap.max on a kernel without swap accounting
        (folder / name).write_text(text)


def detect(prefix: str) -> Cgroups:
    """The strongest layout that we can write to; `prefix` names our own folder in it (one per data folder)."""
    if os.geteuid() != 0:
        return Cgroups(0, ())
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    try:
        bases = _version_1(own, prefix)
        if bases:
            return Cgroups(1, bases)
        if (ROOT / "cgroup.controllers").exists():
            return Cgroups(2, (("unified", _version_2(prefix)),))
    except OSError:
        return Cgroups(0, ())  # mounted read-only, as in most containers: `clary doctor` tells it
    return Cgroups(0, ())


def _version_1(own: dict[str, str], prefix: str) -> tuple[tuple[str, Path], ...]:
    bases = []
    for controller in ("memory", "pids", "cpu"):
        path = next((path for names, path in own.items() if controller in names.split(",")), None)
        tree = next((ROOT / name for name in (controller, "cpu,cpuacct") if (ROOT / name).is_dir()), None)
        if path is None or tree is None:
            continue
        folder = tree / path.lstrip("/") / prefix
        folder.mkdir(parents=True, exist_ok=True)
        bases.append((controller, folder))
    return tuple(bases) if any(name == "memory" for name, _ in bases) else ()


def _version_2(prefix: str) -> Path:
    available = (ROOT / "cgroup.controllers").read_text().split()
    wanted = [name for name in ("memory", "pids", "cpu") if name in available]
    if "memory" not in wanted:
        raise OSError("the unified tree has no memory controller")
    order = " ".join(f"+{name}" for name in wanted)
    (ROOT / "cgroup.subtree_control").write_text(order)
    folder = ROOT / prefix
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.subtree_control").write_text(order)
    return folder
