"""Where copies of inference components go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clary.domain.component import (
    NO_ROOM,
    Capacity,
    HostVariant,
    NoRoom,
    Placed,
    Requirements,
    instances_in_use,
    place,
)

ROOM = Capacity(4.0, 8192)


def test_copies_spread_over_the_instances_with_the_most_memory_free() -> None:
    others = [Placed(Requirements(4096), (0,), 1)]
    assert place(3, 3, Requirements(1024), (), others, ROOM, 3) == (1, 2, 1)


def test_binpack_fills_an_instance_before_the_next() -> None:
    others = [Placed(Requirements(4096), (1,), 1)]
    assert place(3, 3, Requirements(2048), (), others, ROOM, 3, pack=True) == (1, 1, 0)


def test_a_copy_keeps_its_instance_while_it_is_there() -> None:
    assert place(2, 2, Requirements(1024), (2, 2), [], ROOM, 3) == (2, 2)
    assert place(2, 2, Requirements(1024), (2, 2), [], ROOM, 2) == (0, 1)


def test_fractions_of_a_core_count() -> None:
    half = Requirements(128, cpus=0.5)
    assert place(8, 8, half, (), [], ROOM, 1) == (0,) * 8
    refused = place(9, 9, half, (), [], ROOM, 1)
    assert isinstance(refused, NoRoom)
    assert str(refused) == (
        f"{NO_ROOM} Copy 9 requires 0.5 CPU cores and 128 MB; each of the variant's 1 instance(s) has 4 cores and "
        "8192 MB for copies, and 0 cores and 7168 MB are the most that is free on one."
    )


def test_copies_that_may_sleep_reserve_nothing_but_must_fit_alone() -> None:
    big = Requirements(6000)
    sleeping = [Placed(big, (0, 0), 0)]
    assert place(2, 0, big, (), sleeping, ROOM, 1) == (0, 0)
    assert isinstance(place(1, 0, Requirements(9000), (), [], ROOM, 1), NoRoom)
    assert isinstance(place(1, 0, Requirements(128, cpus=8.0), (), [], ROOM, 4), NoRoom)


needs = st.builds(Requirements, st.integers(128, 9000), st.just(0), st.sampled_from([0.0, 0.25, 1.0, 4.0]))


@given(st.lists(st.tuples(needs, st.integers(0, 4), st.integers(0, 4)), max_size=6), st.integers(1, 4), st.booleans())
def test_what_is_reserved_never_exceeds_an_instance(
    asked: list[tuple[Requirements, int, int]], instances: int, pack: bool
) -> None:
    placed: list[Placed] = []
    for requirements, wanted, reserving in asked:
        reserving = min(wanted, reserving)
        found = place(wanted, reserving, requirements, (), placed, ROOM, instances, pack)
        if isinstance(found, NoRoom):
            continue
        assert len(found) == wanted
        assert all(0 <= instance < instances for instance in found)
        placed.append(Placed(requirements, found, reserving))
    for instance in range(instances):
        mine = [one.requirements for one in placed for at in one.instances[: one.reserving] if at == instance]
        assert sum(one.cpus for one in mine) <= ROOM.cpus
        assert sum(one.min_memory_mib for one in mine) <= ROOM.memory_mib


def test_a_managed_host_counts_the_instances_that_are_used() -> None:
    managed = HostVariant("v", "ml.m5.large", 1, min_instances=1, max_instances=4)
    assert instances_in_use([], managed) == 1
    assert instances_in_use([(0, 3), (3, 2)], managed) == 3
    assert instances_in_use([(0,)], HostVariant("v", "ml.m5.large", 2)) == 2
    assert managed.limit == 4
