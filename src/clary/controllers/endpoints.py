"""Makes endpoints what they should be: prepare, start, prove, route, drain, stop. Every step may be repeated.

Inference components go the same way, with copies for instances: a second controller has them.

Each look at an endpoint takes it one step further and commits what is so before it acts on it, so that a crash
between any two lines is picked up by the next look. Failpoints name the places where a test lets the process die.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clary.controllers.component_places import ComponentPlaces
from clary.controllers.loop import Key, Loop
from clary.controllers.preparation import Preparation
from clary.controllers.publication import Endpoint, Publisher, ask_proxy, read
from clary.domain.endpoint import Observed, prepared_of
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT, parse_fleet_name
from clary.domain.rollout import Verdict, rolling_out, running, verdict
from clary.failpoints import failpoint
from clary.paths import Layout
from clary.runtimes.process import ProcessRuntime
from clary.store.codec import encode
from clary.store.resources import Record, Resources

log = logging.getLogger(__name__)

DRAIN_LOOK_S = 0.05
SLOW_LOOK_S = 1.0


class EndpointController:
    """One level-triggered loop over all endpoints, keyed by uid; or with `places` over all inference components."""

    def __init__(
        self,
        layout: Layout,
        resources: Resources,
        runtime: ProcessRuntime,
        preparation: Preparation,
        publisher: Publisher,
        places: ComponentPlaces | None = None,
    ) -> None:
        self._kind = ENDPOINT if places is None else INFERENCE_COMPONENT
        self._places = places
        self._layout = layout
        self._resources = resources
        self._runtime = runtime
        self._preparation = preparation
        self._publisher = publisher
        self.loop = Loop(f"{self._kind}s", self.reconcile)
        self._by_name: dict[tuple[str, str], int] = {}
        self._published: dict[int, str] = {}  # uid -> fingerprint of what the tables hold of it

    async def watch(self) -> None:
        """Asks for a look at every endpoint that a commit has changed, and at all of them every half minute."""
        version = -1
        seen: dict[int, tuple[Record, dict[str, str]]] = {}
        while True:
            if not await self._resources.changed_since(version, timeout_s=30.0):
                seen = {}
            version = self._resources.version
            found = {record.uid: (record, tags) for record, tags in await self._resources.all_with_tags(self._kind)}
            for uid, pair in found.items():
                self._by_name[pair[0].place.region, pair[0].name] = uid
                if seen.get(uid) != pair:
                    self.loop.add(uid)
            seen = found

    def fleet_changed(self, fleet: str) -> None:
        """A worker of `fleet` changed its state."""
        name = parse_fleet_name(fleet)
        uid = self._by_name.get((name.region, name.owner)) if name.kind == self._kind else None
        if uid is not None:
            self.loop.add(uid)

    async def reconcile(self, key: Key) -> float | None:
        assert isinstance(key, int)
        found = await self._resources.by_uid(key)
        if found is None:
            return None
        endpoint = read(*found)
        if endpoint.desired.deleted:
            return await self._remove(endpoint)
        problem = ""
        if self._places is not None:
            endpoint, problem = await self._places.look(endpoint)
        if rolling_out(endpoint.desired, endpoint.observed):
            return await self._give_up(endpoint, problem) if problem else await self._roll_out(endpoint)
        after_s = await self._retire(endpoint) if endpoint.observed.retiring else None
        await self._publish_if_changed(endpoint)
        return after_s

    # -- roll out --------------------------------------------------------------------------------

    async def _roll_out(self, endpoint: Endpoint) -> float | None:
        target, observed = endpoint.desired.target, endpoint.observed
        prepared, problem, progress = await self._preparation.look(endpoint, target, self.loop.add)
        if problem:
            return await self._give_up(endpoint, problem)
        if prepared is None:
            if progress != observed.progress:
                await self._report(endpoint, replace(observed, progress=progress))
            return SLOW_LOOK_S
        if any(observed.prepared.get(name) != value for name, value in prepared.items()):
            observed = replace(observed, prepared={**observed.prepared, **prepared}, progress="starting workers")
            failpoint("endpoint.before_prepared")
            endpoint = await self._report(endpoint, observed)
            failpoint("endpoint.after_prepared")
        await self._publish_if_changed(endpoint)
        failpoint("endpoint.after_launch")
        views = {part.name: self._runtime.view(endpoint.fleet(target, part.name)) for part in target.parts}
        for part in target.parts:
            wanted = self._publisher.sizes(endpoint, target)[part.name]
            if views[part.name].live < wanted.proof and not wanted.min:
                await self._runtime.request("ensure", fleet=endpoint.fleet(target, part.name), n=wanted.proof)
        outcome, failed = verdict(self._publisher.sizes(endpoint, target), views)
        if outcome is Verdict.FAILED:
            return await self._give_up(endpoint, views[failed].reason)
        if outcome is Verdict.WAIT:
            return SLOW_LOOK_S
        return await self._put_in_service(endpoint)

    async def _put_in_service(self, endpoint: Endpoint) -> float | None:
        target, observed = endpoint.desired.target, endpoint.observed
        old = observed.serving
        if observed.routed != target:
            observed = replace(observed, routed=target)
            endpoint = await self._report(endpoint, observed)
            failpoint("endpoint.after_routed")
            await self._publish_if_changed(endpoint)
            failpoint("endpoint.after_routes_published")
        retiring = observed.retiring
        if old is not None and old.number != target.number:
            retiring = (*retiring, old)
        observed = replace(
            observed,
            serving=target,
            revision=endpoint.desired.revision,
            retiring=retiring,
            progress="",
            failure_reason="",
            failed_number=0,
            notes=self._notes(endpoint),
        )
        endpoint = await self._report(endpoint, observed, touch=True)
        failpoint("endpoint.after_in_service")
        log.info("endpoint=%s event=in_service number=%d", endpoint.record.name, target.number)
        for part in target.parts:
            self._runtime.forget(endpoint.fleet(target, part.name))
        await self._publish_if_changed(endpoint)
        return DRAIN_LOOK_S if retiring else None

    def _notes(self, endpoint: Endpoint) -> tuple[str, ...]:
        notes = []
        for part in endpoint.desired.target.parts:
            notes += list(self._publisher.share(part).notes)
            prepared = prepared_of(endpoint.observed, endpoint.desired.target, part.name)
            if prepared and prepared.image and prepared.image.note:
                notes.append(prepared.image.note)
        level = self._runtime.isolation.get("level", "none")
        if level != "root":
            notes.append(f"isolation: {level} ({self._runtime.isolation.get('reason', '')})")
        return tuple(dict.fromkeys(notes))

    async def _give_up(self, endpoint: Endpoint, reason: str) -> float | None:
        target = endpoint.desired.target
        observed = replace(
            endpoint.observed,
            failed_number=target.number,
            failed_revision=endpoint.desired.revision,
            failure_reason=reason,
            progress="",
            routed=None,
        )
        if endpoint.observed.serving is not None:
            observed = replace(observed, routed=endpoint.observed.serving)
        endpoint = await self._report(endpoint, observed, touch=True)
        failpoint("endpoint.after_failed")
        log.warning("endpoint=%s event=failed number=%d reason=%r", endpoint.record.name, target.number, reason)
        await self._publish_if_changed(endpoint)
        return None

    # -- the old fleet, and the end --------------------------------------------------------------

    async def _retire(self, endpoint: Endpoint) -> float | None:
        """Stops what is no longer routed to, once nothing is inside it any more."""
        facts = (await ask_proxy(self._layout.proxy_socket, {"op": "facts"}))["fleets"]
        left = tuple(
            deployment
            for deployment in endpoint.observed.retiring
            if any(facts.get(endpoint.fleet(deployment, part.name), {}).get("inside", 0) for part in deployment.parts)
        )
        if len(left) == len(endpoint.observed.retiring):
            return DRAIN_LOOK_S
        kept = {
            deployment.number for deployment in running(endpoint.desired, replace(endpoint.observed, retiring=left))
        }
        prepared = {
            name: value for name, value in endpoint.observed.prepared.items() if int(name.partition("/")[0]) in kept
        }
        await self._report(endpoint, replace(endpoint.observed, retiring=left, prepared=prepared))
        failpoint("endpoint.after_retired")
        return 0.0

    async def _remove(self, endpoint: Endpoint) -> float | None:
        """Takes the endpoint out of both tables; when its last worker has gone, forgets it."""
        await self._publish_if_changed(endpoint)
        failpoint("endpoint.after_removal_published")
        prefix = f"{endpoint.record.place.region}/{endpoint.owner}/"
        if any(event["fleet"].startswith(prefix) for event in self._runtime.workers.values()):
            return SLOW_LOOK_S
        for fleet in [fleet for fleet in self._runtime.failures if fleet.startswith(prefix)]:
            self._runtime.forget(fleet)
        await self._resources.remove(self._kind, endpoint.record.place, endpoint.record.name)
        self._published.pop(endpoint.record.uid, None)
        self._by_name.pop((endpoint.record.place.region, endpoint.record.name), None)
        log.info("endpoint=%s event=deleted", endpoint.record.name)
        return None

    # -- small steps -----------------------------------------------------------------------------

    async def _report(self, endpoint: Endpoint, observed: Observed, touch: bool = False) -> Endpoint:
        body: Mapping[str, Any] = encode(observed)
        await self._resources.report(endpoint.record.uid, body, touch=touch)
        return replace(endpoint, observed=observed)

    async def _publish_if_changed(self, endpoint: Endpoint) -> None:
        """Publishes when the tables would hold something else of this endpoint than they do."""
        print_ = _fingerprint(endpoint)
        if self._published.get(endpoint.record.uid) != print_:
            await self._publisher.publish()
            self._published[endpoint.record.uid] = print_


def _fingerprint(endpoint: Endpoint) -> str:
    observed = replace(endpoint.observed, progress="", failure_reason="", notes=())
    return repr((endpoint.desired, observed))
