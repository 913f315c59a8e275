"""The proxy, as a process, beside workers that are slow or do not read (rows W7, W8): cut in time, tried elsewhere."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_world import FLEET, Talk, World

from clary.domain.routing import VariantRoute

TIME_S = 1.0


def read_request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        length = 0
        while line := file.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return file.read(length)


def good(connection: socket.socket) -> None:
    while True:
        body = read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def drip(connection: socket.socket) -> None:
    """A body that comes byte by byte and would take a minute."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")
    for _ in range(600):
        connection.sendall(b"d")
        time.sleep(0.1)


def never_reads(connection: socket.socket) -> None:
    time.sleep(60)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path, VariantRoute("v", FLEET, 1.0, request_timeout_s=TIME_S, queue_timeout_s=3.0))
    yield one
    one.stop()


@pytest.mark.parametrize("talk", [drip, never_reads])
@pytest.mark.parametrize("size_bytes", [1, 8 << 20])
def test_a_worker_that_is_too_slow_is_left_at_the_time_and_reported(world: World, talk: Talk, size_bytes: int) -> None:
    world.worker(talk)
    world.start()
    status, text, took_s = world.invoke(b"r" * size_bytes)
    assert status == 424
    assert b"timed out" in text
    assert took_s >= TIME_S
    assert world.stopped() == [("w0", "Hung")]


def test_a_worker_whose_backlog_is_full_is_passed_over(world: World) -> None:
    full = world.worker(None, backlog=0)
    fillers = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(str(full))
    world.worker(good)
    world.start()
    assert [world.invoke(b"y")[:2] for _ in range(20)] == [(200, b"y")] * 20
    for filler in fillers:
        filler.close()


def test_one_worker_that_takes_no_connection_is_an_error_that_says_so(world: World) -> None:
    world.worker(None, backlog=0).unlink()
    world.start()
    status, text, _ = world.invoke()
    assert status == 424
    assert b"takes no connections" in text
