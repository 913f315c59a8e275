"""A fleet's name, `region/endpoint/variant/generation`, in its parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetName:
    """Which variant a fleet serves, and as which generation of it."""

    region: str
    endpoint: str
    variant: str
    generation: str

    def __str__(self) -> str:
        return f"{self.region}/{self.endpoint}/{self.variant}/{self.generation}"


def parse_fleet_name(text: str) -> FleetName:
    """Raises: ValueError when it has not four parts."""
    parts = text.split("/")
    if len(parts) != 4 or not all(parts):
        raise ValueError(f"a fleet is named region/endpoint/variant/generation, not {text!r}")
    return FleetName(*parts)
