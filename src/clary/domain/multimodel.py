"""Which worker gets a model of a multi-model endpoint, which other one helps out, and which models go for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SPILL_AT = 8  # outstanding requests on every holder, from which another worker loads the model, too


@dataclass(frozen=True, slots=True)
class Place:
    """A worker as a place for models."""

    worker: str
    outstanding: int
    models: int
    bytes: int  # of its models


@dataclass(frozen=True, slots=True)
class Held:
    """A model that a worker holds, as a candidate for eviction."""

    target: str
    bytes: int
    inflight: int


def holder(places: Sequence[Place]) -> Place | None:
    """Of the workers that hold the model, the one to ask: the least outstanding."""
    return min(places, key=lambda place: place.outstanding, default=None)


def spills(holders: Sequence[Place], others: Sequence[Place]) -> bool:
    """Whether another worker is to load the model beside those that hold it."""
    if not holders or not others:
        return False
    least = min(place.outstanding for place in holders)
    return least >= SPILL_AT and any(place.outstanding < least for place in others)


def loader(places: Sequence[Place]) -> Place | None:
    """The worker that loads a model which nobody, or nobody with time, holds: the one that holds least."""
    return min(places, key=lambda place: (place.bytes, place.models, place.outstanding), default=None)


def victims(held: Iterable[Held], needed_bytes: int) -> list[str]:
    """Targets to unload until `needed_bytes` are free; those in use stay. `held`: least recently used first.

    At least one where one can go: what a model gives back is measured afterwards, not before. No more of `held` is
    looked at than must be.
    # 3 MB wanted of idle 1 MB models: the three oldest; see test_the_oldest_go_first
    """
    chosen: list[str] = []
    freed = 0
    for one in held:
        if one.inflight:
            continue
        chosen.append(one.target)
        freed += one.bytes
        if freed >= needed_bytes:
            break
    return chosen


def least_recent_files(folders: Mapping[str, tuple[float, int]], limit_bytes: int) -> list[str]:
    """Names of folders on the disk to remove so that the rest fits: oldest use first. Values: (last use, bytes)."""
    total = sum(size for _, size in folders.values())
    chosen = []
    for name, (_, size) in sorted(folders.items(), key=lambda item: item[1][0]):
        if total <= limit_bytes:
            break
        chosen.append(name)
        total -= size
    return chosen
