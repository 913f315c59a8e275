"""`python -I -m clary.proxy --data DIR --listen-fd N --life-fd M`: the composition root of the data plane."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
from pathlib import Path

import uvloop

from clary import line_socket
from clary.lifeline import hold
from clary.paths import Layout
from clary.proxy import leases
from clary.proxy.administration import Administration
from clary.proxy.authentication import Authenticator
from clary.proxy.capture import CaptureSpool
from clary.proxy.dispatch import Dispatcher
from clary.proxy.meter import Meter
from clary.proxy.relay import RelayPool
from clary.proxy.server import FrontDoor
from clary.settings import is_loopback

DRAIN_S = 10.0
FLUSH_EVERY_S = 1.0


async def serve(layout: Layout, listener: socket.socket) -> None:
    """Runs until SIGTERM, then lets what is inside finish."""
    settings = json.loads(layout.settings.read_text())
    loop = asyncio.get_running_loop()
    meter = Meter(layout.counters)
    authenticator = Authenticator(
        layout.identity_snapshot, settings["account"], settings["auth"], is_loopback(settings["host"])
    )
    host_names = frozenset(name for name in settings["host_names"].split(",") if name)
    spool = CaptureSpool(layout.capture, settings["disk_reserve_mib"] << 20)
    spool.recover()
    dispatcher = Dispatcher(settings["account"], layout, meter, spool)
    dispatcher.reload()
    door = FrontDoor(dispatcher, RelayPool(layout.gateway_socket), authenticator, host_names, meter.receipts)
    administration = await line_socket.listen(layout.proxy_socket, Administration(dispatcher, authenticator).answer)
    slots = await leases.listen(layout.lease_socket, dispatcher)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(work)
            for work in (
                dispatcher.fleets.follow(),
                dispatcher.health.watch(),
                door.sweep(),
                _tend(meter, authenticator),
            )
        ]
        server = await loop.create_server(door.connection, sock=listener, backlog=4096)
        gc.collect()
        gc.freeze()
        await stop.wait()
        server.close()
        deadline = loop.time() + DRAIN_S
        while (  # noqa: ASYNC110
            door.owing or any(pool.inside for pool in dispatcher.pools.values())
        ) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for task in background:
            task.cancel()
    administration.close()
    slots.close()
    for connection in list(door.connections):
        connection.close()
    spool.stop()
    meter.flush()


async def _tend(meter: Meter, authenticator: Authenticator) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(FLUSH_EVERY_S)
        authenticator.refresh()
        if meter.changed():
            await loop.run_in_executor(None, meter.flush)


def main() -> None:
    parser = argparse.ArgumentParser(prog="clary.proxy")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--life-fd", type=int, required=True)
    arguments = parser.parse_args()
    hold(arguments.life_fd)
    uvloop.run(serve(Layout(arguments.data), socket.socket(fileno=arguments.listen_fd)))


if __name__ == "__main__":
    main()
