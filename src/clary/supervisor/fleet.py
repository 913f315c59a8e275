"""The launch table as the supervisor reads it: which fleets may run, how many workers, in which walls.

A fleet is one generation of one production variant, or of one container of it. Its name is
`region/endpoint/variant[+container]/generation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ZygoteSpec:
    """A warm interpreter: which one, with what imported, and the environment it was started with."""

    key: str
    python: str
    framework: str
    prefixes: tuple[str, ...]  # folders that its children must see: the environment and its base interpreter
    environ: tuple[tuple[str, str], ...] = ()
    trusted: bool = True  # everything in it came from our own hashed locks: it may be imported with our rights
    network: bool = False  # whether its children may open connections (an untrusted one shares its network with them)
    imports: tuple[str, ...] = ()  # distributions to import besides the framework


@dataclass(frozen=True, slots=True)
class Fleet:
    """How to start a worker of one variant generation, and how many are wanted."""

    name: str
    endpoint: str
    variant: str
    min: int  # workers that must run without anybody asking
    max: int  # workers that may run
    processes_per_instance: int
    zygote: str  # key of the zygote; "" for a plain start of `python`
    python: str
    prefixes: tuple[str, ...]
    worker: dict[str, Any]  # WorkerSpec fields, worker_id left out
    environ: dict[str, str]
    binds: tuple[tuple[str, str, str], ...]  # model and code folders
    memory_bytes: int
    cpus: float
    uid: int
    network: bool
    start_timeout_s: float
    pids: int = 512
    nofile: int = 4096
    drain_s: float = 30.0  # SIGTERM to SIGKILL once it is in the table no more (container contract)
    container: bool = False  # its worker is a program of ours that holds a container: the walls are that one's
    label: dict[str, Any] = field(default_factory=dict)  # told on in the journal: what the ledger needs to know
    group: str = ""  # whose control groups its instances are in; "" for its own: containers of an instance share one
    # {"fleet": name, "instances": [...]}: whose instances, and which for each of ours, its workers run on; told on too
    host: dict[str, Any] = field(default_factory=dict)

    @property
    def limited_as(self) -> str:
        """The name that its instances' control groups bear."""
        return self.group or self.name

    def host_of(self, instance: int) -> dict[str, Any]:
        """{"host": {"fleet", "instance"}} of one of its instances; {} where the instances are its own."""
        if not self.host:
            return {}
        places = self.host["instances"]
        return {"host": {"fleet": self.host["fleet"], "instance": places[instance] if instance < len(places) else 0}}


def parse(table: dict[str, Any]) -> tuple[dict[str, Fleet], dict[str, ZygoteSpec]]:
    """The fleets and zygotes of a launch table's body, by name and key.

    Raises: KeyError or TypeError when a field lacks or is unknown (the table then is refused whole).
    """
    zygotes = {
        key: ZygoteSpec(
            key=key,
            python=spec["python"],
            framework=spec["framework"],
            prefixes=tuple(spec["prefixes"]),
            environ=tuple(sorted(spec.get("environ", {}).items())),
            trusted=spec["trusted"],
            network=spec["network"],
            imports=tuple(spec["imports"]),
        )
        for key, spec in table.get("zygotes", {}).items()
    }
    fleets = {}
    for name, spec in table.get("fleets", {}).items():
        fields = dict(spec)
        fields["prefixes"] = tuple(spec["prefixes"])
        fields["binds"] = tuple((source, target, mode) for source, target, mode in spec["binds"])
        fleets[name] = Fleet(name=name, **fields)
    return fleets, zygotes
