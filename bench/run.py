"""`make bench`: measures clary, and its peers beside it, and writes docs/performance.md and bench/results.json.

Each subject is a room of its own that returns one or more tables; a subject that fails is reported with its reason and
the others go on. `--only` runs some of them and takes the rest of the page from the last results.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import asynchronous
import batching
import create
import data_path
import footprint
import machine
import multimodel
import peers.table
import report
import transform
import uploads
import wake
from report import Table
from scale import FULL, QUICK, Scale

ROOT = Path(__file__).parent.parent
SUBJECTS = (
    "data_path",
    "peers",
    "batching",
    "wake",
    "create",
    "uploads",
    "multimodel",
    "multimodel_peers",
    "asynchronous",
    "transform",
    "footprint",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and short windows: does it work, not how fast")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="measure this alone (may be repeated)")
    parser.add_argument("--peers", default="", help=f"of the peers only these: {','.join(peers.table.names())}")
    parser.add_argument("--seconds", type=float, help="length of one window of load")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results.json", help="where results go")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="where the page goes")
    given = parser.parse_args()
    unknown = set(filter(None, given.peers.split(","))) - set(peers.table.names())
    if unknown:
        parser.error(f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(peers.table.names())}")
    return given


def scale_of(given: argparse.Namespace) -> Scale:
    scale = QUICK if given.quick else FULL
    if given.seconds:
        scale = replace(scale, seconds=given.seconds)
    return replace(scale, rounds=given.rounds) if given.rounds else scale


def measured(name: str, given: argparse.Namespace, scale: Scale) -> list[Table]:
    """The tables of one subject, each with its command, its load averages and its time."""
    chosen = tuple(filter(None, given.peers.split(","))) or peers.table.names()
    subjects: dict[str, Callable[[], list[Table]]] = {
        "data_path": lambda: [data_path.table(scale)],
        "peers": lambda: peers.table.tables(scale, chosen),
        "batching": lambda: [batching.table(scale)],
        "wake": lambda: [wake.table(scale)],
        "create": lambda: [create.table(scale)],
        "uploads": lambda: [uploads.table(scale)],
        "multimodel": lambda: [multimodel.table(scale)],
        "multimodel_peers": lambda: [multimodel.beside(scale)],
        "asynchronous": lambda: [asynchronous.table(scale)],
        "transform": lambda: [transform.table(scale)],
        "footprint": lambda: [footprint.table(scale)],
    }
    machine.say(f"{name}: load average {machine.load_average()}")
    before, started_s = machine.load_average(), time.monotonic()
    tables = subjects[name]()
    facts = {
        "load_before": before,
        "load_after": machine.load_average(),
        "command": shlex.join(["python", "bench/run.py", *sys.argv[1:]]),
        "seconds": time.monotonic() - started_s,
    }
    return [replace(table, **facts) for table in tables]


def failed(name: str, error: Exception) -> Table:
    """A table that says why there is none."""
    machine.say(f"{name}: FAILED: {type(error).__name__}: {error}")
    reason = f"{type(error).__name__}: {error}"
    return Table(name, f"{name}: not measured", ("reason",), [(reason,)], (), None, machine.load_average())


def previous(path: Path, names: tuple[str, ...]) -> list[Table]:
    """Tables of an earlier run of subjects that are not measured now."""
    if not path.exists():
        return []
    return [Table(**table) for table in json.loads(path.read_text())["tables"] if table["name"] in names]


def write(given: argparse.Namespace, facts: dict[str, Any], tables: list[Table]) -> None:
    ordered = sorted(tables, key=lambda table: SUBJECTS.index(table.name))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "tables": [asdict(table) for table in ordered]}
    given.json.write_text(json.dumps(document, indent=1) + "\n")
    given.page.parent.mkdir(parents=True, exist_ok=True)
    given.page.write_text(report.page(facts, ordered))


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that every server is stopped
    scale = scale_of(given)
    names = tuple(given.only or SUBJECTS)
    facts = machine.describe()
    tables = previous(given.json, tuple(name for name in SUBJECTS if name not in names))
    failures = 0
    for name in names:
        try:
            tables += measured(name, given, scale)
        except Exception as error:  # a subject's border: the others are still measured, and the page says why
            failures += 1
            tables.append(failed(name, error))
        write(given, facts, tables)
    machine.say(f"written: {given.page} and {given.json}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
