"""The root of the process tree: the only process that starts, jails, stops and reaps.

It binds the front door and passes it on, keeps proxy and control alive, reads the launch table, forks workers from
zygotes, journals every life, and answers `ensure` and `stop` on its socket. It decides nothing about models, money
or traffic, imports only the standard library and holds one thread besides the journal's fsync, because everything
else can be restarted as long as it lives. One loop: a selector, a pipe that signals write to, and deadlines.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from clary import tables
from clary.paths import Layout, engine_socket
from clary.supervisor import cgroups, fleet, isolation, processes
from clary.supervisor.channel import Channel
from clary.supervisor.fleet import Fleet
from clary.supervisor.joiner import Joiner
from clary.supervisor.journal import HEARTBEAT_S, Heartbeat, Journal
from clary.supervisor.operations import DRAIN_S, Operations
from clary.supervisor.services import Service
from clary.supervisor.starts import Starts
from clary.supervisor.tasks import Tasks
from clary.supervisor.workers import MAX_STATUS_BYTES, State, UidMapping, Worker, gap, status_message, why_exited
from clary.supervisor.zygotes import IMPORT_LIMIT_S, Zygote

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # between a worker's death before it was ready and its successor
CALM_AFTER_S = 60.0  # a failure this long ago counts no more
SHORT_LIFE_NS = 2_000_000_000  # a worker that dies this soon after it was ready may do so again: backoff, too
# Where cores are scarce, whoever is asked in person goes first: models compute, and large uploads are hashed, for long.
PROXY_NICE = -10
CONTROL_NICE = -5
HUNG_DRAIN_S = 5.0
# An unused zygote stays this long, for the next endpoint or job of the same kind; a tree that serves nothing any more
# is small again within the minute.
ZYGOTE_LINGER_S = 45.0
TIDY_EVERY_S = 1.0


class Supervisor:
    """See the module. `run` returns the exit code."""

    def __init__(self, layout: Layout, settings: dict[str, Any]) -> None:
        self.layout = layout
        self.settings = settings
        self.selector = selectors.DefaultSelector()
        self.fleets: dict[str, Fleet] = {}
        self.zygotes: dict[str, Zygote] = {}
        self.workers: dict[str, Worker] = {}
        self.services: list[Service] = []
        self.failures: dict[str, list[float]] = {}  # fleet -> when its starts failed lately
        self.demand: dict[str, int] = {}  # fleet -> what was last asked for, while its zygote was not ready
        self.start_after_mono_s: dict[str, float] = {}
        self.dismissed: set[str] = set()  # fleets whose control group waits to be removed
        self.unclaimed_exits: dict[int, int] = {}  # pid -> wait status of a child that died before it was announced
        # Of containers: whose they are, and which life of ours started them.
        self.labels = {"clary.data": layout.mark, "clary.run": f"{os.getpid()}.{processes.start_time(os.getpid())}"}
        self.stopping = False
        self.exit_code = 0
        self._tidy_at = 0.0
        self._signals, wakeup = socket.socketpair()
        self._signals.setblocking(False)
        wakeup.setblocking(False)
        self._wakeup = wakeup
        self._pending_signals: set[int] = set()
        self._life_read, self._life_write = os.pipe2(os.O_CLOEXEC)
        self.journal = Journal(layout.journal, Heartbeat(layout.heartbeat))
        groups = cgroups.detect(f"clary-{layout.mark}")
        self.jails = isolation.Jails(
            isolation.probe(groups, settings.get("isolation", "auto") != "none"), groups, layout.jail
        )
        self.starts = Starts(layout, self.jails, self.lifeline, self.labels)
        self.joiner = Joiner()
        self.tasks = Tasks(self.selector, layout.logs, self.leave_task)
        self.channel: Channel | None = None

    # -- life of the supervisor ------------------------------------------------------------------

    def run(self, listeners: dict[str, socket.socket]) -> int:
        self._catch_signals()
        for old in self.layout.worker_sockets.iterdir():
            old.unlink()
        self.channel = Channel(self.layout.supervisor_socket, self.selector, Operations(self).answer)
        self._define_services(listeners)
        self._deadlines(time.monotonic())  # they import while we prepare
        self.jails.prepare()
        self.say(f"event=started pid={os.getpid()} isolation={self.jails.isolation}")
        self._sweep_containers()
        self.reload()
        while not (self.stopping and not self._alive()):
            self._step()
        self._close()
        return self.exit_code

    def lifeline(self) -> int:
        """A descriptor of the pipe that ends with us, for one child; the caller closes ours.

        Each child needs an open file of its own: the kernel signals one owner an open file, not one a process.
        """
        return os.open(f"/proc/self/fd/{self._life_read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def say(self, line: str) -> None:
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime()) + line + "\n"
        with contextlib.suppress(OSError):  # the disk is full: a log line is not worth the tree
            os.write(sys.stderr.fileno(), text.encode())

    def _sweep_containers(self) -> None:
        """Has containers of an earlier life removed; nobody waits for it, because those of this life are told apart."""
        engine = engine_socket(self.settings.get("docker", "off"))
        if not engine or os.geteuid() != 0:
            return
        argv = [sys.executable, "-I", "-m", "clary_worker.container_tasks", "sweep", engine, *self.labels.values()]
        log = os.open(self.layout.logs / "containers.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            processes.start(argv, {"PATH": "/usr/bin:/bin"}, {1: log, 2: log})
        finally:
            os.close(log)

    def _define_services(self, listeners: dict[str, socket.socket]) -> None:
        base = [sys.executable, "-I", "-m"]
        common = ["--data", str(self.layout.data), "--life-fd", "3"]
        # What `clary up` handed on of the user's environment: package settings above all.
        environ = {**os.environ, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        self.services = [
            Service(
                "proxy",
                [*base, "clary.proxy", *common, "--listen-fd", "4"],
                environ,
                {4: listeners["front"].fileno()},
                self.layout.logs / "proxy.log",
                PROXY_NICE,
                PROXY_NICE,  # its session holds nothing else, and it computes little
            ),
            Service(
                "control",
                [*base, "clary.control", *common],
                environ,
                {},
                self.layout.logs / "control.log",
                CONTROL_NICE,
            ),
        ]

    def _catch_signals(self) -> None:
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: self._pending_signals.add(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.selector.register(self._signals, selectors.EVENT_READ, self._on_signal)

    def _on_signal(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._signals.recv(4096)
        pending, self._pending_signals = self._pending_signals, set()
        if signal.SIGTERM in pending or signal.SIGINT in pending:
            self.stop()
        self._reap()

    def _step(self) -> None:
        for key, mask in self.selector.select(self._next_wait_s()):
            # One callback of this batch may have closed what another of it is about.
            if self.selector.get_map().get(key.fd) is key:
                callback: Callable[[int], None] = key.data
                callback(mask)
        if self.workers:
            self.journal.beat()
        now = time.monotonic()
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_EVERY_S
            self._tidy(now)
        self._deadlines(now)

    def _next_wait_s(self) -> float | None:
        """Until the nearest deadline; with nothing alive and nothing due, for ever: an idle clary does not tick."""
        now = time.monotonic()
        due = [w.deadline_mono_s for w in self.workers.values() if w.deadline_mono_s is not None]
        due += [s.restart_at_mono_s for s in self.services if s.restart_at_mono_s is not None]
        due += [at for name, at in self.start_after_mono_s.items() if name in self.fleets and at > now]
        due += self.tasks.deadlines()
        if self.workers:
            due.append(now + HEARTBEAT_S)
        if self.zygotes or self.dismissed or self.stopping or self.journal.behind:
            due.append(self._tidy_at)
        return max(0.0, min(due) - now) if due else None

    def stop(self) -> None:
        """Begins an orderly end: no new work, workers drained, then control, then the proxy."""
        if self.stopping:
            return
        self.stopping = True
        self.say("event=stopping")
        for worker in self.workers.values():
            self.stop_worker(worker, "Shutdown", DRAIN_S)
        for zygote in self.zygotes.values():
            zygote.stop()
        self.tasks.stop()
        for service in self.services:
            service.stop()

    def _alive(self) -> bool:
        return bool(self.workers) or any(s.pid for s in self.services) or any(z.pid for z in self.zygotes.values())

    def _close(self) -> None:
        for name in {*(wanted.limited_as for wanted in self.fleets.values()), *self.dismissed}:
            self.jails.dismiss(name)
        for zygote in self.zygotes.values():
            self.jails.leave_zygote(zygote.spec)
        assert self.channel is not None
        self.channel.close()
        self.journal.close()
        self.say("event=stopped")

    # -- fleets ----------------------------------------------------------------------------------

    def reload(self) -> None:
        """Reads the launch table; a torn or malformed one is refused and the old one stays."""
        try:
            fleets, zygotes = fleet.parse(tables.read(self.layout.launch_table))
        except (tables.TornTable, KeyError, TypeError, ValueError) as error:
            self.say(f"event=launch_table_refused reason={error!r} kept_fleets={len(self.fleets)}")
            return
        gone = self.fleets.keys() - fleets.keys()
        for name, wanted in fleets.items():
            if self.fleets.get(name) != wanted:
                self.jails.admit(wanted)
            self.dismissed.discard(wanted.limited_as)
        old, self.fleets = self.fleets, fleets
        for name in gone:
            self.failures.pop(name, None)
            self.demand.pop(name, None)
            self.start_after_mono_s.pop(name, None)
            if all(one.limited_as != old[name].limited_as for one in fleets.values()):
                self.dismissed.add(old[name].limited_as)
            for worker in self._of(name):
                self.stop_worker(worker, "FleetRemoved", old[name].drain_s)
        self.tasks.keep_unpacker(not self.stopping and any(one.worker.get("multi_model") for one in fleets.values()))
        now = time.monotonic()
        for key, spec in zygotes.items():
            zygote = self.zygotes.get(key)
            if zygote is None:
                first_uid = int(self.settings["uid_last"]) + 2  # the one between is the unpacker's
                taken = {one.uid for one in self.zygotes.values()}
                zygote = self.zygotes[key] = self.starts.zygote(spec, first_uid, taken)
            zygote.unwanted_since_mono_s = None
            if zygote.state == "dead" and now >= zygote.restart_at_mono_s and not self.stopping:
                zygote.start(self.selector, self._zygote_said)
        for key, zygote in self.zygotes.items():
            if key not in zygotes and zygote.unwanted_since_mono_s is None:
                zygote.unwanted_since_mono_s = now
        for wanted in fleets.values():
            self.fill(wanted, 0)

    def _of(self, fleet_name: str) -> list[Worker]:
        return [w for w in self.workers.values() if w.fleet == fleet_name]

    def fill(self, wanted: Fleet, demand: int) -> None:
        """Starts what lacks and stops what is too much, unless the fleet's backoff has not run out."""
        if self.stopping:
            return
        self.demand[wanted.name] = demand
        lack = gap(wanted, self._of(wanted.name), demand)
        zygote = self.zygotes.get(wanted.zygote)
        if lack.start_slots and zygote is not None and zygote.state == "starting":
            return  # its import is under way; a plain start beside it would take the same second twice
        if lack.start_slots and time.monotonic() >= self.start_after_mono_s.get(wanted.name, 0.0):
            for slot in lack.start_slots:
                self._start(wanted, slot)
        for worker_id in lack.stop:
            self.stop_worker(self.workers[worker_id], "ScaledIn", DRAIN_S)

    # -- starting a worker -----------------------------------------------------------------------

    def _start(self, wanted: Fleet, slot: int, plainly: bool = False) -> None:
        try:
            worker = self.starts.start(wanted, slot, None if plainly else self.zygotes.get(wanted.zygote))
        except OSError as error:
            self._start_failed(wanted, f"could not be started: {error}")
            return
        assert worker.status is not None
        self.selector.register(worker.status, selectors.EVENT_READ, lambda _mask: self._status(worker))
        self.workers[worker.id] = worker
        if worker.pid:
            self._announced(worker)

    def _zygote_said(self, zygote: Zygote, message: dict[str, Any]) -> None:
        if "forked" in message:
            worker = self.workers.get(str(message["forked"]))
            if worker is None or worker.pid:
                return
            pid = message.get("pid")
            if zygote.uid >= 0 and not self._is_child(zygote, worker, pid):
                self.say(f"zygote={zygote.spec.key} event=lied worker={worker.id} pid={pid!r} action=killed")
                zygote.stop()
                return
            worker.pid = message["pid"]
            self._announced(worker)
            return
        zygote.state = "ready" if message.get("state") == "ready" else "unsafe"
        zygote.detail = {key: message[key] for key in ("threads", "imported") if key in message}
        self.say(f"zygote={zygote.spec.key} event={zygote.state} threads={message.get('threads')}")
        self._fill_waiting(zygote.spec.key)

    def _is_child(self, zygote: Zygote, worker: Worker, pid: object) -> bool:
        """Whether an order of this zygote's may have become this process: one that has its uid and no other."""
        wanted = self.fleets.get(worker.fleet)
        ours = wanted is not None and wanted.zygote == zygote.spec.key
        return ours and isinstance(pid, int) and pid > 1 and set(processes.uids(pid)) == {zygote.uid}

    def _fill_waiting(self, zygote_key: str) -> None:
        """The fleets that waited for a zygote: forked when it is ready, started plainly when it is not to be."""
        for wanted in list(self.fleets.values()):
            if wanted.zygote == zygote_key:
                self.fill(wanted, self.demand.get(wanted.name, 0))

    def _announced(self, worker: Worker) -> None:
        """The pid is known: the life begins on paper."""
        if worker.groups:
            self.joiner.join(worker.pid, worker.groups)
        worker.pid_start_ticks = processes.start_time(worker.pid)
        wanted = self.fleets.get(worker.fleet)
        self.journal.beat()
        self.journal.record(
            "started",
            # When the kernel made the process, which on a busy machine may be long after it was ordered.
            at_ns=max(worker.started_ns, processes.wall_ns(worker.pid_start_ticks) if worker.pid_start_ticks else 0),
            worker=worker.id,
            fleet=worker.fleet,
            instance=worker.instance,
            slot=worker.slot,
            pid=worker.pid,
            pid_start_ticks=worker.pid_start_ticks,
            plain=worker.plain,
            label=wanted.label if wanted else {},
            **worker.host,
        )
        self._tell(worker)
        self._map(worker)
        if worker.pid in self.unclaimed_exits:
            self._exited(worker, self.unclaimed_exits.pop(worker.pid))

    def _status(self, worker: Worker) -> None:
        if worker.status is None:
            return
        try:
            data = worker.status.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, worker.status_bytes = (worker.status_bytes + data).split(b"\n")
        for line in lines:
            told = status_message(line)
            if told is None:
                data = b""  # the model's code has taken hold of the socket: nothing more on it is believed
                break
            self._told(worker, told)
        if not data or len(worker.status_bytes) > MAX_STATUS_BYTES:
            self._close_status(worker)

    def _map(self, worker: Worker) -> None:
        """Gives a guest its endpoint's uid, once it has asked and its pid is known. Happens once a worker."""
        wanted = self.fleets.get(worker.fleet)
        if worker.mapping is not UidMapping.ASKED or not worker.pid or worker.status is None or wanted is None:
            return
        worker.mapping = UidMapping.NONE
        try:
            processes.map_uid(worker.pid, wanted.uid)
            worker.status.send(b"+")
        except OSError as error:
            self.say(f"worker={worker.id} event=not_mapped reason={error}")  # its start runs out of time: plainly then

    def _told(self, worker: Worker, message: dict[str, Any]) -> None:
        wanted = self.fleets.get(worker.fleet)
        match message.get("state"):
            case "unmapped" if worker.mapping is UidMapping.AWAITED:
                worker.mapping = UidMapping.ASKED
                self._map(worker)
            case "loading":
                worker.loading = True
                if worker.state is State.STARTING and wanted:
                    worker.deadline_mono_s = worker.ordered_mono_s + wanted.start_timeout_s
            case "ready" if worker.state is State.STARTING:
                worker.state = State.READY
                worker.ready_ns = time.time_ns()
                worker.detail = message.get("detail", {})
                worker.deadline_mono_s = None
                self.journal.record(
                    "ready", at_ns=worker.ready_ns, worker=worker.id, fleet=worker.fleet, instance=worker.instance
                )
                self._tell(worker)
            case "probe":
                worker.detail = {**worker.detail, "last_probe": message.get("detail")}
                self._tell(worker)
            case "ended" if wanted is not None and wanted.container:
                worker.ended = str(message.get("reason", ""))
            case "failed":
                worker.failure = {"reason": message.get("reason", ""), "hint": message.get("hint", "")}

    def _close_status(self, worker: Worker) -> None:
        if worker.status is not None:
            self.selector.unregister(worker.status)
            worker.status.close()
            worker.status = None

    def _tell(self, worker: Worker) -> None:
        if self.channel is not None:
            self.channel.broadcast(worker.told())

    # -- ending a worker -------------------------------------------------------------------------

    def stop_worker(self, worker: Worker, reason: str, grace_s: float) -> None:
        if worker.state is State.STOPPING:
            return
        starting = worker.state is State.STARTING
        worker.state = State.STOPPING
        worker.stop_reason = reason
        worker.deadline_mono_s = time.monotonic() + (0.0 if starting else grace_s)
        self.journal.record("stopping", worker=worker.id, fleet=worker.fleet, instance=worker.instance, reason=reason)
        self._tell(worker)
        if worker.pid:
            processes.end(worker.pid, signal.SIGKILL if starting else signal.SIGTERM)

    def _deadlines(self, now: float) -> None:
        for worker in list(self.workers.values()):
            if worker.deadline_mono_s is None or now < worker.deadline_mono_s:
                continue
            if worker.state is State.STARTING:
                self._start_overdue(worker)
            elif worker.pid:
                worker.deadline_mono_s = now + 1.0
                processes.end(worker.pid, signal.SIGKILL)
            else:
                self._exited(worker, None)  # its order was lost with its zygote
        for service in self.services:
            if not self.stopping and service.restart_at_mono_s is not None and now >= service.restart_at_mono_s:
                service.start(self.lifeline)
        for name, at in list(self.start_after_mono_s.items()):
            if now >= at:
                del self.start_after_mono_s[name]
                if name in self.fleets:
                    self.fill(self.fleets[name], 0)
        self.tasks.expire(now)

    def _orders_lost(self, zygote_key: str) -> None:
        """A zygote has died: what it was told to fork and had not announced will not come."""
        for worker in list(self.workers.values()):
            wanted = self.fleets.get(worker.fleet)
            if wanted is not None and wanted.zygote == zygote_key and not worker.plain and not worker.pid:
                self._start_over(worker, wanted, "ForkHung")

    def _start_over(self, worker: Worker, wanted: Fleet, reason: str) -> None:
        """The same slot once more, plainly."""
        self.say(f"worker={worker.id} fleet={worker.fleet} event={reason} action=plain_start")
        self.stop_worker(worker, reason, 0.0)
        if not worker.pid:
            self._exited(worker, None)
        self._start(wanted, worker.slot, plainly=True)

    def _start_overdue(self, worker: Worker) -> None:
        wanted = self.fleets.get(worker.fleet)
        if not worker.loading and not worker.plain and wanted is not None:
            self._start_over(worker, wanted, "ForkHung")
            return
        limit_s = wanted.start_timeout_s if wanted else 0.0
        worker.failure = worker.failure or {
            "reason": f"not ready within {limit_s:g} s",
            "hint": "raise ContainerStartupHealthCheckTimeoutInSeconds or make the model load faster",
        }
        self.stop_worker(worker, "StartTimeout", 0.0)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._reaped(pid, status)

    def _reaped(self, pid: int, status: int) -> None:
        for service in self.services:
            if service.pid == pid:
                service.died(self.say, processes.exit_facts(status))
                return
        for zygote in self.zygotes.values():
            if zygote.pid == pid:
                zygote.died()
                zygote.close(self.selector)
                if zygote.unwanted_since_mono_s is None:
                    self.say(f"zygote={zygote.spec.key} event=died facts={processes.exit_facts(status)}")
                    self._orders_lost(zygote.spec.key)
                    self._fill_waiting(zygote.spec.key)
                return
        if self.tasks.exited(pid, status):
            return
        for worker in self.workers.values():
            if worker.pid == pid:
                self._exited(worker, status)
                return
        self.unclaimed_exits[pid] = status
        while len(self.unclaimed_exits) > 256:  # grandchildren of user servers that nobody will ask for
            self.unclaimed_exits.pop(next(iter(self.unclaimed_exits)))

    def _exited(self, worker: Worker, status: int | None) -> None:
        if worker.status is not None:
            self._status(worker)  # what it said last
        self._close_status(worker)
        facts = processes.exit_facts(status) if status is not None else {"code": -1}
        before = worker.state
        reason = why_exited(worker, facts, self.jails.oom_kills(worker.limited_as, worker.instance))
        if worker.pid:
            processes.end(worker.pid, signal.SIGKILL)  # whatever of its session outlived it
        worker.state = State.EXITED
        worker.exit = {**facts, "reason": reason, "at_ns": time.time_ns()}
        self.journal.record(
            "exited",
            at_ns=worker.exit["at_ns"],
            worker=worker.id,
            fleet=worker.fleet,
            instance=worker.instance,
            reason=reason,
            **worker.host,
            **facts,
        )
        del self.workers[worker.id]
        worker.address.unlink(missing_ok=True)
        self._tell(worker)
        wanted = self.fleets.get(worker.fleet)
        if wanted is None or self.stopping:
            return
        if before is State.READY and worker.exit["at_ns"] - worker.ready_ns < SHORT_LIFE_NS:
            self._start_failed(wanted, f"{reason} soon after it was ready")
        elif before is not State.STARTING:
            self.fill(wanted, 0)
        elif reason in ("StartFailed", "ExitedWhileStarting", "StartTimeout", "OutOfMemory"):
            self._start_failed(wanted, reason)

    def _start_failed(self, wanted: Fleet, reason: str) -> None:
        now = time.monotonic()
        lately = [at for at in self.failures.get(wanted.name, ()) if now - at < CALM_AFTER_S] + [now]
        self.failures[wanted.name] = lately
        count = len(lately)
        delay_s = BACKOFF_S[min(count - 1, len(BACKOFF_S) - 1)]
        self.start_after_mono_s[wanted.name] = now + delay_s
        self.say(f"fleet={wanted.name} event=start_failed count={count} reason={reason!r} again_in_s={delay_s}")

    # -- housekeeping ----------------------------------------------------------------------------

    def leave_task(self, name: str) -> int:
        """Kills what is left in a named task's control group and removes it; how often memory ended a process there."""
        if not name:
            return 0
        oom_kills = self.jails.oom_kills(name, 0)
        self.jails.kill(name)
        if not self.jails.dismiss(name):
            self.dismissed.add(name)  # a process is still leaving it: it is looked at again
        return oom_kills

    def _tidy(self, now: float) -> None:
        self.journal.write_on()
        for name in list(self.dismissed):
            if not self._of(name) and self.jails.dismiss(name):
                self.dismissed.discard(name)
        for key, zygote in list(self.zygotes.items()):
            since = zygote.unwanted_since_mono_s
            if since is not None and now - since > ZYGOTE_LINGER_S:
                zygote.stop()
                if not zygote.pid:
                    zygote.close(self.selector)
                    self.jails.leave_zygote(zygote.spec)
                    del self.zygotes[key]
            elif zygote.state == "dead" and since is None and now >= zygote.restart_at_mono_s and not self.stopping:
                zygote.start(self.selector, self._zygote_said)
            elif zygote.state == "starting" and now - zygote.started_mono_s > IMPORT_LIMIT_S:
                self.say(f"zygote={key} event=import_hung")
                zygote.stop()
