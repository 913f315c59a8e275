"""Firing on a hand-turned clock and a real database: each due time once, whatever dies in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clary.controllers.timers import LOOK_S, Timers
from clary.domain.errors import LimitExceeded
from clary.domain.event_target import CREATE_TRANSFORM_JOB, Target
from clary.domain.names import Place
from clary.store import schema
from clary.store.bus import RULE, SCHEDULE
from clary.store.calls import Call, Calls
from clary.store.codec import encode
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.store.resources import Resources

FRIDAY = datetime(2026, 3, 6, 13, 0, tzinfo=UTC)  # 08:00 in New York, two days before its clocks go forward
QUEUE = "arn:aws:sqs:us-east-1:123456789012:q"


class World:
    """One database; `restart` is what a new control is: nothing remembered but what is stored."""

    def __init__(self, file: Path) -> None:
        self.at = FRIDAY
        self.file = file
        self.most = 100
        self.database = Database(f"sqlite:///{file}")
        ensure_schema(self.database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=file, now=self.at)
        self.restart()

    def now(self) -> datetime:
        return self.at

    def restart(self) -> None:
        self.resources = Resources(self.database, self.now)
        self.calls = Calls(self.database, self.now, self.most)
        self.timers = Timers(self.database, self.resources, self.calls, self.now)

    async def schedule(self, expression: str, zone: str = "America/New_York", **more: Any) -> None:
        target = Target("target", CREATE_TRANSFORM_JOB, input='{"TransformJobName": "t-<aws.scheduler.execution-id>"}')
        desired = {
            "arn": "arn:schedule",
            "schedule": expression,
            "zone": zone,
            "state": "ENABLED",
            "start": self.at.isoformat(),
            "end": "",
            "target": encode(target),
            "delete_after": False,
            **more,
        }
        await self.resources.create(SCHEDULE, Place(), "nightly", desired)

    async def waiting(self) -> list[Call]:
        return await self.calls.due_now(100, ())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "clary.db")
    yield made
    made.database.close()


async def test_a_weekday_schedule_fires_exactly_at_its_times(world: World) -> None:
    await world.schedule("cron(0 9 ? * MON-FRI *)")
    fired = []
    while world.at < FRIDAY + timedelta(days=12):
        before = len(await world.waiting())
        await world.timers.look()
        await world.timers.look()
        if len(await world.waiting()) > before:
            fired.append(world.at)
        world.at += timedelta(minutes=20)
        world.restart()
    # 09:00 in New York is 14:00 in UTC before the change of clocks and 13:00 after it; Saturdays and Sundays are free.
    assert fired == [
        datetime(2026, 3, 6, 14, tzinfo=UTC),
        *(datetime(2026, 3, day, 13, tzinfo=UTC) for day in (9, 10, 11, 12, 13, 16, 17)),
    ]
    names = {json.loads(call.body)["TransformJobName"] for call in await world.waiting()}
    assert len(names) == len(fired)


async def test_a_restart_between_two_looks_fires_nothing_twice_and_misses_nothing(world: World) -> None:
    await world.schedule("rate(1 hour)")
    await world.timers.look()
    assert len(await world.waiting()) == 1  # a rate of the scheduler begins at once
    world.restart()
    await world.timers.look()
    assert len(await world.waiting()) == 1
    world.at += timedelta(hours=1, minutes=10)  # nobody looked at the hour
    world.restart()
    await world.timers.look()
    assert len(await world.waiting()) == 2


async def test_a_clock_that_jumps_fires_no_flood(world: World) -> None:
    await world.schedule("rate(1 minute)")
    await world.timers.look()
    world.at += timedelta(days=30)
    await world.timers.look()
    await world.timers.look()
    assert len(await world.waiting()) == 2
    world.at -= timedelta(days=29)
    await world.timers.look()
    world.at += timedelta(days=29)
    assert len(await world.waiting()) == 2


async def test_nothing_is_marked_as_fired_whose_call_could_not_be_kept(world: World) -> None:
    world.most = 1
    world.restart()
    await world.schedule("rate(1 hour)")
    await world.timers.look()
    world.at += timedelta(hours=1)
    with pytest.raises(LimitExceeded, match="calls_limit"):
        await world.timers.look()
    (call,) = await world.waiting()
    await world.calls.done(call)
    await world.timers.look()
    assert len(await world.waiting()) == 1


async def test_a_rule_fires_its_targets_in_utc_and_one_that_is_over_goes(world: World) -> None:
    rule = {
        "pattern": "",
        "schedule": "cron(30 13 * * ? *)",
        "state": "ENABLED",
        "start": world.at.isoformat(),
        "targets": [encode(Target("one", QUEUE)), encode(Target("two", QUEUE, input='{"x": 1}'))],
    }
    await world.resources.create(RULE, Place(), "daily", rule)
    await world.schedule("at(2026-03-06T08:30:00)", delete_after=True)
    assert await world.timers.look() == LOOK_S
    assert await world.waiting() == []
    world.at = datetime(2026, 3, 6, 13, 29, 57, tzinfo=UTC)
    assert await world.timers.look() == pytest.approx(3.0)
    world.at = datetime(2026, 3, 6, 13, 30, 0, 250_000, tzinfo=UTC)
    await world.timers.look()
    found = await world.waiting()
    assert sorted(call.target for call in found) == sorted([QUEUE, QUEUE, CREATE_TRANSFORM_JOB])
    told = next(json.loads(call.body) for call in found if call.target == QUEUE and "detail-type" in call.body)
    assert (told["detail-type"], told["source"], told["time"]) == (
        "Scheduled Event",
        "aws.events",
        "2026-03-06T13:30:00Z",
    )
    assert told["resources"] == ["arn:aws:events:us-east-1:123456789012:rule/daily"]
    assert await world.resources.find(SCHEDULE, Place(), "nightly") is None
