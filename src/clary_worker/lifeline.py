"""Ends this process when the supervisor's end of a pipe closes."""

from __future__ import annotations

import fcntl
import os
import select
import signal


def hold(descriptor: int) -> None:
    """Ends this process when the other end of the pipe `descriptor` closes, whatever it is doing by then.

    The kernel raises SIGIO on end of file, whose default is to end the process: it needs no thread, no event loop
    and no cooperation of a model that computes. When it has closed already, before anybody was told of it, we end here.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    if ended.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
