"""A warm interpreter that forks workers: `python -I -m clary_worker.zygote FRAMEWORK FD [DISTRIBUTION ...]`.

A framework import costs most of a second; a fork of a process that has done it costs milliseconds, and one made ahead
of time costs the wake nothing. The zygote imports the framework once, holds no model, no event loop and no second
thread, and waits on FD, a SOCK_SEQPACKET socket to the supervisor:

    supervisor -> zygote   {"worker": {...}, "jail": {...}, ...} + descriptors [listener, log, status, lifeline, ...]
    zygote -> supervisor   {"state": "ready", "threads": 1, "imported": [...]}, then per order {"forked": id, "pid": n}

Where the environment holds packages of a user's choice this process is jailed before its first line and has no rights;
its children then put up their own walls inside (see `guest`).

Each worker is forked twice: the process in the middle leaves at once, so that the supervisor (a subreaper) adopts and
reaps the worker. The middle one is forked ahead of time and waits: a wake pays for one fork, not two. The child enters
its jail before it reads anything of the user's. When the supervisor dies, FD ends and the zygote leaves, and with it
the spare; workers hear of it by the lifeline (see `lifeline`).
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
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import loader, process

MAX_MESSAGE_BYTES = 1 << 18
SPARE_AFTER_S = 0.05
# Native libraries whose import leaves a helper thread that a fork does not need (trials: onnxruntime keeps one).
SAFE_EXTRA_THREADS = {"onnxruntime": 1}


def receive(channel: socket.socket, max_fds: int = 64) -> Tuple[Dict[str, Any], List[int]]:
    """One message and its descriptors; ({}, []) when the other side is gone."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = channel.recvmsg(
        MAX_MESSAGE_BYTES, socket.CMSG_LEN(max_fds * size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    )
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % size])
    return (json.loads(data) if data else {}), list(descriptors)


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def main() -> None:
    framework, descriptor = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    imported = loader.preload(framework)
    imported += loader.preload_distributions(sys.argv[3:])
    gc.collect()
    gc.freeze()  # the children then do not write to pages of objects that they share with us
    allowed = 1 + SAFE_EXTRA_THREADS.get(framework, 0)
    threads = thread_count()
    safe = threads <= allowed
    channel.send(
        json.dumps(
            {"state": "ready" if safe else "unsafe", "threads": threads, "imported": imported, "pid": os.getpid()}
        ).encode()
    )
    if safe:
        _serve(channel, allowed)


def _serve(channel: socket.socket, allowed_threads: int) -> None:
    """Hands orders to spares until the supervisor is gone, or a thread has appeared that makes forks unsafe."""
    spare: Optional[Spare] = None
    while True:
        # A moment's patience before the next spare: the worker that was just started has the processor first.
        if spare is None and not select.select([channel], [], [], SPARE_AFTER_S)[0]:
            _reap()
            if thread_count() > allowed_threads:
                return
            spare = Spare(channel)
        message, descriptors = receive(channel)
        if not message:
            return
        (spare or Spare(channel, descriptors)).order(message, descriptors)
        spare = None
        for number in descriptors:
            os.close(number)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # every spare that was used has been waited for


class Spare:
    """The middle process, forked and waiting for its order. `inherited`: descriptors of ours that it must not keep."""

    def __init__(self, supervisor: socket.socket, inherited: Sequence[int] = ()) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            code = 70
            try:
                self._channel.close()
                for number in inherited:
                    os.close(number)
                code = _stand_by(supervisor, theirs)
            finally:
                os._exit(code)
        theirs.close()

    def order(self, message: Dict[str, Any], descriptors: List[int]) -> None:
        """The worker is forked and announced by the middle process, which then leaves."""
        payload = array.array("i", descriptors).tobytes()
        self._channel.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])
        self._channel.close()


def _stand_by(supervisor: socket.socket, orders: socket.socket) -> int:
    message, descriptors = receive(orders)
    if not message:
        return 0  # the zygote has gone
    child = os.fork()
    if child:
        supervisor.send(json.dumps({"forked": message["worker"]["worker_id"], "pid": child}).encode())
        return 0
    supervisor.close()
    orders.close()
    return process.run(message, *descriptors)


if __name__ == "__main__":
    main()
