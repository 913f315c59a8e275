"""Programs that run to their end on control's behalf: unpacking an archive, building an environment.

    {"id": 9, "op": "task", "argv": [...], "environ": {...}, "cwd": "/", "files": [path, ...], "timeout_s": 60,
     "stdin": text, "jail": null | {fleet record}, "name": "of its own control group"}
    <- {"id": 9, "ok": true, "code": 0, "output": "the last 64 KiB of stdout and stderr", "oom_killed": false}

"{fd0}" in argv stands for the number under which files[0] is open for reading. A task whose client has left goes on.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.supervisor import processes
from clary.supervisor.channel import Peer

OUTPUT_BYTES = 64 * 1024
FIRST_FILE = 8


@dataclass(slots=True)
class Task:
    pid: int
    peer: Peer
    request_id: Any
    output: int
    deadline_mono_s: float
    name: str = ""
    timed_out: bool = False


class Tasks:
    """The running ones; the supervisor's loop calls `exited` and `expire`."""

    def __init__(self, selector: selectors.BaseSelector, logs: Path, leave: Callable[[str], int]) -> None:
        self._selector = selector
        self._logs = logs
        self._leave = leave  # puts away what a task with a name leaves; how many of its processes memory has ended
        self._tasks: dict[int, Task] = {}

    def start(self, peer: Peer, request: dict[str, Any], jail: dict[str, Any] | None) -> None:
        """Starts it; the answer is sent when it ends. Raises: OSError, KeyError."""
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in request.get("files", [])]
        numbers = {f"{{fd{i}}}": str(FIRST_FILE + i) for i in range(len(files))}
        argv = [numbers.get(word, word) for word in request["argv"]]
        order = {"jail": jail or {"no_new_privs": False}, "argv": argv, "environ": request.get("environ", {})}
        order["cwd"] = request.get("cwd", "/")
        memory = processes.memory_file(order)
        stdin = processes.memory_file(str(request.get("stdin", "")))
        program = str(Path(__file__).parents[2] / "clary_worker" / "jail.py")
        descriptors = {0: stdin, 1: output, 2: output, 4: memory} | {
            FIRST_FILE + i: file for i, file in enumerate(files)
        }
        try:
            pid = processes.start([sys.executable, "-I", "-S", program, "4"], {"PATH": "/usr/bin:/bin"}, descriptors)
        except OSError:
            os.close(output)
            raise
        finally:
            os.close(memory)
            os.close(stdin)
            for file in files:
                os.close(file)
        deadline = time.monotonic() + float(request.get("timeout_s", 3600))
        self._tasks[pid] = Task(pid, peer, request.get("id"), output, deadline, str(request.get("name", "")))

    def exited(self, pid: int, status: int) -> bool:
        """True when `pid` was a task; its client is answered."""
        task = self._tasks.pop(pid, None)
        if task is None:
            return False
        size = os.fstat(task.output).st_size
        text = os.pread(task.output, OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode(errors="replace")
        os.close(task.output)
        facts = processes.exit_facts(status)
        oom_kills = self._leave(task.name) if task.name else 0
        task.peer.send(
            {
                "id": task.request_id,
                "ok": True,
                "code": facts.get("code", -1),
                "facts": facts,
                "timed_out": task.timed_out,
                "oom_killed": oom_kills > 0,
                "output": text,
            }
        )
        return True

    def deadlines(self) -> list[float]:
        return [task.deadline_mono_s for task in self._tasks.values()]

    def expire(self, now: float) -> None:
        for task in self._tasks.values():
            if now >= task.deadline_mono_s:
                task.timed_out = True
                task.deadline_mono_s = now + 5.0
                processes.end(task.pid, signal.SIGKILL)

    def stop(self) -> None:
        for task in self._tasks.values():
            processes.end(task.pid, signal.SIGKILL)
