"""One serving process as the supervisor knows it, and the decision which processes a fleet lacks or has too many of."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from clary.supervisor.fleet import Fleet


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    EXITED = "exited"


MAX_STATUS_BYTES = 1 << 16  # of one message: the worker's own words are short


class UidMapping(StrEnum):
    """How far a guest (see `clary_worker.guest`) is on its way to its endpoint's uid."""

    NONE = "none"  # no guest, or done
    AWAITED = "awaited"
    ASKED = "asked"


@dataclass(slots=True)
class Worker:
    """A process between its order and its exit."""

    id: str
    fleet: str
    slot: int  # 0.. within the fleet; instance = slot // processes_per_instance
    instance: int
    address: Path
    log: Path
    plain: bool  # started without a zygote
    limited_as: str = ""  # whose control group its instance's is
    host: dict[str, Any] = field(default_factory=dict)  # see `Fleet.host_of`
    state: State = State.STARTING
    pid: int = 0
    pid_start_ticks: int = 0
    ordered_mono_s: float = 0.0
    started_ns: int = 0
    ready_ns: int = 0
    loading: bool = False  # the jail stands, the model is being loaded
    deadline_mono_s: float | None = None  # of the present state
    status: socket.socket | None = None
    status_bytes: bytes = b""
    oom_kills_before: int = 0
    mapping: UidMapping = UidMapping.NONE
    groups: list[str] = field(default_factory=list)  # control groups that we put it into, once it is announced
    failure: dict[str, Any] = field(default_factory=dict)  # reason and hint, as the worker itself told
    stop_reason: str = ""
    ended: str = ""  # why the container has ended that it held
    detail: dict[str, Any] = field(default_factory=dict)
    exit: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """The record that subscribers get."""
        return {
            "event": "worker",
            "worker": self.id,
            "fleet": self.fleet,
            "instance": self.instance,
            "slot": self.slot,
            "state": self.state.value,
            "pid": self.pid,
            "pid_start_ticks": self.pid_start_ticks,
            "address": str(self.address),
            "log": str(self.log),
            "plain": self.plain,
            "started_ns": self.started_ns,
            "ready_ns": self.ready_ns,
            "detail": self.detail,
            "failure": self.failure,
            "stop_reason": self.stop_reason,
            "exit": self.exit,
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """What would bring a fleet to what is wanted."""

    start_slots: tuple[int, ...]
    stop: tuple[str, ...]


def gap(fleet: Fleet, workers: Iterable[Worker], demand: int) -> Gap:
    """Slots to fill and workers to stop so that max(fleet.min, demand) workers run, never more than fleet.max.

    A stopping worker still holds its slot's name but not its place: its successor may start beside it.
    `demand` only ever adds: going below what runs is somebody's explicit stop, not ours.
    """
    live = [w for w in workers if w.state in (State.STARTING, State.READY)]
    want = min(max(fleet.min, demand), fleet.max)
    taken = {w.slot for w in live}
    free = (slot for slot in range(fleet.max) if slot not in taken)
    missing = max(0, want - len(live))
    surplus = sorted(live, key=lambda w: w.slot)[fleet.max :] if len(live) > fleet.max else []
    return Gap(tuple(slot for _, slot in zip(range(missing), free, strict=False)), tuple(w.id for w in surplus))


def status_message(line: bytes) -> dict[str, Any] | None:
    """One line of a worker's status socket; None when it is none of ours: code of the user's may write there, too."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or not isinstance(message.get("state"), str):
        return None
    detail = dict if message["state"] == "ready" else str
    fits = (
        isinstance(message.get("detail", detail()), detail)
        and isinstance(message.get("reason", ""), str)
        and isinstance(message.get("hint", ""), str)
    )
    return message if fits else None


def why_exited(worker: Worker, facts: Mapping[str, Any], oom_kills: int) -> str:
    """One word for an exit, as FailureReason and the journal name it."""
    if facts.get("name") == "SIGKILL" and oom_kills > worker.oom_kills_before:
        return "OutOfMemory"
    if worker.ended:
        return worker.ended
    if worker.stop_reason:
        return worker.stop_reason
    if worker.failure:
        return "StartFailed"
    if worker.state is State.STARTING:
        return "ExitedWhileStarting"
    return "Crashed" if facts.get("code") != 0 else "Exited"
