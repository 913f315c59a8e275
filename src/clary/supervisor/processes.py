"""Starting, recognising and ending processes. No shell, no inherited descriptor, no inherited variable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JAIL_PROGRAM = str(Path(__file__).parents[2] / "clary_worker" / "jail.py")
_HIGH = 64  # sources are moved above this before they are put on their numbers, so that none overwrites another


def start(argv: Sequence[str], environ: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Starts `argv` in a session of its own; the pid. `descriptors` maps its numbers to ours; stdin is /dev/null.

    Raises: OSError when it cannot be executed.
    """
    moved = {number: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH) for number, ours in descriptors.items()}
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, ours, number) for number, ours in moved.items()]
        return os.posix_spawn(
            argv[0],
            list(argv),
            dict(environ),
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD),
        )
    finally:
        os.close(null)
        for ours in moved.values():
            os.close(ours)


def start_jailed(
    argv: Sequence[str], environ: Mapping[str, str], descriptors: Mapping[int, int], jail: Mapping[str, Any]
) -> int:
    """As `start`, behind the walls of `jail` (`JailSpec` fields), which our own interpreter puts up first.

    Number 4 is taken by the order itself. Raises: OSError when it cannot be executed.
    """
    order = memory_file({"jail": jail, "argv": list(argv), "environ": dict(environ)})
    try:
        launcher = [sys.executable, "-I", "-S", JAIL_PROGRAM, "4"]
        return start(launcher, {"PATH": "/usr/bin:/bin"}, {**descriptors, 4: order})
    finally:
        os.close(order)


def start_time(pid: int) -> int:
    """Clock ticks since boot at which `pid` started (proc(5), stat field 22); 0 when it is gone.

    With the boot id this names a process for good, where a pid alone may be reused.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def uids(pid: int) -> tuple[int, ...]:
    """Real, effective, saved and file system uid of `pid`; () when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            line = next(line for line in file if line.startswith("Uid:"))
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(int(word) for word in line.split()[1:])


def map_uid(pid: int, uid: int) -> None:
    """Gives `pid`, which has just entered a user namespace, the one uid and gid that it may be there.

    Raises: OSError when it has one already, is gone, or we lack the right.
    """
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(f"{uid} {uid} 1")


def wall_ns(start_ticks: int) -> int:
    """A `start_time` on the wall clock, in nanoseconds, rounded down to a tick (mostly 10 ms)."""
    ago_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - start_ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - ago_ns


def favour(pid: int, nice: int) -> None:
    """Sets the niceness of the session that `pid` leads against other sessions (sched(7), "The autogroup feature"):
    where the kernel shares the cores out by session, a process's own niceness counts only within its session.

    Nothing where the kernel has no such thing, or /proc cannot be written: it goes slower then, not wrong.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/autogroup", "w") as file:
        file.write(str(nice))


def end(pid: int, number: int) -> None:
    """Signals the whole session that `pid` leads, and `pid` itself should it not lead one yet.

    Raises: ValueError for 0, 1 and below, which the kernel reads as our own group, init, or everybody.
    """
    if pid <= 1:
        raise ValueError(f"{pid} is no process of ours")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def become_subreaper() -> None:
    """Makes orphaned descendants ours to reap (prctl PR_SET_CHILD_SUBREAPER)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def exit_facts(status: int) -> dict[str, int | str]:
    """{"code": n} or {"signal": n, "name": "SIGKILL"} of a wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return {"code": code}
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return {"signal": -code, "name": name}


def memory_file(content: str | Mapping[str, Any]) -> int:
    """A descriptor of a file in memory, to be read from its start: a text, or an order as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    descriptor = os.memfd_create("order", os.MFD_CLOEXEC)
    view = memoryview(text.encode())
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
