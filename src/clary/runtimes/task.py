"""What a program that runs to its end behind walls is told to the supervisor by (`supervisor.tasks`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def walls(
    binds: Sequence[tuple[str, str, str]],
    uid: int,
    memory_bytes: int,
    limit_s: float,
    *,
    python: str = sys.executable,
    prefixes: Sequence[str] = (sys.base_prefix,),
    cpus: float = 1.0,
    network: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """The record of a fleet of its own, which is where the supervisor reads walls from.

    `binds`: (source, target, "ro" | "rw"). `python` and `prefixes` (folders that it must see) are the interpreter's.
    """
    return {
        "endpoint": "",
        "variant": "",
        "min": 0,
        "max": 0,
        "processes_per_instance": 1,
        "zygote": "",
        "worker": {},
        "environ": {},
        "python": python,
        "prefixes": list(prefixes),
        "binds": [list(bind) for bind in binds],
        "memory_bytes": memory_bytes,
        "cpus": cpus,
        "uid": uid,
        "network": network,
        "start_timeout_s": limit_s,
        **more,
    }
