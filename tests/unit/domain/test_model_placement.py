"""Which worker holds, loads and gives up models."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clary.domain.multimodel import SPILL_AT, Held, Place, holder, least_recent_files, loader, spills, victims


def place(worker: str, outstanding: int = 0, models: int = 0, bytes_: int = 0) -> Place:
    return Place(worker, outstanding, models, bytes_)


def test_the_least_busy_holder_is_asked() -> None:
    assert holder([]) is None
    assert holder([place("a", 3), place("b", 1), place("c", 2)]) == place("b", 1)


def test_another_worker_helps_out_only_when_every_holder_is_busy() -> None:
    idle = place("x")
    assert not spills([place("a", SPILL_AT - 1)], [idle])
    assert not spills([place("a", SPILL_AT), place("b", 0)], [idle])
    assert not spills([place("a", SPILL_AT)], [place("x", SPILL_AT)])
    assert not spills([], [idle])
    assert spills([place("a", SPILL_AT), place("b", SPILL_AT + 3)], [idle])


def test_the_emptiest_worker_loads() -> None:
    assert loader([]) is None
    assert loader([place("a", 0, 1, 500), place("b", 9, 3, 100)]) == place("b", 9, 3, 100)


def test_the_oldest_go_first() -> None:
    held = [Held(str(age), 1_000_000, 0) for age in (1, 2, 3, 4, 5)]
    assert victims(held, 3_000_000) == ["1", "2", "3"]
    assert victims(held, 1) == ["1"]
    assert victims([], 1) == []


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 2)), max_size=30),
    st.integers(0, 1000),
)
def test_who_is_in_use_stays_and_no_more_go_than_must(held: list[tuple[int, int]], needed: int) -> None:
    models = [Held(str(number), *one) for number, one in enumerate(held)]
    idle = {one.target: one for one in models if not one.inflight}
    chosen = victims(models, needed)
    assert set(chosen) <= set(idle)
    assert chosen == [one.target for one in models if not one.inflight][: len(chosen)]
    assert bool(chosen) == bool(idle)
    freed = [idle[target].bytes for target in chosen]
    assert sum(freed[:-1]) < needed or len(chosen) <= 1
    assert sum(freed) >= needed or len(chosen) == len(idle)


def test_files_used_longest_ago_go_until_the_rest_fits() -> None:
    held = {"old": (1.0, 50), "new": (3.0, 40), "middle": (2.0, 30)}
    assert least_recent_files(held, 200) == []
    assert least_recent_files(held, 70) == ["old"]
    assert least_recent_files(held, 10) == ["old", "middle", "new"]
