"""What this machine is, and what a tree of processes on it costs: CPU time, memory, open files.

Everything is read from /proc. CPU time is user + system of every thread of every process that lives at the moment of
reading, from /proc/PID/stat: a tick is 10 ms, so windows are kept at a second and more. Memory is PSS (proportional
set size): pages that a worker shares with its zygote are counted once over the tree, not once a process.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PACKAGES = ("clary", "uvloop", "httptools", "botocore", "scikit-learn", "xgboost-cpu", "onnxruntime", "numpy")


def cores() -> tuple[int, int]:
    """(core of the servers, core of the load generator); the same one where there is no second."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1] if len(allowed) > 1 else allowed[0]


def describe() -> dict[str, Any]:
    """Facts that a reader needs to place the numbers."""
    facts = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo")}
    memory = {line.partition(":")[0]: line.split()[1] for line in _lines("/proc/meminfo")}
    return {
        "processor": facts.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{int(memory['MemTotal']) / 1024**2:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": next((x.partition("=")[2].strip('"') for x in _lines("/etc/os-release") if "PRETTY" in x), "unknown"),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "not root",
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit that is measured, marked when the tree differs from it."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except FileNotFoundError:
        return "unknown (no git)"
    return found.stdout.strip() or "unknown (no checkout)"


def load_average() -> str:
    """The 1-minute load average, as text."""
    return f"{os.getloadavg()[0]:.2f}"


# -- trees of processes --------------------------------------------------------------------------


def parents() -> dict[int, int]:
    """pid -> parent's pid, of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(folder.name))
        if stat:
            found[int(folder.name)] = int(stat[1])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name; [] when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int) -> set[int]:
    """The process and everything below it."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found, todo = set(), [root]
    while todo:
        pid = todo.pop()
        if _stat(pid):
            found.add(pid)
        todo += children.get(pid, [])
    return found


def carrying(variable: str) -> set[int]:
    """Processes whose first environment holds `NAME=VALUE`: all that a program of ours started, daemons included."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or somebody else's
    return found


def kill(pids: Iterable[int]) -> None:
    """Kills processes of ours at once; those that are gone already are not missed."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, of children that they have reaped too."""
    ticks = 0
    for pid in pids:
        ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / TICKS_PER_S


def busy_s() -> float:
    """CPU time of the whole machine so far, whoever had it (proc(5), stat: all but idle and waiting for a disk)."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + interrupts + soft) / TICKS_PER_S


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size of the processes together."""
    total_kib = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        total_kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib / 1024


def forget_peak(pid: int) -> None:
    """Begins the watch of `peak_mib` anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The largest resident set since the process began, or since `forget_peak`; shared pages are counted in full."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def open_files(pid: int) -> int:
    """Descriptors that the process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def pin(pids: Iterable[int], core: int) -> None:
    """Every thread of the processes onto one core; threads and children that come later inherit it."""
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for thread in threads:
            try:
                os.sched_setaffinity(int(thread), {core})
            except ProcessLookupError:
                continue  # it ended while we looked


def end(process: subprocess.Popen[Any], limit_s: float = 10.0) -> None:
    """Ends a process of ours and all below it: asked first, then killed, by pid."""
    below = tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(limit_s)
    kill(below - {process.pid})


def wait_until(condition: Callable[[], Any], limit_s: float, what: str, every_s: float = 0.005) -> Any:
    """The first truthy value of `condition()`. Raises: TimeoutError naming what was waited for."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:g} s for {what}")
        time.sleep(every_s)


def say(text: str) -> None:
    """Progress, for whoever watches."""
    sys.stderr.write(time.strftime("%H:%M:%S ") + text + "\n")
    sys.stderr.flush()
