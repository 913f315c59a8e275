"""`clary jobs`: batch transform jobs, how far they are, and why they failed."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, print_json, print_table

MIB = 1024 * 1024


def jobs(
    running: Annotated[bool, typer.Option("--running", help="Only those that are not over.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", help="The newest so many; 0 for all.")] = 20,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List batch transform jobs with their progress."""
    told = Local(data_dir(data)).control("jobs", running=running, last=last)["jobs"]
    if as_json:
        print_json(told)
        return
    if not told:
        console().print("no transform job " + ("runs" if running else "was made"))
        return
    print_table(
        "",
        ("JOB", "STATUS", "OBJECTS", "READ", "RECORDS", "TIME"),
        [
            (
                one["job"],
                one["status"],
                f"{one['objects_done']}/{one['objects']}" if one["objects"] >= 0 else "",
                _share(one),
                f"{one['records']:,}" if one["records"] else "",
                f"{one['elapsed_s']:.1f} s",
            )
            for one in told
        ],
    )
    for one in told:  # sentences would squeeze the columns
        if sentence := one["failure_reason"] or (one["progress"] if one["status"] == "InProgress" else ""):
            console().print(f"{one['job']}: {sentence}", highlight=False, markup=False)


def _share(one: dict[str, Any]) -> str:
    if not one["bytes"]:
        return ""
    if one["status"] == "Completed":
        return f"{one['bytes'] / MIB:,.1f} MiB"
    percent = min(100, one["bytes_read"] * 100 // one["bytes"])
    left_s = one["elapsed_s"] * (one["bytes"] - one["bytes_read"]) / one["bytes_read"] if one["bytes_read"] else 0.0
    return f"{percent} % of {one['bytes'] / MIB:,.1f} MiB" + (
        f", {time.strftime('%H:%M:%S', time.gmtime(left_s))} left" if left_s and one["status"] == "InProgress" else ""
    )
