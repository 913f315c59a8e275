"""Callers who come at once are all heard in the same turn of the loop, however long a turn is."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from clary_worker.listener import Listener

CALLERS = 64
LIMIT_S = 20.0


@pytest.fixture
def listening(sockets: Callable[[], Path]) -> Iterator[socket.socket]:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(sockets() / "s"))
    made.listen(1024)
    made.setblocking(False)
    yield made
    made.close()


class Told(asyncio.Protocol):
    """Tells what its connections did."""

    def __init__(self, made: Callable[[], None], heard: Callable[[bytes], None]) -> None:
        self._made = made
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made()

    def data_received(self, data: bytes) -> None:
        self._heard(data)


def call(listening: socket.socket, count: int) -> list[socket.socket]:
    """Connections that have sent a byte and wait."""
    found = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.connect(listening.getsockname())
        one.sendall(b"x")
        found.append(one)
    return found


def test_all_who_wait_are_taken_in_one_turn(listening: socket.socket) -> None:
    callers = call(listening, CALLERS)
    turns: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        turn = count = 0

        def tick() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(tick)

        def hear(data: bytes) -> None:
            nonlocal count
            count += len(data)
            if count == CALLERS:
                heard.set()

        tick()
        listener = Listener(loop, listening, lambda: Told(lambda: turns.append(turn), hear))
        await asyncio.wait_for(heard.wait(), LIMIT_S)
        listener.close()

    uvloop.run(run())
    assert len(turns) == CALLERS
    assert max(turns) - min(turns) <= 2
    assert listening.fileno() < 0
    for one in callers:
        one.close()


def test_it_goes_on_when_descriptors_are_to_be_had_again(
    listening: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    callers = call(listening, 1)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made = asyncio.Event()
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            listener = Listener(loop, listening, lambda: Told(made.set, lambda _: None))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(made.wait(), 0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.wait_for(made.wait(), LIMIT_S)
        listener.close()

    uvloop.run(run())
    assert "no connection can be taken" in capfd.readouterr().err
    for one in callers:
        one.close()
