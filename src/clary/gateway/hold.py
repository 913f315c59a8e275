"""Holds the answer of CreateEndpoint and UpdateEndpoint a moment, so that the first Describe can say InService.

SDKs describe at once and then every 30 s; most endpoints are ready within a second, and gone as fast, which is why
DeleteEndpoint is held until there is nothing to describe. boto3's waiter for transform jobs looks once a minute, so a
job that is over within the time is over when its creation is answered. The service has recorded and
returned by then: holding changes what is so in no way, only when the client hears of it.
"""

from __future__ import annotations

import asyncio

from clary.domain.endpoint import Desired, EndpointStatus, Observed, status
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT, TRANSFORM_JOB
from clary.domain.transform_job import TransformObserved
from clary.services.base import Context, Members
from clary.store.codec import decode
from clary.store.resources import Resources
from clary.wire.catalog import Call

HOLD_S = 2.0
DELETIONS = frozenset(("DeleteEndpoint", "DeleteInferenceComponent"))
COMPONENTS = frozenset(
    ("CreateInferenceComponent", "UpdateInferenceComponent", "UpdateInferenceComponentRuntimeConfig")
)
JOBS = frozenset(("CreateTransformJob", "StopTransformJob"))
HELD = (
    frozenset(("CreateEndpoint", "UpdateEndpoint", "UpdateEndpointWeightsAndCapacities"))
    | DELETIONS
    | COMPONENTS
    | JOBS
)
BUSY = (EndpointStatus.CREATING, EndpointStatus.UPDATING)


class EndpointHold:
    """Waits for an endpoint or inference component to leave Creating, Updating or, once it is deleted, the store; for a
    job to be over. Two seconds at most."""

    def __init__(self, resources: Resources, hold_s: float = HOLD_S) -> None:
        self._resources = resources
        self._hold_s = hold_s

    async def __call__(self, call: Call, context: Context, params: Members) -> None:
        if call.service != "sagemaker" or call.operation.name not in HELD or not self._hold_s:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._hold_s
        while True:
            version = self._resources.version
            if await self._settled(call.operation.name, context, params):
                return
            left_s = deadline - loop.time()
            if left_s <= 0 or not await self._resources.changed_since(version, left_s):
                return

    async def _settled(self, operation: str, context: Context, params: Members) -> bool:
        """Whether there is nothing to wait for."""
        if operation in JOBS:
            job = await self._resources.find(TRANSFORM_JOB, context.place, params["TransformJobName"])
            return job is None or bool(decode(TransformObserved, job.observed).outcome)
        if "InferenceComponentName" in params:
            record = await self._resources.find(INFERENCE_COMPONENT, context.place, params["InferenceComponentName"])
        else:
            record = await self._resources.find(ENDPOINT, context.place, params["EndpointName"])
        if record is None:
            return True
        state = status(decode(Desired, record.desired), decode(Observed, record.observed))
        return state not in BUSY and operation not in DELETIONS
