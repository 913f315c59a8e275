"""What may be asked of the supervisor over its socket. Every operation may be repeated without harm."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from clary.supervisor import fleet
from clary.supervisor.channel import Peer
from clary.supervisor.workers import State

if TYPE_CHECKING:
    from clary.supervisor.main import Supervisor

DRAIN_S = 30.0  # SIGTERM to SIGKILL (SageMaker developer guide, container contract)


class Operations:
    """One method an operation, named like it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def answer(self, peer: Peer, request: dict[str, Any]) -> None:
        """Answers one request; what is wrong with it is told to the asker."""
        operation = {
            "ensure": self._ensure,
            "stop": self._stop,
            "subscribe": self._subscribe,
            "list": self._list,
            "reload": self._reload,
            "task": self._task,
            "shutdown": self._shutdown,
        }.get(request.get("op", ""))
        try:
            if operation is None:
                raise ValueError(f"unknown op {request.get('op')!r}")
            answer = operation(peer, request)
        except (ValueError, KeyError, TypeError, OSError) as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            peer.send({"id": request.get("id"), "ok": True, **answer})

    def _ensure(self, _peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        """At least `n` workers of a fleet; the ids of those that live or start."""
        name = request["fleet"]
        wanted = self._supervisor.fleets.get(name)
        if wanted is None:
            return {"ok": False, "error": f"no fleet {name!r} in the launch table"}
        if not self._supervisor.stopping:
            self._supervisor.fill(wanted, int(request["n"]))
        return {
            "workers": [
                w.id for w in self._supervisor.workers.values() if w.fleet == name and w.state is not State.STOPPING
            ]
        }

    def _stop(self, _peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        worker = self._supervisor.workers.get(request["worker"])
        if worker is not None:
            self._supervisor.stop_worker(
                worker, request.get("reason", "Stopped"), float(request.get("grace_s", DRAIN_S))
            )
            if worker.fleet in self._supervisor.fleets:
                self._supervisor.fill(self._supervisor.fleets[worker.fleet], 0)  # its successor, where one must run
        return {}

    def _subscribe(self, peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        peer.subscribed = True
        return {
            "workers": [w.told() for w in self._supervisor.workers.values()],
            "isolation": self._supervisor.jails.isolation.as_dict(),
        }

    def _list(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "isolation": self._supervisor.jails.isolation.as_dict(),
            "workers": [w.told() for w in self._supervisor.workers.values()],
            "zygotes": [
                {"key": z.spec.key, "framework": z.spec.framework, "pid": z.pid, "state": z.state, "detail": z.detail}
                for z in self._supervisor.zygotes.values()
            ],
            "unpacker": {"pid": self._supervisor.tasks.unpacker_pid},
            "services": [{"name": s.name, "pid": s.pid, "restarts": len(s.deaths)} for s in self._supervisor.services],
        }

    def _reload(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.reload()
        return {"fleets": len(self._supervisor.fleets)}

    def _task(self, peer: Peer, request: dict[str, Any]) -> None:
        """Runs a program to its end; the answer comes then. `jail` is a fleet-like record to be jailed as; a task with
        a `name` has a control group of that name, and what it leaves behind there is killed."""
        supervisor = self._supervisor
        if not request.get("jail"):
            return supervisor.tasks.start(peer, request, None)
        name = str(request.get("name", ""))
        wanted = fleet.parse({"fleets": {name or "task": request["jail"]}})[0][name or "task"]
        jail = supervisor.jails.of(wanted, 0 if name else None)
        try:
            return supervisor.tasks.start(peer, request, jail)
        except OSError:
            supervisor.leave_task(name)
            raise

    def _shutdown(self, _peer: Peer, _request: dict[str, Any]) -> dict[str, Any]:
        self._supervisor.stop()
        return {}
