"""Results as values, and the page that is written from them: `results.json` for programs, markdown for people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

INTRODUCTION = """\
# Performance

Written by `bench/run.py`; every number was measured by that program in one go on the machine below. A number that
falls short of its target is printed as it is. Absolute numbers belong to this machine: carry the ratios over.
"""

QUICK = """\
**Tables whose command says `--quick` come from few rounds and short windows: they show that it works, not how fast.**
"""

METHOD = """\
## Method, and its limits

* **Load.** `bench/load.py`, a process of its own on uvloop: closed loops over keep-alive connections, request bytes
  made once. Servers are pinned to one core and the load generator to another, except where a table says otherwise;
  all traffic is loopback or a unix socket. A closed loop tells what N busy clients get; it is no model of users who
  arrive independently.
* **Rounds.** What is compared is measured in interleaved rounds (A B C A B C ...), so that a slow minute of the machine
  hits all alike. Cells show the median of the rounds, and `min-max` in brackets where there were several.
* **CPU per request** is user + system time of the process (or tree) over the window, from /proc/PID/stat, divided by
  the answers with status 200 in that window.
* **Memory** is PSS from /proc/PID/smaps_rollup, summed over the tree.
* **Signatures.** Signed requests carry one SigV4 signature made beforehand; the server verifies it every time anew.
* **Peers** run one server process with default settings, in an environment of their own, with models trained there
  from the same data and seeds. Where the table says batching, it is the peer's own documented way.
* The generator is written in Python: one connection's round trip includes some 20 us of its own, and it tops out
  at some 60,000 requests/s, so rates near that are lower bounds.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the page. `raw` holds the rounds behind its cells."""

    name: str
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    raw: Any
    load_before: str = ""
    load_after: str = ""
    command: str = ""
    seconds: float = 0.0


def spread(values: Iterable[float], digits: int = 0) -> str:
    """Median, and min-max where there are several values."""
    found = sorted(values)
    if not found:
        return ""
    middle = f"{statistics.median(found):,.{digits}f}"
    if len(found) < 2:
        return middle
    return f"{middle} ({found[0]:,.{digits}f}-{found[-1]:,.{digits}f})"


def verdict(value: float, target: float, at_most: bool, unit: str) -> str:
    """ "1.2 ms, target <= 1.0 ms: missed"."""
    met = value <= target if at_most else value >= target
    sign = "<=" if at_most else ">="
    return f"{value:,.2f} {unit}, target {sign} {target:,g} {unit}: {'met' if met else 'MISSED'}"


def page(machine: dict[str, Any], tables: Sequence[Table]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    if any("--quick" in table.command for table in tables):
        parts.append(QUICK)
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts.append(
        f"""\
## Machine

{machine["processor"]}, {machine["cores"]} cores, {machine["memory"]}, {machine["system"]}, {machine["kernel"]},
Python {machine["python"]}, run as {machine["user"]}. {packages}; commit {machine["commit"]}.
Measured on {time.strftime("%Y-%m-%d", time.gmtime())}.
"""
    )
    parts += [_section(table) for table in tables]
    parts.append(METHOD)
    return "\n".join(parts)


def _section(table: Table) -> str:
    lines = [f"## {table.title}", ""]
    lines += [_row(table.headers), _row(["---"] * len(table.headers)), *(_row(row) for row in table.rows), ""]
    lines += [f"* {note}" for note in table.notes]
    lines += [
        "",
        f"`{table.command}`; took {table.seconds:,.0f} s; "
        f"load average {table.load_before} before, {table.load_after} after.",
        "",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
