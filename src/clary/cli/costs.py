"""`clary cost`: the ledger, with unit, period and price source; never a bare number."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, fail, print_json, print_table

NANO = 1_000_000_000
UNITS = {
    "instance": (NANO, "s"),
    "serverless": (1000, "s processed"),
    "data_in": (1_000_000, "MB in"),
    "data_out": (1_000_000, "MB out"),
}


def usd(nanousd: int) -> str:
    return f"{nanousd / NANO:.9f} USD"


def quantity(meter: str, amount: int) -> str:
    unit, word = UNITS.get(meter, (1, ""))
    return f"{amount / unit:,.3f} {word}"


def costs(local: Local, by: str = "endpoint", days: float | None = None) -> dict[str, Any]:
    """The ledger's sums, as control tells them."""
    since_ns = time.time_ns() - int(days * 86_400 * NANO) if days else None
    return local.control("costs", by=by, since_ns=since_ns)


def cost(
    by: Annotated[str, typer.Option(help="endpoint, variant or day.")] = "endpoint",
    days: Annotated[float | None, typer.Option(help="Only the last so many days.", show_default="all")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute everything from raw usage and compare.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what endpoints have cost so far, at list prices, exact to the nano-USD."""
    local = Local(data_dir(data))
    if verify:
        _verify(local, as_json)
        return
    told = costs(local, by, days)
    if as_json:
        print_json(told)
        return
    rows = [
        (
            one["region"] if by != "day" else time.strftime("%Y-%m-%d", time.gmtime(one["day_ns"] / NANO)),
            one["endpoint"],
            one["variant"],
            one["instance_type"] or one["meter"],
            quantity(one["meter"], one["quantity"]),
            usd(one["nanousd"]),
        )
        for one in told["sums"]
    ]
    print_table("", ("REGION" if by != "day" else "DAY", "ENDPOINT", "VARIANT", "KIND", "QUANTITY", "COST"), rows)
    total = sum(one["nanousd"] for one in told["sums"])
    console().print(f"total {usd(total)} at {told['prices']}; on your own machine it costs what the machine costs")


def _verify(local: Local, as_json: bool) -> None:
    told = local.control("verify")
    if as_json:
        print_json(told)
    elif told["exact"]:
        console().print(f"[green]exact[/green]: ledger and raw usage both say {usd(told['ledger_nanousd'])}")
    if not told["exact"]:
        fail(f"ledger {usd(told['ledger_nanousd'])}, raw usage {usd(told['raw_nanousd'])}: {told['differences']}")
