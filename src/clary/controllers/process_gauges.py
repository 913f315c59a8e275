"""CPU and memory of worker processes, read from /proc once a minute.

A worker leads a session of its own, so its processes are those whose session is its pid. CPU is user plus system time
since the last look; memory is the resident set of /proc/PID/statm, which counts pages that workers forked from one
zygote share in full for each of them (the exact share, smaps_rollup, costs milliseconds a process).
Gauges are never carried over a restart: the first look at a worker measures from its start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.domain.fleet_name import account_of

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Gauge:
    """One instance, all its containers, over the last look's time: CPU in percent of one core (so 0 to 100 times the
    cores), memory now."""

    fleet: str
    instance: int
    cpu_percent: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class _Process:
    session: int
    cpu_ticks: int
    resident_bytes: int


class ProcessGauges:
    """Looks at workers; keeps what their processor time was at the last look."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float]] = {}  # worker -> (cpu ticks, wall clock seconds)

    def look(self, workers: Iterable[Mapping[str, Any]], now_s: float) -> list[Gauge]:
        """The gauges of all instances with a living worker, as the supervisor's records name them."""
        sessions: dict[int, list[_Process]] = {}
        for process in _processes():
            sessions.setdefault(process.session, []).append(process)
        totals: dict[tuple[str, int], list[float]] = {}
        seen: dict[str, tuple[int, float]] = {}
        for worker in workers:
            mine = sessions.get(worker["pid"])
            if not worker["pid"] or not mine:
                continue
            ticks = sum(process.cpu_ticks for process in mine)
            before, since_s = self._before.get(worker["worker"], (0, worker["started_ns"] / 1e9))
            seen[worker["worker"]] = (ticks, now_s)
            elapsed_s = now_s - since_s
            total = totals.setdefault((account_of(worker["fleet"]), worker["instance"]), [0.0, 0.0])
            if elapsed_s > 0:  # a process of the session that ended takes its time with it: never below nothing
                total[0] += max(0, ticks - before) / _TICKS_PER_S / elapsed_s * 100
            total[1] += sum(process.resident_bytes for process in mine)
        self._before = seen
        return [Gauge(fleet, instance, cpu, int(memory)) for (fleet, instance), (cpu, memory) in totals.items()]


def _processes() -> Iterable[_Process]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        folder = Path(entry.path)
        try:
            # Field numbers of proc_pid_stat(5), counted behind the name in parentheses, which may hold anything.
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            pages = int((folder / "statm").read_bytes().split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        yield _Process(int(fields[3]), int(fields[11]) + int(fields[12]), pages * _PAGE_BYTES)
