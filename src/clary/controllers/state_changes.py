"""SageMaker's state changes on the bus: written in the very transaction that makes them so.

A state change is what `Describe` would say differently before and after a commit. Nothing is looked up or decoded
while no rule exists anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain import endpoint as endpoints
from clary.domain import transform_job as jobs
from clary.domain.errors import LimitExceeded
from clary.domain.event_target import event
from clary.domain.fleet_name import TRANSFORM_JOB
from clary.domain.state_change import endpoint_detail, transform_job_detail
from clary.store.bus import Bus, call_id
from clary.store.codec import decode
from clary.store.resources import Record

log = logging.getLogger(__name__)

ENDPOINT = "endpoint"
KINDS = frozenset({ENDPOINT, TRANSFORM_JOB})
DETAIL_TYPES = {ENDPOINT: "SageMaker Endpoint State Change", TRANSFORM_JOB: "SageMaker Transform Job State Change"}


class StateChanges:
    """The witness of `Resources`."""

    def __init__(self, bus: Bus, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._now = now

    def __call__(self, connection: Connection, before: Record | None, after: Record) -> bool:
        """Whether there are calls to be made when this is committed."""
        if not self._bus.listens(connection):
            return False
        status = _status(after)
        if before is not None and _status(before) == status:
            return False
        at = self._now()
        arn = after.place.arn(after.kind, after.name)
        detail: dict[str, Any] = (
            endpoint_detail(after.name, arn, status, after.desired, after.created_at, at)
            if after.kind == ENDPOINT
            else transform_job_detail(after.name, arn, status, after.desired, after.observed, after.created_at)
        )
        cause = call_id("sagemaker", after.uid, status, at.isoformat())
        told = event(cause, "aws.sagemaker", DETAIL_TYPES[after.kind], after.place, at, detail, (arn,))
        try:
            return self._bus.put(connection, after.place, told) > 0
        except LimitExceeded as error:  # the change itself must not fail because nobody takes the events
            log.warning("resource=%s status=%s event=not_told reason=%s", arn, status, error)
            return False


def _status(record: Record) -> str:
    if record.kind == ENDPOINT:
        wanted, seen = decode(endpoints.Desired, record.desired), decode(endpoints.Observed, record.observed)
        return endpoints.status(wanted, seen).value
    job, done = decode(jobs.TransformDesired, record.desired), decode(jobs.TransformObserved, record.observed)
    return jobs.status(job, done).value
