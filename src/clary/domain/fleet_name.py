"""A fleet's name, `region/owner/variant/generation`, in its parts.

The owner is an endpoint's name, or for workers of a job or an inference component its kind and name
(`transform-job:NAME`): a colon is in no name that the API takes, so a job and an endpoint of the same name never meet.
Each container of a model that has several is a fleet of its own, `region/owner/variant+container/generation`; the name
without the container is the variant's account: what its instances cost and what was asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

ENDPOINT = "endpoint"
TRANSFORM_JOB = "transform-job"
INFERENCE_COMPONENT = "inference-component"
TRANSFORM_VARIANT = ":transform"  # what stands in a job's fleet where an endpoint's has its production variant
CONTAINER_MARK = "+"  # in no name that the API takes


@dataclass(frozen=True, slots=True)
class FleetName:
    """Which variant a fleet serves, and as which generation of it. `endpoint` is the owner as the name has it."""

    region: str
    endpoint: str
    variant: str
    generation: str
    container: str = ""  # "" where the variant has one only

    def __str__(self) -> str:
        return f"{self.region}/{self.endpoint}/{part_name(self.variant, self.container)}/{self.generation}"

    @property
    def kind(self) -> str:
        """Of the owner: "endpoint", "transform-job" or "inference-component"."""
        kind, colon, _ = self.endpoint.partition(":")
        return kind if colon else ENDPOINT

    @property
    def owner(self) -> str:
        """The name of the endpoint, job or component."""
        return self.endpoint.rpartition(":")[2]


def parse_fleet_name(text: str) -> FleetName:
    """Raises: ValueError when it has not four parts."""
    parts = text.split("/")
    if len(parts) != 4 or not all(parts):
        raise ValueError(f"a fleet is named region/owner/variant/generation, not {text!r}")
    variant, _, container = parts[2].partition(CONTAINER_MARK)
    return FleetName(parts[0], parts[1], variant, parts[3], container)


def part_name(variant: str, container: str) -> str:
    """A variant's container as it stands in a fleet's name."""
    return f"{variant}{CONTAINER_MARK}{container}" if container else variant


def account_of(fleet: str) -> str:
    """The variant that a container's fleet is a part of; any other fleet is its own account."""
    return str(replace(parse_fleet_name(fleet), container="")) if CONTAINER_MARK in fleet else fleet


def owner_name(kind: str, name: str) -> str:
    """What stands in a fleet's name for its owner."""
    return name if kind == ENDPOINT else f"{kind}:{name}"


def transform_fleet(region: str, job: str, number: int) -> str:
    """The fleet of a transform job's instances; where its model has several containers, their account."""
    return str(FleetName(region, owner_name(TRANSFORM_JOB, job), TRANSFORM_VARIANT, str(number)))
