"""Fires schedules: rules of the bus that have one, and schedules of EventBridge Scheduler.

A firing is one transaction: the due time is written to the thing, its calls are put. So a due time is fired for once,
however often control dies, and a clock that jumps makes one firing of what it skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from clary.domain import schedules
from clary.domain.errors import ClaryError
from clary.domain.event_target import Target, event, rule_arn, scheduled_input
from clary.domain.timetable import Timetable
from clary.failpoints import failpoint
from clary.store import resources as stored
from clary.store.bus import RULE, SCHEDULE, call_id, target_calls
from clary.store.calls import Call, Calls, Terms
from clary.store.codec import decode
from clary.store.database import Database
from clary.store.resources import Record, Resources

log = logging.getLogger(__name__)

# A wall clock may be set at any time: it is looked at this often at least, so that a due time comes on time even then.
LOOK_S = 10.0
AGAIN_S = 1.0


class Timers:
    """One loop over all that fires."""

    def __init__(self, database: Database, resources: Resources, calls: Calls, now: Callable[[], datetime]) -> None:
        self._database = database
        self._resources = resources
        self._calls = calls
        self._now = now

    async def run(self) -> None:
        """For ever; cancel to stop."""
        while True:
            version = self._resources.version
            try:
                wait_s = await self.look()
            except ClaryError as error:  # too many calls wait, or the disk is full: it is still due afterwards
                log.warning("event=timers_wait reason=%s", error)
                wait_s = AGAIN_S
            await self._resources.changed_since(version, timeout_s=wait_s)

    async def look(self) -> float:
        """Fires what is due; the seconds after which to look again. Raises: LimitExceeded, StoreFailed."""
        now = self._now()
        following: list[datetime] = []
        for record in [*await self._resources.all(RULE), *await self._resources.all(SCHEDULE)]:
            timetable = timetable_of(record)
            if timetable is None:
                continue
            fired_us = int(record.observed.get("fired_us", 0))
            if timetable.due(fired_us, now) is not None:
                fired = await self._database.write(_Firing(self._calls, record.uid, now))
                self._calls.woken()
                fired_us = fired or fired_us
            due = timetable.next(fired_us)
            if due is not None and due > now:
                following.append(due)
        failpoint("trigger.after_timers")
        waits_s = [(due - self._now()).total_seconds() for due in following]
        return max(0.0, min([LOOK_S, *waits_s]))


class _Firing:
    """The transaction: whether it is still due is asked of what the database holds."""

    def __init__(self, calls: Calls, uid: int, now: datetime) -> None:
        self._calls = calls
        self._uid = uid
        self._now = now

    def __call__(self, connection: Connection) -> int:
        """The due time that was fired for, in microseconds; 0 when it was not due after all."""
        record = stored.by_uid(connection, self._uid)
        timetable = timetable_of(record) if record is not None else None
        if record is None or timetable is None:
            return 0
        due = timetable.due(int(record.observed.get("fired_us", 0)), self._now)
        if due is None:
            return 0
        due_us = round(due.timestamp() * 1_000_000)
        self._calls.put(connection, calls_of(record, due))
        stored.observe(connection, record.uid, {**record.observed, "fired_us": due_us})
        late_s = (self._now - due).total_seconds()
        log.info("kind=%s name=%s event=fired due=%s late_s=%.3f", record.kind, record.name, due.isoformat(), late_s)
        if record.desired.get("delete_after") and timetable.next(due_us) is None:
            stored.erase(connection, record)
        return due_us


def timetable_of(record: Record) -> Timetable | None:
    """When a record fires; None when it does not, or is switched off."""
    desired: Mapping[str, Any] = record.desired
    expression = desired.get("schedule", "")
    if desired["state"] != "ENABLED" or not expression:
        return None
    end = desired.get("end", "")
    return Timetable(
        schedules.parse(expression, at_start=record.kind == SCHEDULE),
        datetime.fromisoformat(desired["start"]),
        ZoneInfo(desired.get("zone") or "UTC"),
        datetime.fromisoformat(end) if end else None,
    )


def calls_of(record: Record, due: datetime) -> list[Call]:
    """What a firing causes."""
    cause = call_id(record.uid, due.astimezone(UTC).isoformat())
    if record.kind == RULE:
        arn = rule_arn(record.place, record.name)
        told = event(cause, "aws.events", "Scheduled Event", record.place, due, {}, (arn,))
        return target_calls(record, told, cause)
    target = decode(Target, record.desired["target"])
    body = scheduled_input(target.input or "{}", due, record.desired["arn"], cause)
    terms = Terms(
        role_arn=target.role_arn,
        user=record.desired.get("user", ""),
        user_role=record.desired.get("user_role", ""),
        retries=target.retries,
        max_age_s=target.max_age_s,
        dead_letter_arn=target.dead_letter_arn,
    )
    return [Call(cause, record.place, target.arn, body, terms)]
