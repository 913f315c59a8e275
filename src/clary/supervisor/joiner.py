"""Puts forked workers into their control groups, on a thread of its own.

Moving a process between groups waits for every processor to pass a quiet point: about 10 ms when nobody has done it
lately, and in version 1 there is no way to be born in the right group. So the worker does not wait for it: it loads
its model meanwhile, and what it has allocated by then is little. What it may have forked meanwhile is moved after it.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

MAX_WAITING = 4096


class Joiner:
    """`join` returns at once; the moves happen in order."""

    def __init__(self) -> None:
        self._orders: queue.Queue[tuple[int, Sequence[str]]] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._run, name="cgroup-join", daemon=True).start()

    def join(self, pid: int, groups: Sequence[str]) -> None:
        """Moves `pid`, and the children it has by then, into the groups whose cgroup.procs files are given."""
        self._orders.put_nowait((pid, groups))

    def _run(self) -> None:
        while True:
            pid, groups = self._orders.get()
            try:
                _move(pid, groups)
                for child in _children(pid):
                    _move(child, groups)
            except OSError as error:
                sys.stderr.write(f"pid={pid} event=cgroup_join_failed reason={error}\n")


def _move(pid: int, groups: Sequence[str]) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            Path(group).write_text(str(pid))


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
