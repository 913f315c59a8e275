"""When schedules are due: real zones, hand-turned clocks, no waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from clary.domain.errors import Invalid
from clary.domain.schedules import due, next_fire, parse
from clary.domain.timetable import Timetable

NEW_YORK, SEOUL = ZoneInfo("America/New_York"), ZoneInfo("Asia/Seoul")
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(text: str, zone: ZoneInfo | None = None) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC).astimezone(UTC)


def fires(expression: str, after: str, count: int, zone: ZoneInfo | None = None) -> list[str]:
    """Local times of the next `count` due times."""
    found, now = [], at(after, zone)
    for _ in range(count):
        following = next_fire(parse(expression), now, START - timedelta(days=3650), zone or UTC)
        assert following is not None
        found.append(following.astimezone(zone or UTC).strftime("%Y-%m-%dT%H:%M"))
        now = following
    return found


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # Examples of the user guide ("Cron expressions reference").
        ("cron(0 10 * * ? *)", "2026-03-01T10:00", ["2026-03-02T10:00", "2026-03-03T10:00"]),
        ("cron(15 12 * * ? *)", "2026-03-01T12:14", ["2026-03-01T12:15", "2026-03-02T12:15"]),
        ("cron(0 18 ? * MON-FRI *)", "2026-03-06T18:00", ["2026-03-09T18:00", "2026-03-10T18:00"]),
        ("cron(0 8 1 * ? *)", "2026-01-01T08:00", ["2026-02-01T08:00", "2026-03-01T08:00"]),
        ("cron(0/15 * * * ? *)", "2026-01-01T00:31", ["2026-01-01T00:45", "2026-01-01T01:00"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", "2026-03-06T17:55", ["2026-03-09T08:00", "2026-03-09T08:05"]),
        ("cron(0 9 ? * 2#1 *)", "2026-03-01T00:00", ["2026-03-02T09:00", "2026-04-06T09:00"]),
        ("cron(0 0 L * ? *)", "2026-01-31T00:00", ["2026-02-28T00:00", "2026-03-31T00:00"]),
        ("cron(0 0 ? * 6L *)", "2026-01-01T00:00", ["2026-01-30T00:00", "2026-02-27T00:00"]),
        ("cron(0 0 ? * L *)", "2026-01-01T00:00", ["2026-01-03T00:00", "2026-01-10T00:00"]),
        ("cron(0 0 15W * ? *)", "2026-02-01T00:00", ["2026-02-16T00:00", "2026-03-16T00:00"]),
        ("cron(0 0 1W * ? *)", "2026-07-31T00:00", ["2026-08-03T00:00", "2026-09-01T00:00"]),
        ("cron(0 0 LW * ? *)", "2026-01-01T00:00", ["2026-01-30T00:00", "2026-02-27T00:00"]),
        ("cron(0 0 29 2 ? *)", "2026-01-01T00:00", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("cron(30 6 ? JAN,JUL SUN-TUE 2027)", "2026-01-01T00:00", ["2027-01-03T06:30", "2027-01-04T06:30"]),
        ("cron(0 0 ? * FRI-MON *)", "2026-03-03T00:00", ["2026-03-06T00:00", "2026-03-07T00:00"]),
    ],
)
def test_cron_is_due_as_documented(expression: str, after: str, expected: list[str]) -> None:
    assert fires(expression, after, 2) == expected


def test_a_weekday_schedule_keeps_its_local_time_over_a_change_of_clocks() -> None:
    # New York goes forward on Sunday 8 March 2026, back on Sunday 1 November.
    spring = fires("cron(0 9 ? * MON-FRI *)", "2026-03-06T08:00", 2, NEW_YORK)
    assert spring == ["2026-03-06T09:00", "2026-03-09T09:00"]
    first, second = at("2026-03-06T09:00", NEW_YORK), at("2026-03-09T09:00", NEW_YORK)
    assert (second - first) == timedelta(days=3, hours=-1)
    autumn = fires("cron(0 9 ? * MON-FRI *)", "2026-10-30T08:00", 2, NEW_YORK)
    assert autumn == ["2026-10-30T09:00", "2026-11-02T09:00"]


def test_a_year_of_weekdays_in_a_zone_without_daylight_saving() -> None:
    schedule, now, found = parse("cron(0 9 ? * MON-FRI *)"), at("2026-01-01T00:00", SEOUL), []
    while (following := next_fire(schedule, now, START - timedelta(days=1), SEOUL)) is not None:
        if following >= at("2027-01-01T00:00", SEOUL):
            break
        found.append(following)
        now = following
    weekdays = [START + timedelta(days=day) for day in range(365) if (START + timedelta(days=day)).weekday() < 5]
    assert found == weekdays  # 09:00 in Seoul is midnight in UTC
    assert len(found) == 261


def test_a_local_time_that_is_skipped_is_not_due_and_one_that_comes_twice_is_once() -> None:
    assert fires("cron(30 2 * * ? *)", "2026-03-07T03:00", 1, NEW_YORK) == ["2026-03-09T02:30"]
    schedule = parse("cron(30 1 * * ? *)")
    first = next_fire(schedule, at("2026-11-01T00:00", NEW_YORK), START, NEW_YORK)
    assert first == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert next_fire(schedule, first, START, NEW_YORK) == datetime(2026, 11, 2, 6, 30, tzinfo=UTC)


def test_rates_count_from_their_start() -> None:
    later, at_once = parse("rate(5 minutes)"), parse("rate(1 hour)", at_start=True)
    assert next_fire(later, START, START) == START + timedelta(minutes=5)
    assert next_fire(later, START + timedelta(minutes=5), START) == START + timedelta(minutes=10)
    assert next_fire(later, START + timedelta(minutes=14, seconds=59), START) == START + timedelta(minutes=15)
    assert next_fire(at_once, START - timedelta(seconds=1), START) == START
    assert next_fire(at_once, START, START) == START + timedelta(hours=1)


def test_at_is_due_once_in_its_zone() -> None:
    schedule = parse("at(2026-07-01T09:00:00)")
    assert next_fire(schedule, START, START, SEOUL) == datetime(2026, 7, 1, 0, 0, tzinfo=UTC)
    assert next_fire(schedule, datetime(2026, 7, 1, 0, 0, tzinfo=UTC), START, SEOUL) is None


def test_what_was_missed_is_one_firing_unless_it_is_a_day_old() -> None:
    schedule = parse("cron(0/5 * * * ? *)")
    now = at("2026-03-01T12:03")
    assert due(schedule, at("2026-03-01T11:00"), now, START) == at("2026-03-01T12:00")
    assert due(schedule, at("2026-03-01T12:00"), now, START) is None
    assert due(parse("rate(1 minute)"), START, START + timedelta(days=300, seconds=30), START) == START + timedelta(
        days=300
    )
    assert due(parse("at(2026-02-27T00:00:00)"), START, now, START) is None
    assert due(parse("at(2026-03-01T00:00:00)"), START, now, START) == at("2026-03-01T00:00")


def test_a_clock_that_goes_back_fires_nothing_again() -> None:
    table = Timetable(parse("rate(1 hour)"), START)
    fired = START + timedelta(hours=3)
    fired_us = round(fired.timestamp() * 1_000_000)
    assert table.due(fired_us, START + timedelta(hours=1, minutes=30)) is None
    assert table.next(fired_us) == START + timedelta(hours=4)


def test_an_end_is_the_end() -> None:
    table = Timetable(parse("rate(1 hour)"), START, end=START + timedelta(hours=2))
    fired_us = round((START + timedelta(hours=2)).timestamp() * 1_000_000)
    assert table.due(0, START + timedelta(hours=9)) == START + timedelta(hours=2)
    assert table.next(fired_us) is None
    assert table.due(fired_us, START + timedelta(hours=9)) is None


@pytest.mark.parametrize(
    "expression",
    [
        "cron(0 10 * * *)",
        "cron(0 10 * * * *)",
        "cron(0 10 ? * ? *)",
        "cron(60 10 * * ? *)",
        "cron(0 24 * * ? *)",
        "cron(0 0 0 * ? *)",
        "cron(0 0 ? * 8 *)",
        "cron(0 0 ? * MON#6 *)",
        "cron(0 0 32W * ? *)",
        "cron(0 0 * * ? 1900)",
        "rate(1 minutes)",
        "rate(5 minute)",
        "rate(0 minutes)",
        "rate(5 seconds)",
        "at(2026-13-01T00:00:00)",
        "every day",
    ],
)
def test_what_is_no_schedule_is_refused(expression: str) -> None:
    with pytest.raises(Invalid):
        parse(expression)


def test_a_date_that_never_comes_ends_the_search() -> None:
    assert next_fire(parse("cron(0 0 31 2 ? *)"), START, START) is None
