"""How many models each instance of a multi-model endpoint holds, as the proxy counts them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ASK_LIMIT_S = 2.0

Instances = Mapping[tuple[str, int], int]  # (fleet, instance) -> models


def ask(proxy_socket: Path) -> Mapping[str, int]:
    """Models by worker, over all multi-model endpoints; none while the proxy is away."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_LIMIT_S)
            connection.connect(str(proxy_socket))
            connection.sendall(b'{"op": "facts"}\n')
            with connection.makefile("rb") as file:
                told: Mapping[str, Any] = json.loads(file.readline())
    except (OSError, ValueError):
        return {}  # a gauge without a value: the next minute has one again
    fleets = told.get("fleets", {}).values()
    return {worker: count for fleet in fleets for worker, count in fleet["models"].items()}


def of_instances(models: Mapping[str, int], workers: Iterable[Mapping[str, Any]]) -> Instances:
    """The sum over the workers of each instance."""
    found: dict[tuple[str, int], int] = {}
    for worker in workers:
        if worker["worker"] in models:
            key = worker["fleet"], int(worker["instance"])
            found[key] = found.get(key, 0) + models[worker["worker"]]
    return found
