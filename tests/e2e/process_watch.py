"""`python process_watch.py`: which workers live, as somebody sees it who knows only the process table.

Reads a folder's name from standard input and says "watching". Until standard input ends, looks every 50 ms at what has
a file below that folder as its standard output (a worker's log is named by its id). Then prints one JSON object, wall
clock:

    {"late_ns": by how much its latest look was late,
     "lives": {worker id: {"unseen_ns", "found_ns", "seen_ns", "gone_ns"}}}

The start lies between the looks unseen_ns and found_ns (a process may have waited, as nobody's, before it became the
worker), the end between the looks seen_ns and gone_ns (null: it lives).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path

EVERY_S = 0.05


def worker_of(pid: str, folder: str) -> str:
    """The worker that the process belongs to; empty when to none."""
    try:
        out = os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""
    return Path(out).stem if out.startswith(folder) else ""


def lives(pid: str) -> bool:
    """Whether the process is there; one that only waits to be reaped is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def main() -> None:
    folder = sys.stdin.readline().strip()
    seen: dict[str, dict[str, int | None]] = {}
    last, late_ns, due_ns = False, 0, time.monotonic_ns()
    before_ns = time.time_ns()
    print("watching", flush=True)
    while True:
        late_ns = max(late_ns, time.monotonic_ns() - due_ns)
        now: dict[str, int] = {}  # worker -> when it was seen to live, in this look
        for pid in filter(str.isdigit, os.listdir("/proc")):
            worker = worker_of(pid, folder)
            if worker and lives(pid):
                now[worker] = time.time_ns()
        at_ns = time.time_ns()
        for worker in now.keys() - seen.keys():
            seen[worker] = {"unseen_ns": before_ns, "found_ns": at_ns, "seen_ns": 0, "gone_ns": None}
        before_ns = at_ns
        for worker, life in seen.items():
            if worker in now:
                life["seen_ns"], life["gone_ns"] = now[worker], None
            elif life["gone_ns"] is None:
                life["gone_ns"] = at_ns
        if last:
            break
        due_ns = time.monotonic_ns() + int(EVERY_S * 1e9)
        last = bool(select.select([sys.stdin], [], [], EVERY_S)[0])
    print(json.dumps({"late_ns": late_ns, "lives": seen}))


if __name__ == "__main__":
    main()
