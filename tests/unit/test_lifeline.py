"""Nobody outlives the supervisor: not one that was only starting when it ended, either."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from clary import lifeline
from clary_worker import lifeline as worker_lifeline


@pytest.mark.parametrize("hold", [lifeline.hold, worker_lifeline.hold])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_end_of_the_supervisor_ends_who_holds_its_line(hold: Callable[[int], None], when: str) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(write)
        own = os.open(f"/proc/self/fd/{read}", os.O_RDONLY | os.O_NONBLOCK)
        os.close(read)
        if when == "before":
            time.sleep(0.2)
        hold(own)
        time.sleep(5)
        os._exit(0)
    os.close(read)
    if when == "after":
        time.sleep(0.2)
    os.close(write)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGIO, -signal.SIGKILL)
