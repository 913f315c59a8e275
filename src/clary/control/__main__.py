"""`python -I -m clary.control --data DIR --life-fd N`: the composition root of the control plane.

Builds every part, starts them in order, stops them in reverse. The only process that opens the database.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
import uvloop

from clary import line_socket
from clary.control.parts import Control
from clary.lifeline import hold
from clary.paths import Layout
from clary.settings import from_json

log = logging.getLogger("clary.control")


async def serve(layout: Layout) -> None:
    """Runs until SIGTERM."""
    control = Control(layout, from_json(layout.settings.read_text()), lambda: datetime.now(UTC))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    layout.gateway_socket.unlink(missing_ok=True)
    server = uvicorn.Server(
        uvicorn.Config(
            control.gateway,
            uds=str(layout.gateway_socket),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=600,
            http="httptools",
            loop="none",
            server_header=False,
            date_header=True,
        )
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(work) for work in control.work()]
        await control.ready()
        administration = await line_socket.listen(layout.control_socket, control.administration.answer)
        serving = tasks.create_task(server._serve())
        gc.collect()
        gc.freeze()
        log.info("event=ready pid=%d", os.getpid())
        await stop.wait()
        administration.close()
        server.should_exit = True
        server.force_exit = True
        await serving
        for task in background:
            task.cancel()
    control.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="clary.control")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--life-fd", type=int, required=True)
    arguments = parser.parse_args()
    hold(arguments.life_fd)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvloop.run(serve(Layout(arguments.data)))


if __name__ == "__main__":
    main()
