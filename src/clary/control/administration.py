"""Control's own unix socket, for the command line: what the public API has no words for.

{"op": "costs", "by": "endpoint" | "variant" | "day", "since_ns": n | null} -> {"sums": [...], "prices": source}
{"op": "verify"} -> the ledger against the raw usage        {"op": "notes"} -> per endpoint: notes, progress, reason
{"op": "jobs", "running": bool, "last": n} -> transform jobs, newest first, with their progress
{"op": "fetch_model", "fleet": f, "target": t} -> {"name", "url", "bytes"} of a multi-model endpoint's model,
                                    or {"invalid": text} when the target is the caller's mistake
{"op": "explain", "image": i} -> {"lines": [...]}            {"op": "pull", "image": i} -> builds its environment
{"op": "objects"} -> {"state", "detail"}: which object store is used, and whether it answers
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from clary.controllers.containers import Containers
from clary.controllers.metering import Metering
from clary.controllers.multimodel import MultiModels, NotAModel
from clary.controllers.preparation import Asked
from clary.controllers.publication import TransformJob, read_job
from clary.controllers.reconciliation import reconcile
from clary.controllers.transforms import TransformController
from clary.domain.endpoint import Desired, Observed, failure_reason, status
from clary.domain.errors import ClaryError
from clary.domain.fleet_name import TRANSFORM_JOB
from clary.domain.prices import PriceBook
from clary.domain.transform_job import CLEARED
from clary.domain.transform_job import status as transform_status
from clary.paths import Layout
from clary.store.codec import decode
from clary.store.database import Database
from clary.store.ledger import Ledger
from clary.store.resources import Resources


class Administration:
    """What may be asked of control."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        resources: Resources,
        prices: PriceBook,
        metering: Metering,
        images: Containers,
        transforms: TransformController,
        multi_models: MultiModels,
        look_at_objects: Callable[[], Awaitable[dict[str, str]]],
        region: str,
        now: Callable[[], datetime],
    ) -> None:
        """`region`: whose repositories the names of images mean where the command line asks."""
        self._region = region
        self._layout = layout
        self._database = database
        self._resources = resources
        self._prices = prices
        self._metering = metering
        self._images = images
        self._transforms = transforms
        self._multi_models = multi_models
        self._look_at_objects = look_at_objects
        self._now = now

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises: ValueError for an unknown op, or for what the request's own error is."""
        try:
            match request["op"]:
                case "costs":
                    return await self._costs(request)
                case "verify":
                    await self._metering.look()
                    found = await asyncio.to_thread(reconcile, self._layout, self._database)
                    return {"exact": found.exact, **asdict(found)}
                case "notes":
                    return await self._notes()
                case "jobs":
                    return {"jobs": await self._jobs(bool(request.get("running")), int(request.get("last", 0)))}
                case "fetch_model":
                    return await self._fetch_model(str(request["fleet"]), str(request["target"]))
                case "explain":
                    return {"lines": await self._images.explain(str(request["image"]), self._region)}
                case "engine":
                    return {**await self._images.engine()}
                case "objects":
                    return {**await self._look_at_objects()}
                case "pull":
                    asked = Asked(str(request["image"]), self._region)
                    made = await self._images.provide(asked, None, None, lambda _text: None)
                    return asdict(made)
                case other:
                    raise ValueError(f"unknown op {other!r}")
        except ClaryError as error:
            raise ValueError(str(error)) from error

    async def _fetch_model(self, fleet: str, target: str) -> dict[str, Any]:
        try:
            return await self._multi_models.fetch(fleet, target)
        except NotAModel as error:
            return {"invalid": str(error)}

    async def _costs(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._metering.look()
        ledger = Ledger(self._database)
        sums = await ledger.sums(request.get("by", "endpoint"), request.get("region"), request.get("since_ns"))
        return {"sums": [asdict(one) for one in sums], "prices": self._prices.source}

    async def _jobs(self, running: bool, last: int) -> list[dict[str, Any]]:
        records = await (
            self._resources.unfinished(TRANSFORM_JOB, CLEARED) if running else self._resources.all(TRANSFORM_JOB)
        )
        found = [read_job(record) for record in reversed(records[-last:] if last else records)]
        return [await self._job(job) for job in found if not (running and job.observed.outcome)]

    async def _job(self, job: TransformJob) -> dict[str, Any]:
        observed = job.observed
        live = {} if observed.outcome else await asyncio.to_thread(self._transforms.progress, job.record.uid)
        started = datetime.fromisoformat(observed.started_at) if observed.started_at else None
        ended = datetime.fromisoformat(observed.ended_at) if observed.ended_at else self._now()
        return {
            "job": job.record.name,
            "kind": TRANSFORM_JOB,
            "region": job.record.place.region,
            "status": transform_status(job.desired, observed).value,
            "objects": observed.objects,
            "objects_done": max(observed.published, live.get("objects", 0)),
            "bytes": observed.bytes,
            "bytes_read": live.get("bytes", 0),
            "records": live.get("lines", observed.records),
            "elapsed_s": (ended - started).total_seconds() if started else 0.0,
            "progress": observed.progress,
            "notes": list(observed.notes),
            "failure_reason": observed.failure_reason,
        }

    async def _notes(self) -> dict[str, Any]:
        told = []
        for record in await self._resources.all("endpoint"):
            desired, observed = decode(Desired, record.desired), decode(Observed, record.observed)
            told.append(
                {
                    "endpoint": record.name,
                    "region": record.place.region,
                    "status": status(desired, observed).value,
                    "notes": list(observed.notes),
                    "progress": observed.progress,
                    "failure_reason": failure_reason(desired, observed),
                }
            )
        return {"endpoints": told}
