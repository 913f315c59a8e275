"""`python -I -m clary.transform --data DIR --job FOLDER`: makes the outputs of one transform job.

A process of its own, started by the supervisor as control's task: its reading, cutting and joining take nothing from
the gateway, and it goes on while control is away. It may be killed at any moment; the next one goes on from the last
checkpoint of every object.

Exit codes: 0 every object has an output or a reason, 3 the supervisor has gone, 4 told to stop, 70 a bug or a full disk
(the traceback is on stderr).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from clary.paths import Layout
from clary.transform.folder import JobFolder
from clary.transform.lane import WINDOW_BYTES, Budget, Lane
from clary.transform.workers import Workers

STOPPED = 4
FAILED = 70
LOOK_EVERY_S = 0.1
TELL_EVERY_S = 0.5


def run(layout: Layout, folder: JobFolder) -> int:
    """Until all is done or it is told to stop; the exit code."""
    workers = Workers(layout.supervisor_socket, folder.order().fleets)
    while (lock := folder.lock()) is None:  # another engine, started by a control that has gone, still works here
        if folder.stop.exists() or not folder.path.exists():
            return STOPPED
        time.sleep(LOOK_EVERY_S)
    order = folder.order()
    finished = {*folder.published(), *folder.finished(), *folder.failed()}
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(text: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
        os.write(log, f"{at}:[sagemaker logs]: {text}\n".encode())

    budget = Budget(WINDOW_BYTES)
    lanes = [Lane(number, order, folder, workers, budget, finished, say) for number in range(order.instances)]
    for lane in lanes:
        lane.start()
    told_s = 0.0
    while alive := [lane for lane in lanes if lane.is_alive()]:
        if folder.stop.exists():
            return STOPPED
        if any(not lane.done and not lane.is_alive() for lane in lanes):
            return FAILED
        if time.monotonic() - told_s >= TELL_EVERY_S:
            told_s = time.monotonic()
            _tell(folder, lanes)
        alive[0].join(LOOK_EVERY_S)
    _tell(folder, lanes)
    lock.close()
    return 0 if all(lane.done for lane in lanes) else FAILED


def _tell(folder: JobFolder, lanes: list[Lane]) -> None:
    folder.write_progress(
        {
            "bytes": sum(lane.told.bytes for lane in lanes),
            "lines": sum(lane.told.lines for lane in lanes),
            "requests": sum(lane.told.requests for lane in lanes),
            "objects": sum(lane.told.objects for lane in lanes),
            "failed": sum(lane.told.failed for lane in lanes),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="clary.transform")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--job", type=Path, required=True)
    arguments = parser.parse_args()
    code = run(Layout(arguments.data), JobFolder(arguments.job))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # requests that still wait on their threads must not hold us


if __name__ == "__main__":
    main()
