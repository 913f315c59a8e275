"""Raw usage as supervisor and proxy write it, made by a seeded script; and a child that meters it until it is killed.

`python metering_world.py DATA` is that child: it looks as fast as it can until told to end on its standard input.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from clary.controllers.metering import Metering
from clary.domain import prices
from clary.paths import Layout
from clary.proxy.meter import Answered, Meter
from clary.store import schema
from clary.store.database import Database
from clary.store.migrate import ensure_schema
from clary.supervisor.journal import Heartbeat, Journal

PRICES = prices.parse(json.loads(files("clary.data").joinpath("prices.json").read_text()))
START_NS = 1_790_000_000_000_000_000
SECOND_NS = 1_000_000_000
LABELS: dict[str, dict[str, Any]] = {
    "us-east-1/big/AllTraffic/1": {"instance_type": "ml.m5.large", "serverless_mib": 0},
    "us-east-1/big/AllTraffic/2": {"instance_type": "ml.c5.xlarge", "serverless_mib": 0},
    "eu-west-1/small/v/3": {"instance_type": "", "serverless_mib": 2048},
}
# Containers of one instance, told of by the label of their variant.
CONTAINERS = ("us-east-1/many/v+a/4", "us-east-1/many/v+b/4")
LABELS |= {fleet: {"instance_type": "ml.m5.large", "serverless_mib": 0} for fleet in CONTAINERS}


def open_database(layout: Layout) -> Database:
    database = Database(f"sqlite:///{layout.database}")
    ensure_schema(
        database.engine, "control", schema.metadata, needed=schema.SCHEMA, file=layout.database, now=datetime.now(UTC)
    )
    return database


class World:
    """One data folder with a supervisor's journal and a proxy's counters, on a clock of its own."""

    def __init__(self, data: Path, seed: int = 0) -> None:
        self.layout = Layout(data)
        self.layout.make()
        self.random = random.Random(seed)
        self.now_ns = START_NS
        self.heartbeat = Heartbeat(self.layout.heartbeat)
        self.journal = Journal(self.layout.journal, self.heartbeat)
        self.meter = Meter(self.layout.counters)
        self.live: dict[str, tuple[str, int]] = {}
        self.workers = 0
        self.worker_ns: dict[tuple[str, int], int] = {}

    def start(self, fleet: str, instance: int = 0, late_ns: int = 0) -> str:
        self.workers += 1
        worker = f"w{self.workers}"
        self.live[worker] = (fleet, instance)
        self.journal.record(
            "started",
            at_ns=self.now_ns - late_ns,
            worker=worker,
            fleet=fleet,
            instance=instance,
            label=LABELS.get(fleet, {}),
        )
        return worker

    def stop(self, worker: str) -> None:
        fleet, instance = self.live.pop(worker)
        self.journal.record(
            "exited", at_ns=self.now_ns, worker=worker, fleet=fleet, instance=instance, reason="ScaledIn"
        )

    def request(self, fleet: str, status: int = 200, model_us: int = 1500, size: int = 1000) -> None:
        self.meter.slot(fleet).answered(Answered(status, model_us, 200, size, 2 * size, fleet.startswith("eu-")))

    def pass_time(self, ns: int) -> None:
        """Time goes on; the heartbeat beats as the supervisor's does, while a worker lives."""
        self.now_ns += ns
        if self.live:
            self.beat()

    def beat(self) -> None:
        self.heartbeat._map[:8] = self.now_ns.to_bytes(8, "little")

    def step(self) -> None:
        """One thing that may happen."""
        fleet = self.random.choice(list(LABELS))
        match self.random.randrange(6):
            case 0:
                self.start(fleet, self.random.randrange(2), late_ns=self.random.randrange(SECOND_NS))
            case 1 if self.live:
                self.stop(self.random.choice(list(self.live)))
            case 2:
                self.pass_time(self.random.randrange(40 * SECOND_NS))
            case _:
                for _ in range(self.random.randrange(1, 20)):
                    status = self.random.choice((200, 200, 400, 500))
                    self.request(fleet, status, self.random.randrange(50_000), self.random.randrange(5000))

    def metering(self, database: Database) -> Metering:
        return Metering(self.layout, database, PRICES, "123456789012", lambda: (), lambda: self.now_ns)


async def child(layout: Layout) -> None:
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    database = open_database(layout)
    # The world's clock is its heartbeat.
    metering = Metering(
        layout,
        database,
        PRICES,
        "123456789012",
        lambda: (),
        lambda: int.from_bytes(layout.heartbeat.read_bytes()[:8], "little") or START_NS,
    )
    print("ready", flush=True)
    while True:
        last = done.is_set()
        wrote, more = await metering.look()
        if last and not more:
            break
        if not wrote:
            await asyncio.sleep(0.001)
    database.close()


if __name__ == "__main__":
    asyncio.run(child(Layout(Path(sys.argv[1]))))
