"""What a worker's container is made with: a pure function of its order.

Nothing of the host but the model's files, read-only; no network but its own loopback unless the order says otherwise;
no capability, no way to gain one; a root that cannot be written to, with /tmp and /run in memory; the memory,
processors and processes of its instance. The image's entry point gets the one argument `serve`
(SageMaker developer guide, "How SageMaker AI Runs Your Inference Image").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence

DATA_LABEL, RUN_LABEL = "clary.data", "clary.run"
TMP_BYTES, RUN_BYTES = 512 << 20, 64 << 20
_TMPFS = "rw,nosuid,nodev,exec,mode=1777,size=%d"
ROOT_USERS = ("", "0", "root", "0:0", "root:root", "0:root", "root:0")


@dataclass(frozen=True)
class ContainerSpec:
    """One container. `binds` are [source, target, "ro" | "rw"]; `user` is the image's own."""

    engine: str
    image: str
    user: str = ""
    uid: int = -1  # of the endpoint; what runs as root in the image runs as this
    environ: Dict[str, str] = field(default_factory=dict)
    binds: List[List[str]] = field(default_factory=list)
    memory_bytes: int = 0
    cpus: float = 0.0
    pids: int = 4096
    network: bool = False
    writable: bool = False
    labels: Dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "ContainerSpec":
        return cls(**data)


def create_body(spec: ContainerSpec, volumes: Sequence[str] = ()) -> Dict[str, Any]:
    """The body of POST /containers/create.

    `volumes` are those that the image declares: in memory, too, because the engine would put them on the disk.
    """
    limits = {
        "Memory": spec.memory_bytes,
        "MemorySwap": spec.memory_bytes,  # the same: no swap beyond it
        "NanoCpus": int(spec.cpus * 1_000_000_000),
        "PidsLimit": spec.pids,
        # Open files are as the engine has them: raising the limit needs a right that it may not have itself.
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }
    walls = {
        "NetworkMode": "bridge" if spec.network else "none",
        "ReadonlyRootfs": not spec.writable,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "Tmpfs": {
            **{place: _TMPFS % TMP_BYTES for place in (*volumes, "/tmp") if not _covered(place, spec)},
            "/run": _TMPFS % RUN_BYTES,
        },
        "ShmSize": TMP_BYTES,
        "Mounts": [
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": mode == "ro"}
            for source, target, mode in spec.binds
        ],
        "LogConfig": {"Type": "none"},  # its output goes to the worker's own log
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,  # how it ended is asked first
    }
    return {
        "Image": spec.image,
        "Cmd": ["serve"],
        "User": user_of(spec),
        "Env": ["%s=%s" % item for item in sorted(spec.environ.items())],
        "Labels": dict(spec.labels),
        "Healthcheck": {"Test": ["NONE"]},  # GET /ping tells
        "AttachStdin": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": {**limits, **walls},
    }


def _covered(place: str, spec: ContainerSpec) -> bool:
    """Whether files of ours are seen there."""
    return any(target == place or target.startswith(place.rstrip("/") + "/") for _, target, _ in spec.binds)


def user_of(spec: ContainerSpec) -> str:
    """The image's own user; the endpoint's uid in the place of root."""
    if spec.user not in ROOT_USERS or spec.uid < 0:
        return spec.user
    return "%d:%d" % (spec.uid, spec.uid)
