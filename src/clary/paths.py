"""Where everything of one clary lies, below its data folder. Standard library only: the supervisor reads it too.

Unix socket addresses end at 107 bytes, so when the data folder's path is long the sockets live in a short folder
of the temporary directory, named by a hash of the data folder so that every process finds the same one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

ENGINE_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")  # where a container engine listens by default
_LONGEST_RUN_DIR = 70  # leaves room for "/w/<worker id>.sock" within 107 bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one data folder. Nothing here touches the disk but `make`."""

    data: Path

    @property
    def run(self) -> Path:
        inside = self.data / "run"
        if len(os.fsencode(inside)) <= _LONGEST_RUN_DIR:
            return inside
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"clary-{os.getuid()}-{digest}"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def gateway_socket(self) -> Path:
        return self.run / "gateway.sock"

    @property
    def proxy_socket(self) -> Path:
        return self.run / "proxy.sock"

    @property
    def lease_socket(self) -> Path:
        return self.run / "leases.sock"

    @property
    def capture(self) -> Path:
        return self.data / "capture"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def worker_sockets(self) -> Path:
        return self.run / "w"

    @property
    def launch_table(self) -> Path:
        return self.run / "launch.json"

    @property
    def route_table(self) -> Path:
        return self.run / "routes.json"

    @property
    def identity_snapshot(self) -> Path:
        return self.run / "identity.json"

    @property
    def settings(self) -> Path:
        return self.run / "settings.json"

    @property
    def lock(self) -> Path:
        return self.data / "supervisor.lock"

    @property
    def jail(self) -> Path:
        return self.data / "jail"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def worker_logs(self) -> Path:
        return self.logs / "workers"

    @property
    def journal(self) -> Path:
        return self.data / "journal" / "workers.jsonl"

    @property
    def heartbeat(self) -> Path:
        return self.data / "journal" / "heartbeat"

    @property
    def counters(self) -> Path:
        return self.data / "usage" / "counters"

    @property
    def identities(self) -> Path:
        return self.data / "keys" / "identities.json"

    @property
    def database(self) -> Path:
        return self.data / "clary.db"

    @property
    def objects(self) -> Path:
        return self.data / "objects"

    @property
    def fetched(self) -> Path:
        """Copies of an external store's objects, each while it is read."""
        return self.data / "fetched"

    @property
    def registry(self) -> Path:
        """Layers of container images, and uploads of them."""
        return self.data / "registry"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def snapshots(self) -> Path:
        return self.data / "snapshots"

    @property
    def transforms(self) -> Path:
        """A folder a transform job that runs."""
        return self.data / "transforms"

    @property
    def functions(self) -> Path:
        """Archives of functions' code, and the folders that they were unpacked to."""
        return self.data / "functions"

    @property
    def environments(self) -> Path:
        return self.data / "envs"

    @property
    def mark(self) -> str:
        """What tells this data folder from others in names that lie outside of it: control groups, containers."""
        return hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]

    def make(self) -> None:
        """Creates what must be there before anything starts. The data folder can be entered, not listed, by others."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o711)
        for folder, mode in (
            (self.run, 0o711),
            (self.worker_sockets, 0o711),
            (self.jail, 0o711),
            (self.logs, 0o700),
            (self.worker_logs, 0o700),
            (self.journal.parent, 0o700),
            (self.counters.parent, 0o700),
            (self.models, 0o711),
            (self.transforms, 0o700),
            (self.functions, 0o711),
            (self.snapshots, 0o711),
            (self.environments, 0o755),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)


def engine_socket(setting: str) -> str:
    """The container engine's socket that the setting `docker` means; "" for none."""
    if setting == "auto":
        return next((place for place in ENGINE_SOCKETS if os.path.exists(place)), "")
    return "" if setting == "off" else setting.removeprefix("unix://")


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes `data` to `path` whole or not at all: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
