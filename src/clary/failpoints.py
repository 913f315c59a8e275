"""Named places where a test lets the process die, to prove that a crash between any two steps is survived.

`failpoint("endpoint.after_launch")` does nothing unless the environment names it in CLARY_FAILPOINT, read once at
import. A test finds all names by reading the source, so a step that lacks one shows in review.
"""

from __future__ import annotations

import os

_ARMED = os.environ.get("CLARY_FAILPOINT", "")


def failpoint(name: str) -> None:
    """Ends the process here, as kill -9 would, when `name` is armed."""
    if _ARMED and name == _ARMED:
        os.kill(os.getpid(), 9)
