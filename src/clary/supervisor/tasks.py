"""Programs that run to their end on control's behalf: unpacking an archive, building an environment.

    {"id": 9, "op": "task", "argv": [...], "environ": {...}, "cwd": "/", "files": [path, ...], "timeout_s": 60,
     "stdin": text, "jail": null | {fleet record}, "name": "of its own control group",
     "unpack": null | {"destination": path, "max_bytes": n}}
    <- {"id": 9, "ok": true, "code": 0, "output": "the last 64 KiB of stdout and stderr", "oom_killed": false}

With "unpack" the warm unpacker may do what argv says, in less time; "lost" in the answer tells that it ended meanwhile.
"{fd0}" in argv stands for the number under which files[0] is open for reading. A task whose client has left goes on.
"""

from __future__ import annotations

import itertools
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
from clary.supervisor.unpackers import Unpacker

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

    def __init__(
        self, selector: selectors.BaseSelector, logs: Path, leave: Callable[[str], int] = lambda _name: 0
    ) -> None:
        self._selector = selector
        self._logs = logs
        self._leave = leave  # puts away what a task with a name leaves; how many of its processes memory has ended
        self._tasks: dict[int, Task] = {}
        self._unpacked: dict[int, Task] = {}  # by order
        self._orders = itertools.count(1)
        self._unpacker = Unpacker(selector, logs / "unpacker.log", self._unpacker_said)

    def start(self, peer: Peer, request: dict[str, Any], jail: dict[str, Any] | None) -> None:
        """Starts it; the answer is sent when it ends. Raises: OSError, KeyError."""
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in request.get("files", [])]
        deadline = time.monotonic() + float(request.get("timeout_s", 3600))
        if request.get("unpack"):
            number = next(self._orders)
            order = {"id": number, "jail": jail or {"no_new_privs": False}, **request["unpack"]}
            if self._unpacker.order(order, [files[0], output]):
                self._unpacked[number] = Task(0, peer, request.get("id"), output, deadline)
                os.close(files[0])
                return
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
        self._tasks[pid] = Task(pid, peer, request.get("id"), output, deadline, str(request.get("name", "")))

    @property
    def unpacker_pid(self) -> int:
        """0 while there is none."""
        return self._unpacker.pid

    def keep_unpacker(self, kept: bool) -> None:
        """Whether the warm unpacker stays without archives."""
        self._unpacker.keep(kept)

    def exited(self, pid: int, status: int) -> bool:
        """True when `pid` was a task, whose client is then answered, or the unpacker."""
        if self._unpacker.pid and pid == self._unpacker.pid:
            self._unpacker.died()
            lost, self._unpacked = self._unpacked, {}
            for task in lost.values():
                if task.pid:
                    processes.end(task.pid, signal.SIGKILL)  # it writes where another will begin anew
                self._answer(task, {"code": -1}, lost=True)
            return True
        done = self._tasks.pop(pid, None)
        if done is None:
            return False
        self._answer(done, processes.exit_facts(status))
        return True

    def _unpacker_said(self, message: dict[str, Any]) -> None:
        if "forked" in message and message["forked"] in self._unpacked:
            self._unpacked[message["forked"]].pid = message["pid"]
        elif "exited" in message:
            done = self._unpacked.pop(message["exited"], None)
            if done is not None:
                self._answer(done, processes.exit_facts(message["status"]))

    def _answer(self, task: Task, facts: dict[str, Any], lost: bool = False) -> None:
        size = os.fstat(task.output).st_size
        text = os.pread(task.output, OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode(errors="replace")
        os.close(task.output)
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
                "lost": lost,
            }
        )

    def deadlines(self) -> list[float]:
        found = [task.deadline_mono_s for task in (*self._tasks.values(), *self._unpacked.values())]
        idle = self._unpacker.deadline()
        return [*found, idle] if idle is not None and not self._unpacked else found

    def expire(self, now: float) -> None:
        for task in (*self._tasks.values(), *self._unpacked.values()):
            if now >= task.deadline_mono_s:
                task.timed_out = True
                task.deadline_mono_s = now + 5.0
                if task.pid:
                    processes.end(task.pid, signal.SIGKILL)
                else:
                    self._unpacker.stop()  # it has not even forked
        idle = self._unpacker.deadline()
        if idle is not None and now >= idle and not self._unpacked:
            self._unpacker.stop()

    def stop(self) -> None:
        for task in (*self._tasks.values(), *self._unpacked.values()):
            if task.pid:
                processes.end(task.pid, signal.SIGKILL)
        self._unpacker.stop()
