"""When a schedule is due: `rate(...)`, `cron(...)` and `at(...)` expressions of EventBridge. Pure; time is an argument.

A cron expression is read in a time zone. A local time that a change of clocks skips is not due at all; one that it
repeats is due once (EventBridge Scheduler user guide, "Daylight saving time"). A rate counts real seconds.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from clary.domain.errors import Invalid

# A due time older than this is not made up for (MaximumEventAgeInSeconds, the default of a target's retry policy).
MAX_LATE_S = 86_400
FIRST_YEAR, LAST_YEAR = 1970, 2199
# An expression that is never due ("31 2") is given up after so many years; leap years come round in eight.
SEARCH_YEARS = 40
UNITS = {"minute": 60, "hour": 3600, "day": 86_400}
MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
DAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}

_RATE = re.compile(r"rate\((\d+) (minute|minutes|hour|hours|day|days)\)")
_CRON = re.compile(r"cron\(([^()]*)\)")
_AT = re.compile(r"at\((\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})\)")


@dataclass(frozen=True, slots=True)
class Rate:
    """Every `period_s` seconds, counted from the schedule's start. `at_start`: the start itself is due, too."""

    period_s: int
    at_start: bool = False


@dataclass(frozen=True, slots=True)
class At:
    """Once, at a local time."""

    local: datetime


@dataclass(frozen=True, slots=True)
class DayOfMonth:
    """`days` by number; `last` is L; `workdays` are nW, the working day nearest to n in its month, 0 for LW."""

    days: frozenset[int] = frozenset()
    last: bool = False
    workdays: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DayOfWeek:
    """`days` 1 (Sunday) to 7; `last` are nL, the last such day of a month; `nth` are (day, n) of d#n."""

    days: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    nth: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Cron:
    """Six fields. Exactly one of `day_of_month` and `day_of_week` is there; the other was "?"."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    day_of_month: DayOfMonth | None
    months: frozenset[int]
    day_of_week: DayOfWeek | None
    years: frozenset[int]


Schedule = Rate | At | Cron


def parse(expression: str, *, at_start: bool = False) -> Schedule:
    """The schedule that an expression means. Raises: Invalid.

    `at_start`: whether a rate's first due time is its start (Scheduler) or one period later (rules).
    """
    if found := _RATE.fullmatch(expression):
        count, unit = int(found[1]), found[2]
        if count < 1 or (count == 1) != (not unit.endswith("s")):
            raise _wrong(expression, "a rate of 1 takes the singular unit, any other the plural")
        return Rate(count * UNITS[unit.removesuffix("s")], at_start)
    if found := _AT.fullmatch(expression):
        try:
            return At(datetime.fromisoformat(found[1]))
        except ValueError as error:
            raise _wrong(expression, str(error)) from error
    if found := _CRON.fullmatch(expression):
        return _cron(expression, found[1].split())
    raise _wrong(expression, "it is rate(value unit), cron(six fields) or at(yyyy-mm-ddThh:mm:ss)")


def next_fire(schedule: Schedule, after: datetime, start: datetime, zone: tzinfo = UTC) -> datetime | None:
    """The first due time later than `after` and not before `start`, in UTC; None when there is none any more."""
    match schedule:
        case Rate():
            periods = (after - start) // timedelta(seconds=schedule.period_s) + 1 if after >= start else 0
            return start + timedelta(seconds=schedule.period_s * max(periods, 0 if schedule.at_start else 1))
        case At():
            due = _instant(schedule.local, zone)
            return due if due is not None and due > after else None
        case Cron():
            floor = max(after, start - timedelta(microseconds=1))
            return next((due for due in _instants(schedule, floor, zone) if due > floor), None)


def due(
    schedule: Schedule, after: datetime, now: datetime, start: datetime, zone: tzinfo = UTC, end: datetime | None = None
) -> datetime | None:
    """The due time to fire for at `now`: the latest in (after, now] that is not too late; None when there is none.

    Several that were missed, as by a machine that slept or a clock that jumped, are one.
    """
    if end is not None and now > end:
        now = end
    found = None
    floor = max(after, now - timedelta(seconds=MAX_LATE_S))
    if isinstance(schedule, Rate):  # without walking through a day of minutes
        floor = max(floor, now - timedelta(seconds=schedule.period_s))
    while (following := next_fire(schedule, floor, start, zone)) is not None and following <= now:
        found = floor = following
    return found


def _instants(cron: Cron, floor: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Due times from the local day of `floor` on."""
    day = floor.astimezone(zone).date()
    last = min(day.year + SEARCH_YEARS, max(cron.years))
    while day.year <= last:
        if day.year not in cron.years or day.month not in cron.months:
            day = _first_of_next_month(day)
            continue
        if _is_day(cron, day):
            for hour in cron.hours:
                for minute in cron.minutes:
                    instant = _instant(datetime.combine(day, time(hour, minute)), zone)
                    if instant is not None:
                        yield instant
        day += timedelta(days=1)


def _first_of_next_month(day: date) -> date:
    return date(day.year + day.month // 12, day.month % 12 + 1, 1)


def _instant(local: datetime, zone: tzinfo) -> datetime | None:
    """A local time in UTC, the first of two where it comes twice; None where no clock shows it."""
    instant = local.replace(tzinfo=zone).astimezone(UTC)
    return instant if instant.astimezone(zone).replace(tzinfo=None) == local else None


def _is_day(cron: Cron, day: date) -> bool:
    length = calendar.monthrange(day.year, day.month)[1]
    if cron.day_of_month is not None:
        wanted = cron.day_of_month
        return (
            day.day in wanted.days
            or (wanted.last and day.day == length)
            or any(day.day == _workday(day, number or length, length) for number in wanted.workdays)
        )
    assert cron.day_of_week is not None
    weekday = day.isoweekday() % 7 + 1
    return (
        weekday in cron.day_of_week.days
        or (weekday in cron.day_of_week.last and day.day + 7 > length)
        or (weekday, (day.day - 1) // 7 + 1) in cron.day_of_week.nth
    )


def _workday(day: date, number: int, length: int) -> int:
    """The working day nearest to `number` that lies in the same month; 0 when the month is shorter."""
    if number > length:
        return 0
    weekday = date(day.year, day.month, number).isoweekday()
    if weekday == 6:
        return number - 1 if number > 1 else number + 2
    if weekday == 7:
        return number + 1 if number < length else number - 2
    return number


# -- reading a cron expression ---------------------------------------------------------------------


def _cron(expression: str, fields: list[str]) -> Cron:
    if len(fields) != 6:
        raise _wrong(expression, f"cron takes six fields, not {len(fields)}")
    minute, hour, month_day, month, week_day, year = (field.upper() for field in fields)
    if (month_day == "?") == (week_day == "?"):
        raise _wrong(expression, "exactly one of day-of-month and day-of-week is ?")
    try:
        return Cron(
            tuple(sorted(_numbers(minute, 0, 59))),
            tuple(sorted(_numbers(hour, 0, 23))),
            None if month_day == "?" else _day_of_month(month_day),
            frozenset(_numbers(month, 1, 12, MONTHS)),
            None if week_day == "?" else _day_of_week(week_day),
            frozenset(_numbers(year, FIRST_YEAR, LAST_YEAR)),
        )
    except ValueError as error:
        raise _wrong(expression, str(error)) from error


def _day_of_month(text: str) -> DayOfMonth:
    days: set[int] = set()
    workdays: set[int] = set()
    last = False
    for part in text.split(","):
        if part == "L":
            last = True
        elif part == "LW":
            workdays.add(0)
        elif part.endswith("W"):
            workdays.add(_number(part[:-1], 1, 31))
        else:
            days |= _numbers(part, 1, 31)
    return DayOfMonth(frozenset(days), last, frozenset(workdays))


def _day_of_week(text: str) -> DayOfWeek:
    days: set[int] = set()
    last: set[int] = set()
    nth: set[tuple[int, int]] = set()
    for part in text.split(","):
        if "#" in part:
            day, _, count = part.partition("#")
            nth.add((_number(day, 1, 7, DAYS), _number(count, 1, 5)))
        elif part == "L":
            days.add(7)
        elif part.endswith("L"):
            last.add(_number(part[:-1], 1, 7, DAYS))
        else:
            days |= _numbers(part, 1, 7, DAYS)
    return DayOfWeek(frozenset(days), frozenset(last), frozenset(nth))


def _numbers(text: str, smallest: int, largest: int, names: dict[str, int] | None = None) -> set[int]:
    """The values of a field: "*", numbers, names, ranges "a-b", steps "a/n", "*/n" and "a-b/n", in a list."""
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        low = smallest if span == "*" else _number(first, smallest, largest, names)
        if dash:
            high = _number(last, smallest, largest, names)
        else:
            high = largest if span == "*" or slash else low
        stride = _number(step, 1, largest) if slash else 1
        if low > high:  # FRI-MON goes round
            found |= set(range(low, largest + 1, stride)) | set(range(smallest, high + 1, stride))
        else:
            found |= set(range(low, high + 1, stride))
    return found


def _number(text: str, smallest: int, largest: int, names: dict[str, int] | None = None) -> int:
    """Raises: ValueError."""
    if names and text in names:
        return names[text]
    if not (text.isascii() and text.isdigit()) or not smallest <= int(text) <= largest:
        raise ValueError(f'"{text}" is none of {smallest} to {largest}')
    return int(text)


def _wrong(expression: str, why: str) -> Invalid:
    return Invalid("ScheduleExpression", f"Parameter ScheduleExpression is not valid. {expression}: {why}.")
