"""Charges: unions of lives, floors that telescope, cuts that change nothing."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain import prices
from clary.domain.ledger import (
    HOUR_MS,
    HOUR_NS,
    CostEntry,
    FleetBook,
    Label,
    Life,
    Meter,
    Span,
    accrue,
    counted,
    exited,
    labelled,
    rebooted,
    settle,
    started,
    union,
)
from clary.domain.usage import INDEX, NUMBERS
from clary.store.codec import decode, encode

FLEET = "us-east-1/e/v/1"
BOOK = prices.parse(json.loads(files("clary.data").joinpath("prices.json").read_text()))
M5 = Label("ml.m5.large", 0)
SERVERLESS = Label("", 2048)
M5_RATE = BOOK.instances["ml.m5.large"].nanousd_per_hour

spans = st.tuples(st.integers(0, 3 * HOUR_NS // 60), st.integers(1, HOUR_NS // 60)).map(
    lambda pair: Span(pair[0], pair[0] + pair[1])
)


def numbers(**values: int) -> list[int]:
    made = [0] * NUMBERS
    for name, value in values.items():
        made[INDEX[name]] = value
    return made


def total(entries: list[CostEntry], meter: Meter) -> tuple[int, int]:
    mine = [entry for entry in entries if entry.meter is meter]
    return sum(entry.quantity for entry in mine), sum(entry.nanousd for entry in mine)


@given(lives=st.lists(spans, min_size=1, max_size=8), cuts=st.lists(st.integers(0, HOUR_NS // 10), max_size=8))
def test_cutting_anywhere_gives_the_price_of_the_union(lives: list[Span], cuts: list[int]) -> None:
    # Every life is told of at its start and at its end, and the book is settled at every cut between.
    events = [(life.start_ns, 1, n, life) for n, life in enumerate(lives)]
    events += [(life.end_ns, 2, n, life) for n, life in enumerate(lives)]
    events += [(cut, 0, 0, None) for cut in cuts]
    book, entries = labelled(FleetBook(), M5, BOOK), []
    for at_ns, kind, n, life in sorted(events, key=lambda one: one[:3]):
        if kind == 1:
            assert life is not None
            book = started(book, 0, Life(f"w{n}", life.start_ns))
        elif kind == 2:
            book = exited(book, 0, f"w{n}", at_ns)
        else:
            book = accrue(book, at_ns)
            book = decode(FleetBook, json.loads(json.dumps(encode(book))))
        book, made = settle(FLEET, book, at_ns)
        entries += made
    lived_ns = sum(span.end_ns - span.start_ns for span in union(lives))
    assert total(entries, Meter.INSTANCE) == (lived_ns, M5_RATE * lived_ns // HOUR_NS)
    charged = [Span(entry.start_ns, entry.end_ns) for entry in entries]
    assert union(charged) == union(lives)
    assert sum(entry.quantity for entry in entries) == lived_ns, "no two charges overlap"
    assert all(entry.nanousd >= 0 and entry.end_ns > entry.start_ns for entry in entries)


@given(order=st.permutations(range(5)), lives=st.lists(spans, min_size=5, max_size=5))
def test_the_order_in_which_whole_lives_are_told_changes_nothing(order: list[int], lives: list[Span]) -> None:
    book, entries = labelled(FleetBook(), M5, BOOK), []
    for n in order:
        book = started(book, 0, Life(f"w{n}", lives[n].start_ns))
        book, made = settle(FLEET, exited(book, 0, f"w{n}", lives[n].end_ns), 0)
        entries += made
    lived_ns = sum(span.end_ns - span.start_ns for span in union(lives))
    assert total(entries, Meter.INSTANCE) == (lived_ns, M5_RATE * lived_ns // HOUR_NS)


@given(steps=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=12))
def test_counted_meters_add_up_to_the_price_of_the_total(steps: list[tuple[int, int, int]]) -> None:
    book, entries, at = FleetBook(), [], [0, 0, 0]
    for n, step in enumerate(steps):
        at = [held + more for held, more in zip(at, step, strict=True)]
        book, _ = counted(book, numbers(billed_ms=at[0], request_bytes=at[1], response_bytes=at[2]))
        if n == 2:  # until here the label was not known: nothing may be lost
            book = labelled(book, SERVERLESS, BOOK)
        book, made = settle(FLEET, book, n + 1)
        entries += made
    book, made = settle(FLEET, labelled(book, SERVERLESS, BOOK), len(steps) + 1)
    entries += made
    rate = BOOK.serverless_nanousd_per_hour[2048]
    assert total(entries, Meter.SERVERLESS) == (at[0], rate * at[0] // HOUR_MS)
    assert total(entries, Meter.DATA_IN) == (at[1], BOOK.data_in_nanousd_per_gb * at[1] // 10**9)
    assert total(entries, Meter.DATA_OUT) == (at[2], BOOK.data_out_nanousd_per_gb * at[2] // 10**9)


def test_a_life_told_late_is_charged_for_what_no_other_covered() -> None:
    book = labelled(FleetBook(), M5, BOOK)
    book = exited(started(book, 0, Life("a", 50)), 0, "a", 100)
    book = exited(started(book, 0, Life("b", 30)), 0, "b", 120)
    assert book.instances["0"].uncharged == (Span(30, 120),)


def test_charges_are_cut_at_full_hours() -> None:
    book = exited(started(labelled(FleetBook(), M5, BOOK), 0, Life("a", HOUR_NS - 5)), 0, "a", 2 * HOUR_NS + 5)
    _, entries = settle(FLEET, book, 0)
    assert [(entry.start_ns, entry.end_ns) for entry in entries] == [
        (HOUR_NS - 5, HOUR_NS),
        (HOUR_NS, 2 * HOUR_NS),
        (2 * HOUR_NS, 2 * HOUR_NS + 5),
    ]
    assert entries[1].nanousd == M5_RATE


def test_instances_are_charged_each_for_itself() -> None:
    book = labelled(FleetBook(), M5, BOOK)
    for instance in (0, 1):
        book = exited(started(book, instance, Life(f"w{instance}", 0)), instance, f"w{instance}", HOUR_NS)
    _, entries = settle(FLEET, book, 0)
    assert [(entry.instance, entry.nanousd) for entry in entries] == [(0, M5_RATE), (1, M5_RATE)]


def test_serverless_workers_cost_no_instance_time() -> None:
    book = exited(started(labelled(FleetBook(), SERVERLESS, BOOK), 0, Life("w", 0)), 0, "w", HOUR_NS)
    settled, entries = settle(FLEET, book, 0)
    assert entries == []
    assert settled.instances["0"].uncharged == ()


@pytest.mark.parametrize("label", [Label("ml.none.such", 0), Label("", 777)])
def test_an_unknown_price_costs_nothing_and_says_so(label: Label) -> None:
    book = exited(started(labelled(FleetBook(), label, BOOK), 0, Life("w", 0)), 0, "w", HOUR_NS)
    book, entries = settle(FLEET, book, 0)
    assert sum(entry.nanousd for entry in entries) == 0
    assert book.tariff is not None
    assert book.tariff.source.startswith("no list price")


def test_an_exit_of_nobody_and_a_second_start_change_nothing() -> None:
    book = started(labelled(FleetBook(), M5, BOOK), 0, Life("a", 10))
    assert exited(book, 0, "b", 20) is book
    assert exited(book, 7, "a", 20) is book
    assert started(book, 0, Life("a", 15)) is book


def test_another_boot_ends_lives_where_they_were_last_proven() -> None:
    book = accrue(started(labelled(FleetBook(), M5, BOOK), 0, Life("a", 10, "boot-1")), 30)
    book = rebooted(started(book, 0, Life("b", 50, "boot-2")), "boot-2")
    assert [life.worker for life in book.instances["0"].open] == ["b"]
    assert book.instances["0"].uncharged == (Span(10, 30),)


def test_a_number_that_went_back_counts_on_from_there() -> None:
    book, _ = counted(FleetBook(), numbers(billed_ms=100))
    book, growth = counted(book, numbers(billed_ms=90))
    assert growth == {}
    book, growth = counted(book, numbers(billed_ms=95))
    assert growth == {INDEX["billed_ms"]: 5}
    assert book.used[Meter.SERVERLESS] == 105


def test_nothing_new_gives_the_very_same_book() -> None:
    book, _ = counted(FleetBook(), numbers(billed_ms=100))
    assert counted(book, numbers(billed_ms=100))[0] is book
