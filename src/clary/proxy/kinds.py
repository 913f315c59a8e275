"""Whether a call fits the kind of variant that it meets: one model or many, one container or several."""

from __future__ import annotations

from typing import NamedTuple

from clary.domain.routing import VariantRoute
from clary.proxy import answers
from clary.proxy.answers import Refusal


class Wish(NamedTuple):
    """What an invocation asks for besides a prediction."""

    target: str = ""  # TargetModel, of a multi-model container; the request's head then comes without its first line
    stream: bool = False  # InvokeEndpointWithResponseStream
    session: str = ""
    container: str = ""  # TargetContainerHostname


PLAIN = Wish()


def fitting(endpoint: str, variant: VariantRoute, wish: Wish) -> VariantRoute | Refusal:
    """The route that takes the call: in direct mode that of its container, else the variant's own."""
    route: VariantRoute | None = variant
    if variant.direct:
        route = next((one for one in variant.containers if one.container == wish.container), None)
        if route is None:
            there = ", ".join(one.container for one in variant.containers)
            return answers.validation(
                f"Container {wish.container} is not present in endpoint {endpoint}; it has {there}."
                if wish.container
                else f"TargetContainerHostname is required for direct mode endpoints; endpoint {endpoint} has {there}."
            )
    elif wish.container:
        return answers.validation("TargetContainerHostname is only allowed for direct mode endpoints.")
    assert route is not None
    if route.multi_model != bool(wish.target):
        return wrong_kind(endpoint, route.multi_model)
    if wish.session and route.containers:
        return answers.validation(f"SessionId is not supported by pipelines, and endpoint {endpoint} is one.")
    return route


def wrong_kind(endpoint: str, multi_model: bool) -> Refusal:
    """To a call without a model where one must be named, or with one where none may be."""
    if multi_model:
        return answers.validation(
            f"Endpoint {endpoint} is a multi-model endpoint: TargetModel names the model, below its prefix."
        )
    return answers.validation(
        f"Endpoint {endpoint} is not a multi-model endpoint and does not support target model header."
    )
