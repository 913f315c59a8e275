"""Who answers an invocation: the route table that control publishes and the proxy reads, and the choice of a variant.

The table is a plain value, swapped whole. `choose` is pure: chance comes in as `u`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from clary.domain.capture import Capture


class RoutingStrategy(StrEnum):
    """How a variant spreads its requests over its workers (RoutingConfig)."""

    LEAST_OUTSTANDING_REQUESTS = "LEAST_OUTSTANDING_REQUESTS"
    RANDOM = "RANDOM"


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How long an idle worker may stay. `fixed_s` beats the adaptive policy; see `domain.scaling.keep_alive_s`."""

    fixed_s: float | None = None
    min_s: float = 10.0
    max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class VariantRoute:
    """One production variant as the proxy needs it."""

    name: str
    fleet: str
    weight: float
    serverless: bool = False
    max_concurrency: int = 0  # serverless: exact; 0 means no limit of the variant's own
    worker_concurrency: int = 256  # requests in flight on one worker
    min_workers: int = 0
    max_workers: int = 1
    strategy: RoutingStrategy = RoutingStrategy.LEAST_OUTSTANDING_REQUESTS
    keep_alive: KeepAlive | None = None  # None: never stopped for being idle
    request_timeout_s: float = 60.0
    queue_limit: int = 1000
    queue_timeout_s: float = 60.0
    max_request_bytes: int = 25 * 1024 * 1024
    max_response_bytes: int = 25 * 1024 * 1024
    capture: Capture | None = None
    multi_model: bool = False
    cache_models: bool = True  # of a multi-model variant: False unloads a model after each call
    component: str = ""  # the inference component that this is, on instances of the variant `name`
    # A model of several containers: a route for each, in order; the variant's own fleet is then its account only.
    containers: tuple[VariantRoute, ...] = ()
    direct: bool = False  # TargetContainerHostname chooses; else they are a pipeline
    container: str = ""  # of such a route: its hostname

    @property
    def routes(self) -> tuple[VariantRoute, ...]:
        """What has workers."""
        return self.containers or (self,)


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """One endpoint in one region."""

    name: str
    region: str
    account: str
    variants: tuple[VariantRoute, ...]
    asynchronous: bool = False
    hosts_components: bool = False  # `variants` then are inference components, chosen by name


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All endpoints that take requests, by (region, name). Names match case-sensitively, as InvokeEndpoint's do."""

    generation: int = 0
    endpoints: Mapping[tuple[str, str], EndpointRoute] = field(default_factory=dict)

    def fleets(self) -> set[str]:
        """Of all variants that take requests."""
        return {
            route.fleet
            for endpoint in self.endpoints.values()
            for variant in endpoint.variants
            for route in variant.routes
        }

    def as_dict(self) -> dict[str, Any]:
        return {"generation": self.generation, "endpoints": [asdict(route) for route in self.endpoints.values()]}


def parse_table(body: Mapping[str, Any]) -> RouteTable:
    """The table from its JSON form.

    Raises: KeyError, TypeError or ValueError when it is malformed (the reader then keeps its old table).
    """
    endpoints = {}
    for entry in body.get("endpoints", ()):
        variants = tuple(_variant(variant) for variant in entry["variants"])
        route = EndpointRoute(**{**entry, "variants": variants})
        endpoints[route.region, route.name] = route
    return RouteTable(generation=body.get("generation", 0), endpoints=endpoints)


def _variant(entry: Mapping[str, Any]) -> VariantRoute:
    return VariantRoute(
        **{
            **entry,
            "strategy": RoutingStrategy(entry["strategy"]),
            "keep_alive": KeepAlive(**entry["keep_alive"]) if entry["keep_alive"] is not None else None,
            "capture": _capture(entry.get("capture")),
            "containers": tuple(_variant(one) for one in entry.get("containers", ())),
        }
    )


def _capture(entry: Mapping[str, Any] | None) -> Capture | None:
    if entry is None:
        return None
    types = {name: tuple(entry[name]) for name in ("csv_types", "json_types")}
    return Capture(**{**entry, **types})


def choose(variants: Sequence[VariantRoute], u: float) -> VariantRoute | None:
    """The variant that takes a request with chance `u` in [0, 1): each by weight over the sum of weights.

    None when every weight is 0. # weights 1 and 3: u < 0.25 takes the first; see test_weights_split_requests
    """
    if len(variants) == 1:
        return variants[0] if variants[0].weight > 0 else None
    total = sum(variant.weight for variant in variants)
    if total <= 0:
        return None
    mark = u * total
    for variant in variants:
        mark -= variant.weight
        if mark < 0:
            return variant
    return next(variant for variant in reversed(variants) if variant.weight > 0)


def target(variants: Sequence[VariantRoute], name: str) -> VariantRoute | None:
    """The variant that X-Amzn-SageMaker-Target-Variant names."""
    return next((variant for variant in variants if variant.name == name), None)
