"""A warm interpreter that forks workers: `python -I -m clary_worker.zygote FRAMEWORK FD [DISTRIBUTION ...]`.

A framework import costs most of a second; a fork of a process that has done it costs milliseconds, and one made ahead
of time costs the wake nothing. The zygote imports the framework once, holds no model, no event loop and no second
thread, and waits on FD, a SOCK_SEQPACKET socket to the supervisor:

    supervisor -> zygote   {"common": {...}}, the walls that all its workers share; then orders
                           {"worker": {...}, "jail": {...}, ...} + descriptors [listener, log, status, lifeline, ...]
    zygote -> supervisor   {"state": "ready", "threads": 1, "imported": [...]}, then per order {"forked": id, "pid": n}

A worker is forked ahead of its order: the spare leaves its parent, puts up the common walls, rehearses (see
`rehearsal`) and waits. So a wake pays for no fork, and its own model is all that is new to it. An order that finds no
spare ready is given to a fresh fork without a rehearsal. Forks are double: when the order comes, the process in the
middle leaves and the supervisor (a subreaper) adopts the worker; until then a spare is no child of the supervisor's.
The child stands behind all its walls before it reads anything of the user's.

When the supervisor dies, FD ends and the zygote leaves, and with it the spare; workers hear of it by the lifeline (see
`lifeline`). Where the environment holds packages of a user's choice this process is jailed before its first line and
has no rights; its children put up their own walls inside (see `guest`).
"""

from __future__ import annotations

import array
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import Any, Dict, List, Optional, Sequence

from . import loader, process, rehearsal
from .orders import named, receive
from .spec import JailSpec

SPARE_AFTER_S = 0.05


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def main() -> None:
    named("clary-zygote")
    framework, descriptor = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    message, _ = receive(channel)
    if not message:
        return
    common = JailSpec.from_dict(message["common"])
    imported = loader.preload(framework)
    imported += loader.preload_distributions(sys.argv[3:])
    gc.collect()
    gc.freeze()  # the children then do not write to pages of objects that they share with us
    threads = thread_count()
    safe = threads == 1
    channel.send(
        json.dumps(
            {"state": "ready" if safe else "unsafe", "threads": threads, "imported": imported, "pid": os.getpid()}
        ).encode()
    )
    if safe:
        _serve(channel, common, framework)


def _serve(channel: socket.socket, common: JailSpec, framework: str) -> None:
    """Hands orders to spares until the supervisor is gone, or a thread has appeared that makes forks unsafe."""
    spare: Optional[Spare] = None
    rehearsed = framework
    while thread_count() == 1:
        watched = [channel] if spare is None or spare.ready else [channel, spare.channel]
        # A moment's patience before the next spare: the worker that was just started has the processor first.
        readable = select.select(watched, [], [], SPARE_AFTER_S if spare is None else None)[0]
        if spare is not None and spare.channel in readable and not spare.hear():
            spare = None  # it has died of its rehearsal: the next ones do without
            rehearsed = ""
        if channel in readable:
            message, descriptors = receive(channel)
            if not message:
                return
            if spare is not None and spare.ready and spare.order(message, descriptors):
                spare = None
            else:
                Spare(channel, common, None, descriptors + (spare.held() if spare else [])).order(message, descriptors)
            for number in descriptors:
                os.close(number)
        elif not readable:
            _reap()
            spare = Spare(channel, common, rehearsed)
    names = sorted(os.listdir("/proc/self/task"))
    sys.stderr.write("something has started threads here (tasks %s): this zygote leaves\n" % ", ".join(names))


def _reap() -> None:
    """Takes leave of the processes in the middle that have left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # there is none


class Spare:
    """A worker that waits for its order. `inherited`: descriptors of ours that it must not keep.

    `framework`: what it rehearses, "" for nothing, None when its order is there already and nobody waits to hear of it.
    `ready`: its walls stand and it has rehearsed.
    """

    def __init__(
        self, supervisor: socket.socket, common: JailSpec, framework: Optional[str], inherited: Sequence[int] = ()
    ) -> None:
        self.ready = False
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        leash_end, self._leash = os.pipe()  # the process in the middle stays as long as we hold it
        if os.fork() == 0:
            code = 70
            try:
                self.channel.close()
                for number in (self._leash, *inherited):
                    os.close(number)
                if os.fork() == 0:
                    os.close(leash_end)
                    code = _stand_by(supervisor, theirs, common, framework)
                else:
                    theirs.close()
                    os.read(leash_end, 1)
                    code = 0
            finally:
                os._exit(code)
        os.close(leash_end)
        theirs.close()

    def held(self) -> List[int]:
        """Our descriptors of it, which no other child of ours may keep."""
        return [self.channel.fileno(), self._leash]

    def _let_go(self) -> None:
        self.channel.close()
        os.close(self._leash)

    def hear(self) -> bool:
        """Takes its word that it is ready; False when it has died instead."""
        self.ready = bool(self.channel.recv(1))
        if not self.ready:
            self._let_go()
        return self.ready

    def order(self, message: Dict[str, Any], descriptors: List[int]) -> bool:
        """Makes it a worker; False when it has died."""
        payload = array.array("i", descriptors).tobytes()
        try:
            self.channel.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])
        except OSError:
            return False
        finally:
            self._let_go()
        return True


def _stand_by(supervisor: socket.socket, orders: socket.socket, common: JailSpec, framework: Optional[str]) -> int:
    named("clary-spare")
    fallen = process.prepare(common)
    if framework and fallen is None:
        rehearsal.run(framework)
        if thread_count() > 1:
            sys.stderr.write("the rehearsal of %s left threads behind\n" % framework)
            return 70  # limits, uids and capabilities are set a thread at a time: a worker begins with one
    if framework is not None:
        orders.send(b"+")
    message, descriptors = receive(orders)
    if not message:
        return 0  # the zygote has gone
    named("clary-worker")
    supervisor.send(json.dumps({"forked": message["worker"]["worker_id"], "pid": os.getpid()}).encode())
    supervisor.close()
    orders.close()
    return process.run(message, *descriptors, fallen=fallen)


if __name__ == "__main__":
    main()
