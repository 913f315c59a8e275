"""Gives every copy of an inference component its instance of the host, one component after the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from clary.controllers.publication import Endpoint, read
from clary.domain.component import Component, HostVariant, NoRoom, Placed, Requirements, place
from clary.domain.endpoint import Desired, wanted
from clary.domain.errors import NotFound
from clary.domain.fleet_name import ENDPOINT, INFERENCE_COMPONENT
from clary.domain.placement import capacity
from clary.domain.prices import PriceBook
from clary.domain.rollout import rolling_out
from clary.store.codec import decode, encode
from clary.store.resources import Resources


class ComponentPlaces:
    """See the module. What it decides is stored with the component before anything runs by it."""

    def __init__(self, resources: Resources, prices: PriceBook) -> None:
        self._resources = resources
        self._prices = prices
        self._lock = asyncio.Lock()  # two components never take the same room

    async def look(self, one: Endpoint) -> tuple[Endpoint, str]:
        """The component with the places that its copies should have, and "" or why a copy has none."""
        component = one.desired.target.component
        assert component is not None
        count, reserving = copies(one)
        if len(one.observed.placement) == count and not rolling_out(one.desired, one.observed):
            return one, ""
        async with self._lock:
            try:
                host = await self._host(one, component)
            except NotFound as error:
                return one, str(error)
            others = [
                placed(other)
                for other in [read(*found) for found in await self._resources.all_with_tags(INFERENCE_COMPONENT)]
                if other.record.uid != one.record.uid
                and other.record.place == one.record.place
                and not other.desired.deleted
                and _same_host(other.desired, component)
            ]
            needs = _requirements(one)
            room = capacity(self._prices.instances[host.instance_type])
            before, pack = one.observed.placement, _packs(component)
            found = place(count, reserving, needs, before, others, room, host.limit, pack)
            if isinstance(found, NoRoom):
                return one, str(found)
            if found != one.observed.placement:
                one = replace(one, observed=replace(one.observed, placement=found))
                await self._resources.report(one.record.uid, encode(one.observed))
            return one, ""

    async def _host(self, one: Endpoint, component: Component) -> HostVariant:
        """Raises: NotFound."""
        record = await self._resources.get(ENDPOINT, one.record.place, component.endpoint)
        hosts = decode(Desired, record.desired).target.hosts
        for host in hosts:
            if host.name == component.variant:
                return host
        raise NotFound("variant for inference components", component.variant)


def copies(one: Endpoint) -> tuple[int, int]:
    """(copies that have a place, how many of them must run)."""
    (variant,) = wanted(one.desired, one.observed).variants
    bounds = one.desired.scaling.get(variant.name)
    if bounds is not None:
        return bounds.max, bounds.min
    return variant.instance_count, 0 if one.desired.scale_to_zero else variant.instance_count


def placed(one: Endpoint) -> Placed:
    """What a component's copies take of its host."""
    return Placed(_requirements(one), one.observed.placement, copies(one)[1])


def _requirements(one: Endpoint) -> Requirements:
    (variant,) = wanted(one.desired, one.observed).variants
    assert variant.requirements is not None
    return variant.requirements


def _packs(component: Component) -> bool:
    scheduling = component.specification.get("SchedulingConfig")
    return isinstance(scheduling, dict) and scheduling.get("PlacementStrategy") == "BINPACK"


def _same_host(other: Desired, component: Component) -> bool:
    held = other.target.component
    return held is not None and (held.endpoint, held.variant) == (component.endpoint, component.variant)
