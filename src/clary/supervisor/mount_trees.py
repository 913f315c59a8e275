"""Folders as descriptors of detached mount trees: what a guest's jail hangs into its own mount namespace.

open_tree(2) clones the mount of one folder, belonging to no namespace, so that whoever holds the descriptor reaches
that folder and nothing above it; mount_setattr(2) makes the clone read-only. Linux 5.12; as root only.
"""

from __future__ import annotations

import ctypes
import os
import struct

SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # the same numbers on every architecture
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
MOVE_MOUNT_F_EMPTY_PATH = 4
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


def open_tree(path: str, mode: str) -> int:
    """A descriptor of a clone of `path`'s mount, `mode` "ro" or "rw". Raises: OSError."""
    tree = _called(SYS_OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        bits = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if mode == "ro" else 0)
        attributes = struct.pack("QQQQ", bits, 0, 0, 0)
        _called(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree


def refusal(uid: int) -> str:
    """Why a process without rights cannot mount such a tree in a user namespace of its own here; "" when it can."""
    try:
        tree = open_tree("/usr", "ro")
    except OSError as error:
        return f"open_tree: {error.strerror}"
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            code = _try_graft(tree, uid)
        finally:
            os._exit(code)
    os.close(tree)
    _, status = os.waitpid(pid, 0)
    error_number = os.waitstatus_to_exitcode(status)
    return f"a mount in an unprivileged user namespace: {os.strerror(error_number)}" if error_number else ""


def _try_graft(tree: int, uid: int) -> int:
    """0 or the errno; never returns into the supervisor's code."""
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
            return ctypes.get_errno()
        _called(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, b"/usr", MOVE_MOUNT_F_EMPTY_PATH)
    except OSError as error:
        return error.errno or 255
    return 0


def _called(*arguments: int | bytes) -> int:
    result: int = _libc.syscall(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
