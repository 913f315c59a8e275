"""The walls of a worker whose zygote has no rights: a user namespace of its own inside the zygote's jail.

An environment with packages of the user's choice is never imported by a privileged process, so its zygote is jailed
before its first import and can neither change its uid nor mount anything. A child of it leaves into a user namespace,
asks the supervisor to map the endpoint's own uid there (only who is root outside may), becomes that uid, and hangs the
mount trees that came as descriptors (its model, read-only) into a mount namespace that nobody else sees. About 1 ms.

The trees are clones made with open_tree(2): detached from every other mount, so that no ".." leads out of them.
Needs Linux 5.12 (mount_setattr) and user namespaces; the supervisor tries it once before it relies on it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any, Callable, Sequence

from .jail import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS, MS_NODEV, MS_NOSUID, JailError, limit

SYS_MOVE_MOUNT = 429  # the same number on every architecture
MOVE_MOUNT_F_EMPTY_PATH = 4
AT_FDCWD = -100
_CAPABILITY_VERSION_3 = 0x20080522
STATION_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """Leaves into namespaces of its own, before any thread exists. Raises: JailError."""
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS), "unshare")


def finish(jail: Any, trees: Sequence[int], await_mapping: Callable[[], None]) -> None:
    """Becomes the endpoint's uid; `trees` are the descriptors of `jail.grafts`, in that order.

    Raises: JailError naming the wall, OSError when the supervisor does not answer. The process must then exit.
    """
    await_mapping()
    limit(jail.rlimits)
    os.setgroups([])
    os.setresgid(jail.gid, jail.gid, jail.gid)
    os.setresuid(jail.uid, jail.uid, jail.uid)
    for place in ("/tmp", "/dev/shm"):
        _tmpfs(place, jail.tmp_bytes)
    for number, target in enumerate(jail.grafts):  # after them: an environment may lie below /tmp
        _graft(trees[number], target)
        os.close(trees[number])
    _drop_capabilities()


def _check(result: int, stage: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise JailError(stage, OSError(code, os.strerror(code)))


def _tmpfs(place: str, size_bytes: int) -> None:
    data = b"size=%d,mode=1777" % size_bytes
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV)
    _check(_libc.mount(b"tmpfs", place.encode(), b"tmpfs", flags, data), "mount tmpfs on " + place)


def _graft(tree: int, target: str) -> None:
    if not os.path.isdir(target):
        place = os.path.dirname(target)
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        if not os.access(place, os.W_OK):  # an empty folder that was made for names of the user's
            _tmpfs(place, STATION_BYTES)
        os.makedirs(target)
    result = _libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    _check(min(result, 0), "mount a tree on " + target)


def _drop_capabilities() -> None:
    """What the user namespace gave has served its purpose; the model's code runs without."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "drop capabilities")
