"""A transform job whose object store is lost: it waits and says so, goes on when there is one, and ends one day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from clary.controllers.transforms import OBJECTS_AGAIN_S, TransformController
from clary.domain.endpoint import Container, Variant
from clary.domain.errors import Invalid, StoreFailed
from clary.domain.fleet_name import TRANSFORM_JOB
from clary.domain.names import Place
from clary.domain.transform_job import JOB_MAX_S, TransformDesired, TransformObserved
from clary.domain.transform_plan import Handling
from clary.paths import Layout
from clary.store import schema
from clary.store.codec import decode, encode
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.store.resources import Resources

HERE = Place()


class Objects:
    """The job's way to the object store; lost until `found`."""

    found = False

    def plan(self, *_: Any) -> tuple[int, int]:
        if not self.found:
            raise StoreFailed("asking the object store", detail="connection refused")
        raise Invalid("S3Uri", "no objects below it")


class World:
    def __init__(self, folder: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        layout = Layout(folder)
        layout.make()
        self.database = Database(f"sqlite:///{layout.database}")
        ensure_schema(
            self.database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=layout.database, now=self.now
        )
        self.resources = Resources(self.database, lambda: self.now)
        self.objects = Objects()
        nobody = cast(Any, None)  # no step of these tests comes so far
        self.controller = TransformController(
            layout, self.resources, nobody, nobody, nobody, cast(Any, self.objects), lambda: self.now, {}
        )

    async def job(self) -> int:
        variant = Variant("v", "m", Container("clary/sklearn"))
        desired = TransformDesired(1, variant, Handling(), "S3Prefix", "s3://b/in/", "s3://b/out/")
        record = await self.resources.create(TRANSFORM_JOB, HERE, "j", encode(desired))
        return record.uid

    async def observed(self) -> TransformObserved:
        record = await self.resources.get(TRANSFORM_JOB, HERE, "j")
        return decode(TransformObserved, record.observed)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


async def test_it_waits_and_says_for_what(world: World) -> None:
    uid = await world.job()
    for _ in range(3):
        assert await world.controller.reconcile(uid) == OBJECTS_AGAIN_S
    observed = await world.observed()
    assert observed.outcome == ""
    assert observed.progress.startswith("waiting: ")
    assert "connection refused" in observed.progress


async def test_it_goes_on_when_there_is_a_store_again(world: World) -> None:
    uid = await world.job()
    await world.controller.reconcile(uid)
    world.objects.found = True
    await world.controller.reconcile(uid)
    observed = await world.observed()
    assert (observed.outcome, observed.progress) == ("Failed", "")
    assert "no objects below it" in observed.failure_reason  # which only a store can tell


async def test_it_ends_when_it_is_older_than_a_job_may_be(world: World) -> None:
    uid = await world.job()
    world.now += timedelta(seconds=JOB_MAX_S)
    assert await world.controller.reconcile(uid) == OBJECTS_AGAIN_S
    world.now += timedelta(seconds=1)
    assert await world.controller.reconcile(uid) == 0.0
    observed = await world.observed()
    assert observed.outcome == "Failed"
    assert "connection refused" in observed.failure_reason
