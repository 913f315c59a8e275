"""`clary status` and `clary ps`: what runs here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.markup import escape

from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, print_json, print_table
from clary.domain.fleet_name import parse_fleet_name


def _age(started_ns: int) -> str:
    seconds = max(0, int(time.time() - started_ns / 1e9))
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _pss_mib(pid: int) -> float:
    """Proportional set size of a process, MiB; 0.0 when it is gone or not ours to look into."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        return 0.0
    return 0.0


def ps(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List workers, zygotes and clary's own processes, with their memory."""
    local = Local(data_dir(data))
    local.settings()
    facts = local.supervisor("list")
    models = _models(local.proxy("facts"))
    rows: list[dict[str, Any]] = []
    for worker in facts["workers"]:
        fleet = parse_fleet_name(worker["fleet"])
        rows.append(
            {
                "kind": "worker",
                "endpoint": fleet.endpoint,
                "variant": fleet.variant,
                **({"container": fleet.container} if fleet.container else {}),
                "region": fleet.region,
                "generation": int(fleet.generation),
                "instance": worker["instance"],
                "pid": worker["pid"],
                "state": worker["state"],
                "started_ns": worker["started_ns"],
                "memory_mib": _pss_mib(worker["pid"]),
                "start": "plain" if worker["plain"] else "fork",
            }
        )
        if held := worker["detail"].get("container_pid"):
            rows[-1] |= {"start": "container", "container": worker["detail"]["container"], "container_pid": held}
            rows[-1]["memory_mib"] += _pss_mib(held)
        if worker["worker"] in models:
            rows[-1]["models"] = models[worker["worker"]]
    for zygote in facts["zygotes"]:
        rows.append({"kind": "zygote", "endpoint": zygote["framework"], "pid": zygote["pid"], "state": zygote["state"]})
    if facts["unpacker"]["pid"]:
        rows.append({"kind": "unpacker", "pid": facts["unpacker"]["pid"], "state": "ready"})
    for service in facts["services"]:
        state = "ready" if service["pid"] else "restarting"
        rows.append({"kind": service["name"], "pid": service["pid"], "state": state, "restarts": service["restarts"]})
    rows.append({"kind": "supervisor", "pid": facts["pid"], "state": "ready"})
    for row in rows:
        row.setdefault("memory_mib", _pss_mib(row["pid"]))
    if as_json:
        print_json(rows)
        return
    several = any("container" in row for row in rows)
    of_container = ("CONTAINER",) if several else ()
    of_models = ("MODELS",) if models else ()
    print_table(
        "",
        ("KIND", "ENDPOINT", "VARIANT", *of_container, "PID", "STATE", "AGE", "MEMORY", *of_models),
        [
            (
                "container" if "container" in row else row["kind"],
                row.get("endpoint", ""),
                row.get("variant", ""),
                *((row.get("container", ""),) if several else ()),
                row["pid"],
                row["state"],
                _age(row["started_ns"]) if "started_ns" in row else "",
                f"{row['memory_mib']:.1f} MiB",
                *((row.get("models", ""),) if models else ()),
            )
            for row in rows
        ],
    )


def _models(traffic: dict[str, Any]) -> dict[str, int]:
    """How many models each worker of a multi-model endpoint holds."""
    return {worker: count for fleet in traffic["fleets"].values() for worker, count in fleet["models"].items()}


def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Tell what runs: address, isolation, and every endpoint's workers and requests."""
    local = Local(data_dir(data))
    settings = local.settings()
    facts, traffic, objects = local.supervisor("list"), local.proxy("facts"), local.object_store()
    told = {
        "url": local.url(),
        "data": str(local.layout.data),
        "pid": facts["pid"],
        "auth": settings.auth,
        "isolation": facts["isolation"],
        "object_store": objects,
        "fleets": traffic["fleets"],
    }
    if as_json:
        print_json(told)
        return
    isolation = facts["isolation"]
    console().print(f"clary at [bold]{told['url']}[/bold], data {told['data']}, pid {told['pid']}")
    loud = "[red]" if isolation["level"] == "none" else ""
    console().print(f"{loud}isolation: {isolation['level']} {isolation['reason']}", highlight=False)
    colour = "" if objects["state"] == "ok" else "[yellow]"
    console().print(f"{colour}object store: {escape(objects['detail'])}", highlight=False)
    if not settings.auth:
        console().print("[yellow]signatures are not verified (--no-auth)")
    rows = []
    for fleet, one in sorted(traffic["fleets"].items()):
        of = parse_fleet_name(fleet)
        shown = f"{of.variant}/{one['component']}" if one["component"] else f"{of.variant} {of.container}".rstrip()
        rows.append((one["endpoint"], shown, of.region, one["ready"], one["starting"], one["inside"], one["waiting"]))
    if rows:
        print_table("", ("ENDPOINT", "VARIANT", "REGION", "READY", "STARTING", "INSIDE", "WAITING"), rows)
    else:
        console().print("no endpoint is routed to")
