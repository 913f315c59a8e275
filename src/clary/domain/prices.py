"""The price book: what AWS charges for an instance type or a serverless second, each price with its source.

Money is an integer of 1e-9 USD. Rates that are finer than that (a serverless millisecond) are kept as nano-USD an
hour or per 10^9 of their unit, and only sums are rounded (`domain.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One row of the catalogue."""

    name: str
    vcpu: int
    memory_gib: float
    gpu: str
    nanousd_per_hour: int
    sources: tuple[str, ...]
    uncertain: bool


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Prices of one region and date. Other regions are billed at these, which the ledger's source says."""

    region: str
    date: str
    instances: Mapping[str, InstanceType]
    serverless_nanousd_per_hour: Mapping[int, int]  # by memory in MiB
    data_in_nanousd_per_gb: int
    data_out_nanousd_per_gb: int

    @property
    def source(self) -> str:
        return f"AWS list prices, {self.region}, {self.date}"


def _nano(usd: object) -> int:
    return int(Decimal(str(usd)) * NANO)


def parse(document: Mapping[str, Any]) -> PriceBook:
    """The book from its JSON document. Raises: KeyError, ValueError when it is malformed."""
    instances = {
        name: InstanceType(
            name=name,
            vcpu=int(row["vcpu"]),
            memory_gib=float(row["memory_gib"]),
            gpu=str(row["gpu"] or ""),
            nanousd_per_hour=_nano(row["usd_per_hour"]),
            sources=tuple(row.get("sources", ())),
            uncertain=bool(row.get("uncertain", False)),
        )
        for name, row in document["instances"].items()
        if None not in (row.get("usd_per_hour"), row.get("vcpu"), row.get("memory_gib"))
    }
    serverless = {
        int(memory): _nano(Decimal(str(row["usd"])) * 3600)
        for memory, row in document["serverless"]["on_demand_usd_per_second"].items()
    }
    data = document["endpoint_data_processed_usd_per_gb"]
    return PriceBook(
        region=document["region"],
        date=str(document["date"]),
        instances=instances,
        serverless_nanousd_per_hour=serverless,
        data_in_nanousd_per_gb=_nano(data["in"]),
        data_out_nanousd_per_gb=_nano(data["out"]),
    )
