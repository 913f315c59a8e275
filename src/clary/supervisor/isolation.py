"""The strongest walls this host offers, found by trying, and the jail of one worker made from them.

Three levels: `root` (uid per endpoint, own root folder, network, control groups), `user` (an unprivileged user
namespace gives the same private root and network without another uid) and `none`, which is always said loudly.
The same private root serves all workers of one interpreter; what changes from fleet to fleet is its model.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clary.supervisor import mount_trees
from clary.supervisor.cgroups import Cgroups
from clary.supervisor.fleet import Fleet, ZygoteSpec

SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64")
# World-readable files that programs look up; no secrets, no other users' names.
ETC_FILES = ("ld.so.cache", "localtime", "nsswitch.conf", "resolv.conf", "ssl", "ca-certificates", "mime.types")
DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))  # major 1
# Zygotes that have no rights: a uid each, after the range of the workers' uids.
ZYGOTE_UIDS = 64
TMP_BYTES = 512 << 20  # of a worker's own /tmp, and of its /dev/shm
# What a zygote without rights may hold: imports, no model.
ZYGOTE_MEMORY_BYTES, ZYGOTE_PIDS = 4 << 30, 1024
# The empty folders of such a zygote's root on which its children mount what is theirs.
STATIONS = (
    "/opt/ml/model",
    "/opt/ml/models",
    "/opt/ml/code",
    "/opt/ml/additional-model-data-sources",
    "/var/cache/clary",
)
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET = 0x10000000, 0x20000, 0x40000000


@dataclass(frozen=True, slots=True)
class Isolation:
    """What is in force, wall by wall; shown by `clary doctor` and in the endpoint's notes."""

    level: str  # "root" | "user" | "none"
    own_uid: bool
    private_root: bool
    private_network: bool
    hidden_processes: bool
    cgroup_version: int
    reason: str = ""  # why not stronger
    guests: bool = False  # zygotes of environments with packages of the user's choice: jailed, with uids of their own
    guests_reason: str = ""  # why not: workers of such environments are started plainly

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe(cgroups: Cgroups, allowed: bool) -> Isolation:
    """Tries the walls in a child and tells which held. `allowed=False` is the user's wish for none."""
    if not allowed:
        return Isolation("none", False, False, False, False, 0, "switched off by --isolation none")
    root = os.geteuid() == 0
    flags = CLONE_NEWNS | CLONE_NEWNET | (0 if root else CLONE_NEWUSER)
    error = _try_unshare(flags)
    if error:
        reason = f"unshare: {os.strerror(error)}"
        if root:
            return Isolation("root", True, False, False, False, cgroups.version, reason)
        return Isolation("none", False, False, False, False, 0, reason)
    if not root:
        told = "not root: no uid per endpoint, no control groups"
        return Isolation("user", False, True, True, False, 0, told, guests_reason="not root")
    hidden = _kernel() >= (5, 8)
    refusal = mount_trees.refusal(65534) if hidden else "Linux is older than 5.8"
    return Isolation("root", True, True, True, hidden, cgroups.version, "", not refusal, refusal)


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def _try_unshare(flags: int) -> int:
    """0, or the errno with which the kernel refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(flags) == 0 else min(ctypes.get_errno(), 255))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


class Jails:
    """Makes the jail of a worker; `prepare` comes first."""

    def __init__(self, isolation: Isolation, cgroups: Cgroups, folder: Path) -> None:
        self.isolation = isolation
        self._cgroups = cgroups
        self._folder = folder
        self._procs: dict[str, list[str]] = {}

    def prepare(self) -> None:
        """Makes what all jails share: a small /etc, a small /dev, an empty root."""
        if not self.isolation.private_root:
            return
        for name in ("root", "etc", "dev"):
            place = self._folder / name
            place.mkdir(exist_ok=True)
            place.chmod(0o755)
        etc = self._folder / "etc"
        for name in ETC_FILES:
            source = Path("/etc") / name
            if source.is_dir():
                shutil.copytree(source, etc / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("private"))
            elif source.exists():
                shutil.copyfile(source, etc / name)
        (etc / "passwd").write_text("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
        (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        if self.isolation.level == "root":
            for name, minor in DEVICES:
                node = self._folder / "dev" / name
                if not node.exists():
                    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, minor))
                    node.chmod(0o666)
            for link, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")):
                if not (self._folder / "dev" / link).is_symlink():
                    (self._folder / "dev" / link).symlink_to(target)
        (self._folder / "dev" / "shm").mkdir(exist_ok=True)

    def admit(self, fleet: Fleet) -> None:
        """Takes the fleet's limits: its first instance's control group is made now, so that a wake need not."""
        if self.isolation.cgroup_version:
            for name in [name for name in self._procs if name.startswith(group_name(fleet.limited_as) + "~")]:
                self._procs[name] = self._cgroups.create(name, fleet.memory_bytes, fleet.pids, fleet.cpus)
            self._group(fleet, 0)

    def _group(self, fleet: Fleet, instance: int) -> list[str]:
        """The files to join one instance's control group by; the group is made when it lacks."""
        name = group_name(fleet.limited_as, instance)
        if name not in self._procs:
            self._procs[name] = self._cgroups.create(name, fleet.memory_bytes, fleet.pids, fleet.cpus)
        return self._procs[name]

    def dismiss(self, fleet_name: str) -> bool:
        """Removes the fleet's control groups; False while a process is still in one."""
        mine = [name for name in self._procs if name.startswith(group_name(fleet_name) + "~")]
        for name in mine:
            if self._cgroups.remove(name):
                del self._procs[name]
        return not any(name in self._procs for name in mine)

    def kill(self, fleet_name: str) -> None:
        """Ends every process in the group of a fleet's first instance, whatever session it is in."""
        for pid in self._cgroups.processes(group_name(fleet_name, 0)) if self.isolation.cgroup_version else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def oom_kills(self, fleet_name: str, instance: int) -> int:
        return self._cgroups.oom_kills(group_name(fleet_name, instance)) if self.isolation.cgroup_version else 0

    def of(self, fleet: Fleet, instance: int | None) -> dict[str, Any]:
        """The `JailSpec` fields of a worker of `fleet`; a task has no instance and joins no control group."""
        walls = self.isolation
        groups = self._group(fleet, instance) if walls.cgroup_version and instance is not None else []
        return {**self.common(fleet.prefixes, fleet.network), **self.own(fleet), "cgroup_procs": groups}

    def common(self, prefixes: Sequence[str], network: bool) -> dict[str, Any]:
        """The walls that all workers of one environment share: they can be put up before one is known."""
        walls = self.isolation
        jail: dict[str, Any] = {"no_new_privs": walls.level != "none"}
        if walls.private_root:
            jail |= self._private_root(prefixes, TMP_BYTES)
        jail["private_network"] = walls.private_network and not network
        return jail

    def own(self, fleet: Fleet) -> dict[str, Any]:
        """The walls of a fleet's workers alone, inside the common ones."""
        walls = self.isolation
        jail: dict[str, Any] = {"rlimits": {"NOFILE": fleet.nofile, "CORE": 0}}
        if walls.own_uid:
            jail |= {"uid": fleet.uid, "gid": fleet.uid}
            jail["rlimits"]["NPROC"] = fleet.pids
        if walls.private_root:
            jail |= {
                "new_root": str(self._folder / "root"),
                "user_namespace": walls.level == "user",
                "own_binds": [list(bind) for bind in fleet.binds],
            }
        return jail

    def of_container(self, fleet: Fleet) -> dict[str, Any]:
        """The jail of a program that holds a container: ours, as root, because it enters the container's network."""
        return {"no_new_privs": True, "rlimits": {"NOFILE": fleet.nofile, "CORE": 0}}

    def groups(self, fleet: Fleet, instance: int) -> list[str]:
        """The files to join an instance's control group by; none where there are none."""
        return self._group(fleet, instance) if self.isolation.cgroup_version else []

    def of_guest(self, fleet: Fleet) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The jail of a child of a zygote without rights, and the folders (path, "ro" | "rw") grafted into it."""
        hidden = [path for path in fleet.prefixes if path.startswith(("/tmp/", "/dev/shm/"))]  # by its own tmpfs there
        jail = {
            "guest": True,
            "uid": fleet.uid,
            "gid": fleet.uid,
            "rlimits": {"NOFILE": fleet.nofile, "CORE": 0, "NPROC": fleet.pids},
            "tmp_bytes": TMP_BYTES,
            "grafts": [*hidden, *(target for _, target, _ in fleet.binds)],
        }
        return jail, [*((path, "ro") for path in hidden), *((source, mode) for source, _, mode in fleet.binds)]

    def of_zygote(self, spec: ZygoteSpec, uid: int) -> dict[str, Any]:
        """The jail of a zygote without rights: its environment and nothing else; no model, no capability."""
        walls = self.isolation
        name = zygote_group(spec)
        if walls.cgroup_version and name not in self._procs:
            self._procs[name] = self._cgroups.create(name, ZYGOTE_MEMORY_BYTES, ZYGOTE_PIDS, float(os.cpu_count() or 1))
        return {
            **self._private_root(spec.prefixes, 64 << 20),
            "uid": uid,
            "gid": uid,
            "no_new_privs": True,
            "rlimits": {"CORE": 0, "NPROC": ZYGOTE_PIDS},
            "cgroup_procs": self._procs.get(name, []),
            "private_network": walls.private_network and not spec.network,
            "folders": list(STATIONS),
        }

    def leave_zygote(self, spec: ZygoteSpec) -> None:
        """Removes the group of a zygote that has ended; one that is still busy stays until the same key ends again."""
        name = zygote_group(spec)
        if name in self._procs and self._cgroups.remove(name):
            del self._procs[name]

    def _private_root(self, prefixes: Sequence[str], tmp_bytes: int) -> dict[str, Any]:
        binds, links = [], []
        for name in SYSTEM_FOLDERS:
            path = Path("/") / name
            if path.is_symlink():
                links.append([os.readlink(path), str(path)])
            elif path.is_dir():
                binds.append([str(path), str(path), "ro"])
        binds.append([str(self._folder / "etc"), "/etc", "ro"])
        if self.isolation.level == "root":
            binds.append([str(self._folder / "dev"), "/dev", "ro"])
        else:  # without the right to make nodes: the host's own, one by one
            binds += [[f"/dev/{name}", f"/dev/{name}", "rw"] for name, _ in DEVICES]
            binds.append(["/proc", "/proc", "rw"])
        for prefix in prefixes:
            if not prefix.startswith("/usr/") and prefix != "/usr":
                binds.append([prefix, prefix, "ro"])
        return {
            "user_namespace": self.isolation.level == "user",
            "new_root": str(self._folder / "root"),
            "binds": binds,
            "links": links,
            "tmp_bytes": tmp_bytes,
            "mount_proc": self.isolation.hidden_processes,
        }


def zygote_group(spec: ZygoteSpec) -> str:
    """The control group of a zygote without rights."""
    return f"zygote~{spec.key}"


def group_name(fleet_name: str, instance: int | None = None) -> str:
    """A fleet's name, or one of its instances', as one file name."""
    return fleet_name.replace("/", "~") + ("" if instance is None else f"~{instance}")
