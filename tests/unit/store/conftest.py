"""A store on a temporary folder with a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_clock import HandClock

from clary.store.blobs import Durability
from clary.store.objects import ObjectStore

OpenStore = Callable[[], ObjectStore]


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def open_store(tmp_path: Path, clock: HandClock) -> Iterator[OpenStore]:
    """Opens the folder; again after a close, as after a restart."""
    opened: list[ObjectStore] = []

    def open_it() -> ObjectStore:
        store = ObjectStore(tmp_path / "objects", now=clock, durability=Durability.RELAXED, min_part_bytes=5)
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> ObjectStore:
    made = open_store()
    made.create_bucket("b-1", "us-east-1", owner="111122223333")
    return made
