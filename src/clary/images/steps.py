"""One command of a build, and the plain way to run it.

A plan is a list of steps, so that whoever runs it decides how: `run_step` runs a step as a child of this process; the
supervisor's way puts those that are not `trusted` (they may run a stranger's build script) into the jail.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

OnLine = Callable[[str], None]
# The largest honest step is the download of a deep-learning framework on a slow line.
STEP_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Step:
    """A command with its input. `weight` is its share of the plan's progress, in arbitrary units.

    `refuse` is a regular expression: a line of output that matches it ends the build, with the line named.
    """

    label: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    weight: float
    stdin: str = ""
    trusted: bool = True
    refuse: str | None = None
    umask: int = field(default=0o022)


Run = Callable[[Step, OnLine], int]


def run_step(step: Step, on_line: OnLine, *, limit_s: float = STEP_LIMIT_S) -> int:
    """Runs it, hands on each line of its output, returns its exit status (negative: the signal that ended it)."""
    child = subprocess.Popen(
        step.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(step.env),
        cwd=step.cwd,
        umask=step.umask,
        text=True,
        errors="replace",
    )
    watchdog = threading.Timer(limit_s, child.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(step.stdin)
                child.stdin.close()
            except BrokenPipeError:
                pass  # it ended without reading; its output and status tell why
            for line in child.stdout:
                on_line(line.rstrip("\n"))
        return child.returncode
    finally:
        watchdog.cancel()
