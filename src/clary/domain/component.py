"""Inference components: models that share the instances of one endpoint's variant. Pure.

A component is rolled out as an endpoint's deployment is (`domain.endpoint`), with copies for instances. What differs is
where its copies are: on instances of its host, a production variant without a model of its own. A copy has a place from
the moment it is wanted, and keeps it; the instance is charged while any copy on it lives.

A copy that must run reserves what its component requires. One that may sleep (a scalable target whose MinCapacity is
less, or the tag clary:scale-to-zero) has a place and reserves nothing, as a component with zero copies does on AWS: so
many idle models fit on one instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

NO_ROOM = (
    "There is not enough hardware resources on the instances for this endpoint to create a copy of the inference "
    "component."
)


@dataclass(frozen=True, slots=True)
class Requirements:
    """ComputeResourceRequirements of one copy."""

    min_memory_mib: int
    max_memory_mib: int = 0  # 0: as much as its instance has
    cpus: float = 0.0  # 0: none are reserved, and it may use all that its instance has


@dataclass(frozen=True, slots=True)
class HostVariant:
    """A production variant without a model: instances for inference components."""

    name: str
    instance_type: str
    instance_count: int
    min_instances: int = 0  # ManagedInstanceScaling; with `max_instances` 0 it is off
    max_instances: int = 0
    weight: float = 1.0
    strategy: str = "LEAST_OUTSTANDING_REQUESTS"

    @property
    def limit(self) -> int:
        """Instances that copies may be placed on."""
        return max(self.instance_count, self.max_instances)


@dataclass(frozen=True, slots=True)
class Component:
    """What makes a resource a component: its host, and what was asked for, as Describe gives it back."""

    endpoint: str
    variant: str
    host_number: int  # of the host's deployment
    specification: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one instance has for copies."""

    cpus: float
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Copies of one component: which instance each is on. The first `reserving` of them must run."""

    requirements: Requirements
    instances: tuple[int, ...]
    reserving: int


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a copy has no place."""

    copy: int
    requirements: Requirements
    capacity: Capacity
    instances: int
    most_free: Capacity

    def __str__(self) -> str:
        asked = f"{self.requirements.min_memory_mib} MB"
        if self.requirements.cpus:
            asked = f"{self.requirements.cpus:g} CPU cores and {asked}"
        return (
            f"{NO_ROOM} Copy {self.copy + 1} requires {asked}; each of the variant's {self.instances} instance(s) has "
            f"{self.capacity.cpus:g} cores and {self.capacity.memory_mib} MB for copies, and {self.most_free.cpus:g} "
            f"cores and {self.most_free.memory_mib} MB are the most that is free on one."
        )


def place(
    wanted: int,
    reserving: int,
    requirements: Requirements,
    before: Sequence[int],
    others: Iterable[Placed],
    capacity: Capacity,
    instances: int,
    pack: bool = False,
) -> tuple[int, ...] | NoRoom:
    """The instance of each of `wanted` copies. Copies keep the instance that they had `before`, where it still is.

    A new one goes to the instance with the most memory free (PlacementStrategy SPREAD), or with the least that is
    enough (BINPACK, `pack`); the lowest of equals. The first `reserving` copies must fit; the others only need an
    instance that they could run on alone.
    """
    free = [[capacity.cpus, float(capacity.memory_mib)] for _ in range(instances)]
    for other in others:
        for instance in other.instances[: other.reserving]:
            if instance < instances:
                _take(free[instance], other.requirements)
    found: list[int] = []
    for copy in range(wanted):
        kept = before[copy] if copy < len(before) and before[copy] < instances else None
        must_fit = copy < reserving
        choices = [kept] if kept is not None else []
        choices += sorted(range(instances), key=lambda number: (free[number][1] * (1 if pack else -1), number))
        fitting = [number for number in choices if _fits(free[number], requirements)]
        if not fitting and (must_fit or not _fits([capacity.cpus, float(capacity.memory_mib)], requirements)):
            most = max(free, key=lambda one: one[1]) if free else [0.0, 0.0]
            return NoRoom(copy, requirements, capacity, instances, Capacity(max(most[0], 0.0), max(int(most[1]), 0)))
        chosen = (fitting or choices)[0]
        if must_fit:
            _take(free[chosen], requirements)
        found.append(chosen)
    return tuple(found)


def instances_in_use(placed: Iterable[Sequence[int]], host: HostVariant) -> int:
    """CurrentInstanceCount of a host: managed scaling has those with copies on them, at least its minimum."""
    if not host.max_instances:
        return host.instance_count
    used = {instance for one in placed for instance in one}
    return max(len(used), host.min_instances)


def _fits(free: Sequence[float], requirements: Requirements) -> bool:
    return free[0] >= requirements.cpus and free[1] >= requirements.min_memory_mib


def _take(free: list[float], requirements: Requirements) -> None:
    free[0] -= requirements.cpus
    free[1] -= requirements.min_memory_mib
