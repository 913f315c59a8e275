"""Named places where a test lets the process die, to prove that a crash between any two steps is survived.

`failpoint("endpoint.after_launch")` does nothing unless the environment, read once at import, arms it: CLARY_FAILPOINT
is a name, at which every process dies whenever it gets there; CLARY_FAILPOINT_FILE is a file that may hold one, which
is taken out of it first, so that the process dies there once and its successor gets by. A test finds all names by
reading the source, so a step that lacks one shows in review.
"""

from __future__ import annotations

import os
from pathlib import Path

_ARMED = os.environ.get("CLARY_FAILPOINT", "")
_FILE = os.environ.get("CLARY_FAILPOINT_FILE", "")


def failpoint(name: str) -> None:
    """Ends the process here, as kill -9 would, when `name` is armed."""
    if (_ARMED and name == _ARMED) or (_FILE and _taken(Path(_FILE), name)):
        os.kill(os.getpid(), 9)


def _taken(file: Path, name: str) -> bool:
    """Whether the file named this place; then it is gone."""
    try:
        if file.read_text() != name:
            return False
        file.unlink()
    except FileNotFoundError:
        return False  # nothing is armed now
    return True
