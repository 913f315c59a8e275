"""Models of several containers: which may stand together, what they are called, how they are asked.

Serial: a pipeline; each container's answer is the next one's request. Direct: every request names its container.
Rules: SageMaker developer guide, "Multi-container endpoints" and "Inference pipelines"; texts are our own where AWS
publishes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from clary.domain.errors import Invalid

MAX_CONTAINERS = 15
MAX_ENVIRONMENT_BYTES = 32 * 1024  # of all containers of a model together


class ExecutionMode(StrEnum):
    """InferenceExecutionConfig.Mode."""

    SERIAL = "Serial"
    DIRECT = "Direct"


@dataclass(frozen=True, slots=True)
class Member:
    """A container as far as the rules look at it."""

    hostname: str = ""
    multi_model: bool = False
    environment_bytes: int = 0


def check(members: Sequence[Member], mode: ExecutionMode) -> None:
    """Whether they make a model. Raises: Invalid, naming the rule's member.

    # Serial with hostnames ("a", ""): all or none; see test_hostnames_are_all_or_none
    """
    size_bytes = sum(member.environment_bytes for member in members)
    if size_bytes > MAX_ENVIRONMENT_BYTES:
        raise Invalid(
            "Environment",
            f"Environment holds {size_bytes} bytes over all containers; at most {MAX_ENVIRONMENT_BYTES} are allowed.",
        )
    if len(members) > MAX_CONTAINERS:
        raise Invalid(
            "Containers",
            f"1 validation error detected: Value at 'containers' failed to satisfy constraint: Member must have length "
            f"less than or equal to {MAX_CONTAINERS}",
        )
    if len(members) < 2:
        if mode is ExecutionMode.DIRECT:
            raise Invalid("InferenceExecutionConfig", "Mode Direct needs at least two Containers.")
        return
    hostnames = [member.hostname for member in members if member.hostname]
    if mode is ExecutionMode.DIRECT and len(hostnames) < len(members):
        raise Invalid("ContainerHostname", "Mode Direct needs a ContainerHostname for each of the Containers.")
    if hostnames and len(hostnames) < len(members):
        raise Invalid(
            "ContainerHostname", "Give a ContainerHostname for every one of the Containers of a pipeline, or for none."
        )
    for hostname in hostnames:
        if hostnames.count(hostname) > 1:
            raise Invalid("ContainerHostname", f'The ContainerHostname "{hostname}" was non-unique within the request.')
    if mode is ExecutionMode.SERIAL and sum(member.multi_model for member in members) > 1:
        raise Invalid("Mode", "A pipeline may have one MultiModel container at most: TargetModel names one model.")


def names(hostnames: Sequence[str]) -> tuple[str, ...]:
    """What the containers are called: by their hostnames, or by their places from 1 on."""
    return tuple(hostname or f"container-{place}" for place, hostname in enumerate(hostnames, 1))


# -- what a pipeline's containers are sent ---------------------------------------------------------

ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
Headers = Sequence[tuple[str, str]]  # lower-case names


def headers_for(headers: Headers, last: bool) -> list[tuple[str, str]]:
    """Those that a container gets: the caller's Accept is for the last one; those before it choose by
    SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT or by their own default, as the toolkits of AWS's images do.

    # in the middle: no Accept; see test_only_the_last_container_gets_the_callers_accept
    """
    return list(headers) if last else [(name, value) for name, value in headers if name != "accept"]


def handed_on(headers: Headers, content_type: str, attributes: str) -> list[tuple[str, str]]:
    """The headers after a container has answered: the type of what it made, and its custom attributes where it gave
    some. An answer without a type hands on none."""
    replaced = {"content-type"} | ({ATTRIBUTES} if attributes else set())
    kept = [(name, value) for name, value in headers if name not in replaced]
    if content_type:
        kept.append(("content-type", content_type))
    if attributes:
        kept.append((ATTRIBUTES, attributes))
    return kept
