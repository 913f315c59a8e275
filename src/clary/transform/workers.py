"""The job's workers as the supervisor tells of them: who is ready, container by container, instance by instance.

When the supervisor goes, so do we, at once: every file of ours is as good after kill -9 as after an orderly end.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clary.domain.fleet_name import parse_fleet_name

ORPHANED = 3  # exit code
SUSPECT_S = 0.5  # a worker that broke a connection is not asked again for so long, unless it is told of anew
HUNG_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Worker:
    """One that may be asked."""

    id: str
    address: str


class Workers:
    """A live view on a thread of its own."""

    def __init__(self, supervisor: Path, fleets: Sequence[str]) -> None:
        """`fleets` are those of the containers, in order."""
        self.containers = tuple(parse_fleet_name(fleet).container for fleet in fleets)
        self._place = {fleet: place for place, fleet in enumerate(fleets)}
        self._ready: dict[tuple[int, int], dict[str, Worker]] = {}  # by place of the container, and instance
        self._suspects: dict[str, float] = {}
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(supervisor))
        self._send({"id": 1, "op": "subscribe"})
        threading.Thread(target=self._follow, daemon=True, name="workers").start()

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _follow(self) -> None:
        try:
            for line in self._socket.makefile("rb"):
                message = json.loads(line)
                if message.get("id") == 1:
                    for event in message["workers"]:
                        self._take(event)
                elif message.get("event") == "worker":
                    self._take(message)
        except OSError:
            pass  # it has gone, which is what the end of the stream says, too
        os._exit(ORPHANED)

    def _take(self, event: dict[str, Any]) -> None:
        if event["fleet"] not in self._place:
            return
        with self._changed:
            mine = self._ready.setdefault((self._place[event["fleet"]], event["instance"]), {})
            if event["state"] == "ready":
                mine[event["worker"]] = Worker(event["worker"], event["address"])
                self._suspects.pop(event["worker"], None)
            else:
                mine.pop(event["worker"], None)
            self._changed.notify_all()

    def pick(self, place: int, instance: int, seat: int, limit_s: float) -> Worker | None:
        """A ready worker of a container of the instance, the same for the same seat while nothing changes; None when
        none came."""
        deadline = time.monotonic() + limit_s
        with self._changed:
            while True:
                now = time.monotonic()
                found = [
                    w for w in self._ready.get((place, instance), {}).values() if self._suspects.get(w.id, 0.0) <= now
                ]
                if found:
                    return found[seat % len(found)]
                if now >= deadline:
                    return None
                self._changed.wait(min(deadline - now, SUSPECT_S))

    def suspect(self, worker: Worker) -> None:
        """It broke a connection: its exit is likely on the way."""
        with self._changed:
            self._suspects[worker.id] = time.monotonic() + SUSPECT_S

    def end(self, worker: Worker) -> None:
        """It did not answer in time: the supervisor ends it and starts another."""
        with self._changed:
            self._ready = {
                where: {key: one for key, one in mine.items() if key != worker.id}
                for where, mine in self._ready.items()
            }
            self._send({"id": 2, "op": "stop", "worker": worker.id, "reason": "Hung", "grace_s": HUNG_GRACE_S})
