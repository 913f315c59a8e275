"""Makes functions what they should be: code unpacked, an environment with boto3, a uid; and removes what is left over.

What can be invoked stays so while newer code is being prepared, and when that fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from clary.controllers.function_code import UnpackedCode
from clary.controllers.loop import Key, Loop
from clary.controllers.preparation import Environment
from clary.domain.errors import Invalid, StoreFailed, Unsupported
from clary.domain.functions import FUNCTION, FunctionDesired, FunctionObserved, python_for
from clary.failpoints import failpoint
from clary.store.codec import decode, encode
from clary.store.function_code import FunctionCode
from clary.store.resources import Record, Resources

log = logging.getLogger(__name__)

REASON_CHARS = 500
COLLECT_EVERY_S = 3600.0
LOOK_S = 0.5


class FunctionEnvironments(Protocol):
    """The interpreters of this host, and an environment for functions on each. `exact`: no other may stand in."""

    @property
    def exact(self) -> bool: ...
    async def pythons(self) -> Sequence[str]: ...
    def provide_function(self, python: str) -> Awaitable[Environment]: ...


class FunctionController:
    """One level-triggered loop over all functions, keyed by uid."""

    def __init__(
        self,
        resources: Resources,
        environments: FunctionEnvironments,
        unpacked: UnpackedCode,
        code: FunctionCode,
        uids: tuple[int, int],
        running: Callable[[int], int],
    ) -> None:
        self._resources = resources
        self._environments = environments
        self._unpacked = unpacked
        self._code = code
        self._uids = uids
        self._running = running  # how many invocations of a function are under way
        self.loop = Loop("functions", self.reconcile, concurrency=2)

    async def watch(self) -> None:
        """Asks for a look at every function that a commit has changed; collects what no function names."""
        version = -1
        seen: dict[int, Record] = {}
        clock = asyncio.get_running_loop()
        collect_s = 0.0
        while True:
            await self._resources.changed_since(version, timeout_s=COLLECT_EVERY_S)
            version = self._resources.version
            found = {record.uid: record for record in await self._resources.all(FUNCTION)}
            for uid, record in found.items():
                if seen.get(uid) != record:
                    self.loop.add(uid)
            seen = found
            if clock.time() >= collect_s:
                collect_s = clock.time() + COLLECT_EVERY_S
                wanted = {decode(FunctionDesired, record.desired).code_sha256 for record in found.values()}
                wanted |= {decode(FunctionObserved, one.observed).code_key.partition(":")[2] for one in found.values()}
                await asyncio.to_thread(self._code.forget_all_but, wanted)

    async def reconcile(self, key: Key) -> float | None:
        assert isinstance(key, int)
        found = await self._resources.by_uid(key)
        if found is None:
            return None
        record = found[0]
        desired, observed = decode(FunctionDesired, record.desired), decode(FunctionObserved, record.observed)
        if desired.deleted:
            if self._running(record.uid):
                return LOOK_S
            await self._resources.remove(FUNCTION, record.place, record.name)
            return None
        if desired.code_key in (observed.code_key, observed.failed_key):
            return None
        try:
            made = await self._prepare(record.uid, desired, observed)
        except (Invalid, Unsupported) as error:
            why = error.why if isinstance(error, Invalid) else str(error)
            log.info("function=%s event=failed reason=%r", record.name, why)
            await self._report(record, replace(observed, failed_key=desired.code_key, reason=why[:REASON_CHARS]))
            return None
        except StoreFailed as error:  # the package index or the supervisor is away: it is tried again, and says why
            await self._report(record, replace(observed, reason=str(error)[:REASON_CHARS]))
            raise
        failpoint("trigger.after_function_prepared")
        await self._report(record, made)
        log.info("function=%s event=active note=%r", record.name, made.note)
        return None

    async def _prepare(self, uid: int, desired: FunctionDesired, observed: FunctionObserved) -> FunctionObserved:
        python, note = python_for(desired.runtime, await self._environments.pythons(), self._environments.exact)
        environment = await self._environments.provide_function(python)
        folder = await self._unpacked.provide(desired.code_sha256)
        worker_uid = await self._resources.worker_uid(uid, *self._uids)
        return FunctionObserved(
            code_key=desired.code_key,
            python=environment.python,
            prefixes=environment.prefixes,
            folder=str(folder),
            uid=worker_uid,
            note=note,
        )

    async def _report(self, record: Record, observed: FunctionObserved) -> None:
        await self._resources.report(record.uid, encode(observed))
