"""Starts one worker: its log, its sockets and its order, forked by a zygote that is ready or executed plainly; and says
behind which walls a zygote itself is to be."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from clary.paths import Layout
from clary.supervisor import isolation, mount_trees, processes
from clary.supervisor.fleet import Fleet, ZygoteSpec
from clary.supervisor.workers import UidMapping, Worker
from clary.supervisor.zygotes import AT_IMPORT, Zygote

FORK_LIMIT_S = 5.0  # a forked child that has not reached its model by then is stuck in a lock it inherited


class Starts:
    """`lifeline` opens a descriptor for one child; `labels` are what containers of this supervisor bear."""

    def __init__(
        self, layout: Layout, jails: isolation.Jails, lifeline: Callable[[], int], labels: Mapping[str, str]
    ) -> None:
        self._layout = layout
        self._jails = jails
        self._lifeline = lifeline
        self._labels = labels

    def start(self, wanted: Fleet, slot: int, zygote: Zygote | None) -> Worker:
        """The worker, with our end of its status socket; its pid is known if it was not forked. Raises: OSError."""
        worker_id = "w" + os.urandom(6).hex()
        folder = self._layout.worker_logs / isolation.group_name(wanted.name)
        folder.mkdir(mode=0o700, exist_ok=True)
        log = os.open(folder / f"{worker_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        instance = slot // wanted.processes_per_instance
        worker = Worker(
            id=worker_id,
            fleet=wanted.name,
            slot=slot,
            instance=instance,
            address=self._layout.worker_sockets / f"{worker_id}.sock",
            log=folder / f"{worker_id}.log",
            plain=True,
            limited_as=wanted.limited_as,
            host=wanted.host_of(instance),
            ordered_mono_s=time.monotonic(),
            oom_kills_before=self._jails.oom_kills(wanted.limited_as, instance),
        )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        ours, theirs = socket.socketpair()
        life = self._lifeline()
        try:
            listener.bind(str(worker.address))
            os.chmod(worker.address, 0o600)
            listener.listen(1024)
            order = {"worker": {**wanted.worker, "worker_id": worker_id}, "environ": wanted.environ}
            if wanted.container:
                labels = {**self._labels, "clary.worker": worker.id, "clary.fleet": wanted.name}
                order["worker"]["container"] = {**wanted.worker["container"], "labels": labels}
            worker.started_ns = time.time_ns()
            descriptors = [listener.fileno(), log, theirs.fileno(), life]
            if zygote is not None and zygote.state == "ready":
                worker.plain = not self._fork(wanted, worker, zygote, order, descriptors)
            if worker.plain:
                order["jail"] = (
                    self._jails.of_container(wanted) if wanted.container else self._jails.of(wanted, worker.instance)
                )
                worker.pid = _execute(wanted, order, *descriptors)
                worker.deadline_mono_s = worker.ordered_mono_s + wanted.start_timeout_s
        except OSError:
            ours.close()
            worker.address.unlink(missing_ok=True)
            raise
        finally:
            listener.close()
            os.close(log)
            os.close(life)
            theirs.close()
        ours.setblocking(False)
        worker.status = ours
        return worker

    def zygote(self, spec: ZygoteSpec, first_uid: int, taken: Collection[int]) -> Zygote:
        """One that is not to be trusted is jailed under a uid of its own, from `first_uid` on and none of `taken`;
        without such walls it is never started."""
        log = self._layout.logs / f"zygote-{spec.key}.log"
        walls = self._jails.isolation
        if spec.trusted or walls.level == "none":  # without walls its import could do no more than its workers can
            return Zygote(spec, log, self._jails.common(spec.prefixes, spec.network))
        uid = next((uid for uid in range(first_uid, first_uid + isolation.ZYGOTE_UIDS) if uid not in taken), -1)
        if not walls.guests or uid < 0:
            zygote = Zygote(spec, log, {})
            zygote.state = "unsafe"
            zygote.detail = {"reason": walls.guests_reason or "all uids of zygotes are taken"}
            return zygote
        return Zygote(spec, log, {"guest": True}, self._jails.of_zygote(spec, uid), uid)

    def _fork(
        self, wanted: Fleet, worker: Worker, zygote: Zygote, order: dict[str, Any], descriptors: list[int]
    ) -> bool:
        """Has the worker forked by its zygote; False when that cannot take the order."""
        trees: list[int] = []
        try:
            if zygote.jail is None:
                order["jail"] = self._jails.own(wanted)
            else:
                order["jail"], folders = self._jails.of_guest(wanted)
                for path, mode in folders:
                    trees.append(mount_trees.open_tree(path, mode))
            if not zygote.fork(order, [*descriptors, *trees]):
                return False
        finally:
            for tree in trees:
                os.close(tree)
        worker.mapping = UidMapping.NONE if zygote.jail is None else UidMapping.AWAITED
        worker.groups = self._jails.groups(wanted, worker.instance)
        worker.deadline_mono_s = worker.ordered_mono_s + FORK_LIMIT_S
        return True


def _execute(wanted: Fleet, order: Mapping[str, Any], listener: int, log: int, status: int, life: int) -> int:
    """Executes the environment's interpreter behind the walls; our own interpreter puts them up first. The pid."""
    worker_order = processes.memory_file({"worker": order["worker"], "environ": order["environ"]})
    argv = [wanted.python, "-I", "-u", "-m", "clary_worker", "5", "6", "7", "8"]
    descriptors = {1: log, 2: log, 5: worker_order, 6: listener, 7: status, 8: life}
    try:
        return processes.start_jailed(argv, {**AT_IMPORT, **order["environ"]}, descriptors, order["jail"])
    finally:
        os.close(worker_order)
