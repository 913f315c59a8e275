"""What a worker is told when it starts: two flat records that travel as JSON.

`WorkerSpec` is what the model server needs; `JailSpec` is what must be true of the process before it touches a
byte of the user's. Both are made by the supervisor (which shares no code with this package, only these field names).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List


@dataclass(frozen=True)
class WorkerSpec:
    """One serving process. Paths are as seen from inside the jail."""

    worker_id: str
    endpoint_name: str
    variant_name: str
    framework: str  # "sklearn" | "xgboost" | "lightgbm" | "onnxruntime" | "pytorch" | "triton" | ... | "auto"
    model_dir: str  # the extracted artifact, read-only
    code_dir: str = ""  # extracted sourcedir.tar.gz; "" means model_dir/code
    environ: Dict[str, str] = field(default_factory=dict)  # the Model's Environment
    max_payload_bytes: int = 25 * 1024 * 1024
    threads: int = 1
    batching: str = "auto"  # "auto" | "off"
    max_batch_size: int = 256  # requests
    transform: bool = False  # SAGEMAKER_BATCH
    strict: bool = False
    cache_dir: str = ""  # writable, shared by the workers of one deployment variant; "" for none
    warm_up: bool = True  # False on a wake: the request that is waiting is the first prediction
    private_network: bool = False  # port 8080 is this worker's own
    command: List[str] = field(default_factory=list)  # a user's own server instead of ours
    container: Dict[str, Any] = field(default_factory=dict)  # `ContainerSpec` fields: a container instead of ours
    multi_model: bool = False  # models come and go by the API of `multimodel`; model_dir holds none of its own
    memory_bytes: int = 0  # that this process may come to; 0: not limited

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> WorkerSpec:
        return cls(**data)


@dataclass(frozen=True)
class JailSpec:
    """The walls of one process; an empty value means that wall is not put up (and the supervisor says so)."""

    uid: int = -1  # -1: stay who we are
    gid: int = -1
    user_namespace: bool = False
    new_root: str = ""  # an empty folder to build the private root on; "" means no mount namespace
    binds: List[List[str]] = field(default_factory=list)  # [source, target, "ro" | "rw"]: system, environment
    own_binds: List[List[str]] = field(default_factory=list)  # the same: the worker's own files
    links: List[List[str]] = field(default_factory=list)  # [target, path]: symlinks of the private root
    folders: List[str] = field(default_factory=list)  # empty folders of the private root, to be mounted on later
    tmp_bytes: int = 0  # size of the private /tmp and /dev/shm
    mount_proc: bool = False
    private_network: bool = False
    cgroup_procs: List[str] = field(default_factory=list)  # files to write "0" to
    rlimits: Dict[str, int] = field(default_factory=dict)  # "NOFILE" -> soft and hard limit
    no_new_privs: bool = True
    # A child of an unprivileged zygote: it stands in that one's walls already and puts up its own inside (`guest`).
    guest: bool = False
    grafts: List[str] = field(default_factory=list)  # where the mount trees that came with the order are to be seen

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> JailSpec:
        return cls(**data)
