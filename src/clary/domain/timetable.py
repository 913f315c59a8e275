"""A thing that fires by itself, a rule with a schedule or a schedule of EventBridge Scheduler: what was, what is due.

`fired_us` is the due time that was fired for last; it is written with what that firing causes, so each due time comes
once. What was missed while nobody looked is one firing, for the latest due time, unless that is a day ago.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from clary.domain import schedules
from clary.domain.schedules import Schedule


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a thing fires: from `start` on, to `end` where there is one."""

    schedule: Schedule
    start: datetime
    zone: tzinfo = UTC
    end: datetime | None = None

    def due(self, fired_us: int, now: datetime) -> datetime | None:
        """The latest due time that has come and was not fired for; None when there is none."""
        return schedules.due(self.schedule, self._after(fired_us), now, self.start, self.zone, self.end)

    def next(self, fired_us: int) -> datetime | None:
        """The first due time after the one that was fired for; None when that was the last."""
        found = schedules.next_fire(self.schedule, self._after(fired_us), self.start, self.zone)
        return None if found is None or (self.end is not None and found > self.end) else found

    def _after(self, fired_us: int) -> datetime:
        before = self.start - timedelta(microseconds=1)
        return max(before, datetime.fromtimestamp(fired_us / 1_000_000, UTC)) if fired_us else before
