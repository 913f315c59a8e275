"""`clary doctor`: what is in force on this host, what is not and why, and what known members have no effect here."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, console, data_dir, print_json, print_table

# Known members that are recorded and shown again, and change nothing on one machine.
WITHOUT_EFFECT = {
    "PutObject.ServerSideEncryption": "AES256 and aws:kms pass, as SDKs send them; nothing is encrypted or said to be",
    "CreateModel.VpcConfig": "recorded; workers have no network of their own anyway",
    "CreateModel.PrimaryContainer.ImageConfig": "recorded; images are resolved to environments, not pulled",
    "CreateModel.Containers.ImageConfig": "recorded; see CreateModel.PrimaryContainer.ImageConfig",
    "CreateRepository.imageScanningConfiguration": "recorded; nothing is scanned, and findings are refused by name",
    "CreateEndpointConfig.VpcConfig": "recorded; see CreateModel.VpcConfig",
    "CreateEndpointConfig.MetricsConfig": "recorded; metrics are published every minute",
    "ProductionVariant.VolumeSizeInGB": "bounds what a model archive may unpack to; no volume is made",
    "ProductionVariant.InferenceAmiVersion": "recorded; workers run on this host's own system",
    "ProductionVariant.EnableSSMAccess": "recorded; there is no instance to log in to but this host",
    "ProductionVariant.ModelDataDownloadTimeoutInSeconds": "recorded; model data is local",
    "ProductionVariant.VariantInstanceProvisionTimeoutInSeconds": "recorded; nothing is provisioned",
}
SAFE_SQLITE = (3, 51, 3)


def doctor(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Check this host and the running clary, and say what does not hold."""
    local = Local(data_dir(data))
    checks = _host(local)
    told: dict[str, Any] = {"checks": [{"what": w, "state": s, "detail": d} for w, s, d in checks]}
    told["without_effect"] = WITHOUT_EFFECT
    if local.supervisor_pid():
        told["isolation"] = local.supervisor("list")["isolation"]
        told["endpoints"] = local.control("notes")["endpoints"]
        checks += _walls(told["isolation"])
        engine = local.control("engine")
        objects = local.object_store()
        for what, found in (("container engine", engine), ("object store", objects)):
            checks.append((what, found["state"], found["detail"]))
            told["checks"].append({"what": what, "state": found["state"], "detail": found["detail"]})
    if as_json:
        print_json(told)
        return
    marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "missing": "[red]missing[/red]"}
    print_table("", ("CHECK", "", "DETAIL"), [(what, marks[state], detail) for what, state, detail in checks])
    for endpoint in told.get("endpoints", ()):
        for note in endpoint["notes"]:
            console().print(f"{endpoint['endpoint']}: {note}", highlight=False)
    console().print("\nknown members without effect on one machine:")
    for member, why in WITHOUT_EFFECT.items():
        console().print(f"  {member}: {why}", highlight=False)


def _host(local: Local) -> list[tuple[str, str, str]]:
    sqlite = sqlite3.sqlite_version_info
    free_gib = shutil.disk_usage(_existing(local.layout.data)).free / 1024**3
    return [
        ("system", "ok" if sys.platform == "linux" else "missing", f"{platform.system()} {platform.release()}"),
        ("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        ("clary", "ok", version("clary")),
        ("user", "ok" if os.geteuid() == 0 else "note", "root" if os.geteuid() == 0 else "not root: weaker walls"),
        ("data folder", "ok" if free_gib > 2 else "note", f"{local.layout.data}, {free_gib:.1f} GiB free"),
        (
            "sqlite",
            "ok" if sqlite >= SAFE_SQLITE else "note",
            f"{sqlite3.sqlite_version}"
            + ("" if sqlite >= SAFE_SQLITE else "; has the WAL-reset race, which one writer connection keeps clear of"),
        ),
        (
            "running",
            "ok" if local.supervisor_pid() else "note",
            f"pid {local.supervisor_pid()}" if local.supervisor_pid() else "no",
        ),
    ]


def _walls(isolation: dict[str, Any]) -> list[tuple[str, str, str]]:
    reason = isolation["reason"] or "in force"
    return [
        ("isolation", "ok" if isolation["level"] == "root" else "note", f"{isolation['level']}: {reason}"),
        *(
            (words, "ok" if isolation[wall] else "missing", "" if isolation[wall] else reason)
            for wall, words in (
                ("own_uid", "uid per endpoint"),
                ("private_root", "private file system"),
                ("private_network", "no network for workers"),
                ("hidden_processes", "other processes hidden"),
                ("cgroup_version", "memory and process limits"),
            )
        ),
        (
            "fast wakes with requirements.txt",
            "ok" if isolation["guests"] or isolation["level"] == "none" else "note",
            isolation["guests_reason"] and f"{isolation['guests_reason']}: such workers are started plainly",
        ),
    ]


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
