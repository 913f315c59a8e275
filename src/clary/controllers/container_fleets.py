"""A fleet of containers, from the fleet that the same variant would be with an interpreter. Pure.

One container an instance, whatever SAGEMAKER_MODEL_SERVER_WORKERS says: that is for the server inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clary.domain.endpoint import Prepared

# Of the environment that our own workers get, what an image brings itself or must not be told.
_OURS = frozenset(("PATH", "HOME", "LANG", "TMPDIR"))
CACHE = "/var/cache/clary"


def as_container(
    fleet: Mapping[str, Any], prepared: Prepared, own: Mapping[str, str], writable: bool
) -> dict[str, Any]:
    """The launch table's record; `own` is the Model's Environment, which may set anything."""
    worker: Mapping[str, Any] = fleet["worker"]
    seen_at = "/opt/ml/models" if worker["multi_model"] else "/opt/ml/model"
    environ = {name: value for name, value in fleet["environ"].items() if name not in _OURS or name in own}
    environ |= {"SM_MODEL_DIR": seen_at, "SAGEMAKER_BASE_DIR": "/opt/ml"}
    if worker["code_dir"]:
        environ["SAGEMAKER_SUBMIT_DIRECTORY"] = "/opt/ml/code"
    environ |= {name: value for name, value in own.items() if name != "SAGEMAKER_SUBMIT_DIRECTORY"}
    return {
        **fleet,
        "zygote": "",
        "container": True,
        "environ": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},  # of the program that holds the container
        "binds": [],
        "worker": {
            **worker,
            "environ": {},
            "container": {
                "engine": prepared.container["engine"],
                "image": prepared.container["image"],
                "user": prepared.container["user"],
                "uid": fleet["uid"],
                "environ": environ,
                "binds": [list(bind) for bind in fleet["binds"] if bind[1] != CACHE],
                "memory_bytes": fleet["memory_bytes"],
                "cpus": fleet["cpus"],
                "network": fleet["network"],
                "writable": writable,
            },
        },
    }
