"""A warm interpreter that forks extractors: `python -I -m clary_worker.unpacker FD`.

Starting an interpreter costs several times what unpacking a small archive does, so one stays for a while. It holds
nothing of anybody's: an archive comes as a descriptor with its order on FD, a SOCK_SEQPACKET socket to the supervisor,
and is read by a child of its own, behind its own walls, which then ends.

    supervisor -> unpacker   {"id": n, "jail": {...}, "destination": folder, "max_bytes": n} + [archive, output]
    unpacker -> supervisor   {"state": "ready"}, then {"forked": n, "pid": n} and {"exited": n, "status": wait status}

When the supervisor dies, FD ends and this process leaves.
"""

from __future__ import annotations

import gc
import gzip  # noqa: F401 - tarfile's own, when an archive wants them: here they are imported once
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any, Dict, List

from . import archive, jail
from .orders import named, receive
from .spec import JailSpec


def main() -> None:
    named("clary-unpacker")
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children, wakeup = socket.socketpair()
    for one in (children, wakeup):
        one.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    gc.collect()
    gc.freeze()  # the children then do not write to pages of objects that they share with us
    _send(channel, {"state": "ready"})
    numbers: Dict[int, int] = {}  # pid -> order
    while True:
        readable = select.select([channel, children], [], [])[0]
        if children in readable:
            children.recv(4096)
            _reap(channel, numbers)
        if channel in readable:
            order, descriptors = receive(channel)
            if not order:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for held in (channel, children, wakeup):
                    held.close()
                _extract(order, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            numbers[pid] = order["id"]
            _send(channel, {"forked": order["id"], "pid": pid})


def _send(channel: socket.socket, message: Dict[str, Any]) -> None:
    channel.send(json.dumps(message).encode())


def _reap(channel: socket.socket, numbers: Dict[int, int]) -> None:
    while numbers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _send(channel, {"exited": numbers.pop(pid), "status": status})


def _extract(order: Dict[str, Any], descriptors: List[int]) -> None:
    """The child's whole life."""
    code = 71  # EX_OSERR: it could not be jailed
    try:
        packed, output = descriptors
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        jail.enter(JailSpec.from_dict(order["jail"]))
        os.chdir("/")
        code = archive.tell(packed, order["destination"], order["max_bytes"])
    except BaseException:  # a child that goes on would be a second unpacker
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
