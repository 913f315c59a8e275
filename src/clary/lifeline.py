"""Ends this process when the supervisor's end of a pipe closes. Standard library only."""

from __future__ import annotations

import fcntl
import os
import select
import signal


def hold(descriptor: int) -> None:
    """From now on the kernel raises SIGIO, whose default ends us, when the other end of pipe `descriptor` closes.

    When it has closed already, before anybody was told of it, this process ends here.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    if ended.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
