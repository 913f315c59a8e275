"""Puts up the walls around the calling process, then (as a program) executes what was asked.

A worker is jailed before it opens a file of the user's: own cgroup, own mount tree with nothing in it but the
interpreter, the environment and its own model (read-only), own network without a route, own uid, no way to gain
privileges. The calls are made straight to the C library because a fork must stay a matter of milliseconds: the
whole of `enter` costs about two.

Run as a program (`python -I -S jail.py FD`) it reads a JSON order from descriptor FD, enters the jail and
executes `argv`: so a process of an untrusted environment never runs one of its lines before the walls stand.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import sys
from typing import Any, Dict

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = (
    0x20000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x40000000,
)
MS_NOEXEC, MS_NOATIME, MS_NODIRATIME, MS_RELATIME, ST_RELATIME = 8, 1024, 2048, 1 << 21, 4096
MNT_DETACH = 2
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 38, 4
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


class JailError(OSError):
    """A wall could not be put up; `stage` names it. The process must not go on."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(error.errno, "jail: %s: %s" % (stage, error.strerror or error))
        self.stage = stage


def _check(result: int, stage: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise JailError(stage, OSError(code, os.strerror(code)))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        "mount %s on %s" % (source, target),
    )


def enter(jail: Any) -> None:
    """Puts up every wall that `jail` (a `JailSpec`, or any object with its fields) asks for, in the one safe order.

    Raises: JailError naming the wall. After it the process must exit: some walls may stand.
    """
    for path in jail.cgroup_procs:
        _join_cgroup(path)
    prepare(jail)
    finish(jail)


def prepare(jail: Any) -> None:
    """The walls that all workers of an environment have in common: namespaces, and a root that is not yet moved to.

    Raises: as `enter`.
    """
    flags = 0
    if jail.user_namespace:
        flags |= CLONE_NEWUSER
    if jail.new_root:
        flags |= CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
    if jail.private_network:
        flags |= CLONE_NEWNET
    uid, gid = os.getuid(), os.getgid()
    if flags:
        _check(_libc.unshare(flags), "unshare")
    if jail.user_namespace:
        _map_user(uid, gid)
    if jail.private_network:
        _loopback_up()
    if jail.new_root:
        _build_root(jail)
    if jail.no_new_privs:
        _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def finish(jail: Any) -> None:
    """What is one worker's own: its files, the way into the root that was prepared, its limits and its uid.

    Raises: as `enter`.
    """
    if jail.new_root:
        for source, target, mode in jail.own_binds:
            _bind(jail, source, target, mode)
        _move_into(jail.new_root)
    limit(jail.rlimits)
    if jail.gid >= 0:
        os.setgroups([])
        os.setresgid(jail.gid, jail.gid, jail.gid)
    if jail.uid >= 0:
        os.setresuid(jail.uid, jail.uid, jail.uid)


def limit(rlimits: Dict[str, int]) -> None:
    """Soft and hard limits, never above what the hard limit is."""
    for name, value in rlimits.items():
        which = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(which)
        both = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (both, both))


def _join_cgroup(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise JailError("cgroup %s" % path, error) from error
    try:
        os.write(descriptor, b"0")
    except OSError as error:
        raise JailError("cgroup %s" % path, error) from error
    finally:
        os.close(descriptor)


def _map_user(uid: int, gid: int) -> None:
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", "%d %d 1" % (uid, uid)),
        ("gid_map", "%d %d 1" % (gid, gid)),
    ):
        try:
            with open("/proc/self/" + name, "w") as file:
                file.write(line)
        except OSError as error:
            raise JailError(name, error) from error


def _loopback_up() -> None:
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", IFF_UP)
        try:
            fcntl.ioctl(probe, SIOCSIFFLAGS, request)
        except OSError as error:
            raise JailError("loopback", error) from error


def _private_tmp(place: str, size_bytes: int) -> None:
    os.makedirs(place, exist_ok=True)
    _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=%d,mode=1777" % size_bytes)


def _mount_flags(path: str) -> int:
    """The flags a remount must repeat: an unprivileged one may not take off what the host has put on."""
    held = os.statvfs(path).f_flag
    return (held & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME)) | (
        MS_RELATIME if held & ST_RELATIME else 0
    )


def _build_root(jail: Any) -> None:
    root = jail.new_root
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    if jail.tmp_bytes:
        _private_tmp(root + "/tmp", jail.tmp_bytes)  # before the binds: some may lie below the host's /tmp
    for source, target, mode in jail.binds:
        _bind(jail, source, target, mode)
    for path in jail.folders:
        os.makedirs(root + path, exist_ok=True)
    for target, path in jail.links:
        os.makedirs(os.path.dirname(root + path) or root, exist_ok=True)
        os.symlink(target, root + path)
    if jail.tmp_bytes:
        _private_tmp(root + "/dev/shm", jail.tmp_bytes)
    if jail.mount_proc:
        os.makedirs(root + "/proc", exist_ok=True)
        # hidepid is a property of this mount alone since Linux 5.8; the supervisor asks for it only there.
        _mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV, "hidepid=2")


def _bind(jail: Any, source: str, target: str, mode: str) -> None:
    place = jail.new_root + target
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0o644))
    _mount(source, place, "", MS_BIND | (MS_REC if jail.user_namespace else 0))
    if mode == "ro":
        keep = _mount_flags(place) | (0 if target == "/dev" else MS_NODEV)
        _mount("none", place, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | keep)


def _move_into(root: str) -> None:
    os.chdir(root)
    number = SYS_PIVOT_ROOT.get(platform.machine(), -1)
    _check(_libc.syscall(number, b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "leave the old root")
    os.chdir("/")
    _mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


class _Order:
    """The jail part of an order with `JailSpec`'s defaults, without importing dataclasses."""

    uid = gid = -1
    user_namespace = mount_proc = private_network = False
    new_root = ""
    binds: Any = ()
    own_binds: Any = ()
    links: Any = ()
    folders: Any = ()
    tmp_bytes = 0
    cgroup_procs: Any = ()
    rlimits: Dict[str, int] = {}  # noqa: RUF012 - read only
    no_new_privs = True

    def __init__(self, fields: Dict[str, Any]) -> None:
        self.__dict__.update(fields)


def main() -> None:
    """Reads an order {"jail", "argv", "environ", "cwd"} from the descriptor in argv[1] and becomes it."""
    descriptor = int(sys.argv[1])
    with os.fdopen(descriptor, "rb") as file:
        order = json.loads(file.read())
    try:
        enter(_Order(order["jail"]))
        os.chdir(order.get("cwd", "/"))
        os.execve(order["argv"][0], order["argv"], order["environ"])
    except OSError as error:
        sys.stderr.write("%s\n" % error)
        sys.stderr.flush()
        os._exit(71)  # EX_OSERR: the supervisor reads it as "could not be jailed or executed"


if __name__ == "__main__":
    main()
