"""Changes of objects to those who are to be told: from the object index over into calls, each once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial

from clary.domain.bucket_notification import detail, record
from clary.domain.errors import ClaryError
from clary.domain.event_target import event
from clary.domain.names import Place, partition
from clary.failpoints import failpoint
from clary.store.bus import Bus, call_id
from clary.store.calls import Call, Calls, Terms
from clary.store.database import Database
from clary.store.object_events import Told
from clary.store.objects import ObjectStore

log = logging.getLogger(__name__)

SOURCE = "object-events"  # in the table of offsets
AT_ONCE = 200
AGAIN_S = 1.0
LOOK_S = 60.0


class ObjectEvents:
    """One loop, woken by the store."""

    def __init__(self, objects: ObjectStore, database: Database, calls: Calls, bus: Bus, account: str) -> None:
        self._objects = objects
        self._database = database
        self._calls = calls
        self._bus = bus
        self._account = account
        self._noted = asyncio.Event()

    async def run(self) -> None:
        """For ever; cancel to stop."""
        loop = asyncio.get_running_loop()
        self._objects.told = _across(loop, self._noted.set)
        while True:
            self._noted.clear()
            try:
                while await self._take():
                    pass
            except ClaryError as error:  # too many calls wait, or a disk is full: nothing is lost by waiting
                log.warning("event=object_events_wait reason=%s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._noted.wait()
            except TimeoutError:
                pass  # a look in case a word was lost

    async def _take(self) -> bool:
        """One page; False when there was nothing."""
        position = await self._calls.position(SOURCE)
        page = await asyncio.to_thread(self._objects.events_after, position, AT_ONCE)
        if not page:
            return False
        wanted = [call for told in page for call in await self._calls_of(told)]
        last = page[-1].event.number
        await self._calls.add_from(SOURCE, last, wanted)
        failpoint("trigger.after_events_taken")
        await asyncio.to_thread(self._objects.forget_events, last)
        return True

    async def _calls_of(self, told: Told) -> list[Call]:
        change = told.event
        place = Place(self._account, change.region)
        found = []
        for rule_id, arn in told.goes_to:
            if arn:
                cause = call_id("s3", change.number, rule_id, arn)
                body = json.dumps(record(change, rule_id, self._account))
                found.append(Call(cause, place, arn, body, Terms()))
                continue
            kind, body_of = detail(change, self._account)
            bucket = f"arn:{partition(change.region)}:s3:::{change.bucket}"
            on_bus = event(call_id("s3", change.number), "aws.s3", kind, place, change.at, body_of, (bucket,))
            found += await self._database.read(partial(self._bus.calls_of, place=place, told=on_bus))
        return found


def _across(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> Callable[[], None]:
    """`work` on the loop's own thread; nothing once the loop is closed."""

    def told() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(work)

    return told
