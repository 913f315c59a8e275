"""Servers of users' own that break the rules of HTTP (rows W6 and W7): told at once, cut at the cap, alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from conftest import Clary, instance
from test_faults import load
from urllib3.exceptions import HTTPError

CAP_BYTES = 25 * 1024 * 1024
# Answers /ping, echoes, and does what the body says otherwise. One thread a connection, raw bytes.
SERVER = r"""#!/usr/bin/env -S python3 -S -E
import os, socket, threading, time

def answer(body, more=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), more, body)

def talk(connection):
    request = connection.makefile("rb")
    while request.readline():
        length = 0
        while (line := request.readline().strip()):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = request.read(length)
        word = body.decode()
        send = connection.sendall
        if word == "garbage":
            send(b"\x00\xff\x16\x03 this is not HTTP\r\n\r\n" * 20)
        elif word == "bad status":
            send(b"HTTP/1.1 two hundred\r\nContent-Length: 1\r\n\r\nx")
        elif word == "huge head":
            send(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * (1 << 20) + b"\r\nContent-Length: 1\r\n\r\nx")
        elif word == "many fields":
            send(answer(b"x", b"X-Many: a\r\n" * 4000))
        elif word == "two lengths":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx")
        elif word == "length and chunks":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        elif word == "early close":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
            return
        elif word == "close without a word":
            return
        elif word == "upgrade":
            send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        elif word == "continue":
            send(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.05)
            send(answer(b"after all"))
        elif word == "smuggle":
            send(answer(b"mine") + answer(b"SMUGGLED"))
        elif word == "smuggle late":
            send(answer(b"mine"))
            time.sleep(0.1)
            send(answer(b"SMUGGLED"))
        elif word in ("endless", "endless error"):
            code = b"200 OK" if word == "endless" else b"500 No"
            send(b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n" % code)
            piece = b"%x\r\n%b\r\n" % (1 << 20, b"e" * (1 << 20))
            while True:
                send(piece)
        elif word == "gigabyte":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
            for _ in range(1 << 10):
                send(b"g" * (1 << 20))
        else:
            send(answer(body))

def serve(connection):
    with connection:
        try:
            talk(connection)
        except OSError:
            pass

listener = socket.create_server(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), backlog=128)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""


@pytest.fixture(scope="module")
def mine(start_clary: Callable[..., Clary]) -> Clary:
    return start_clary()


def rude_endpoint(mine: Clary) -> str:
    return mine.endpoint(mine.config(instance(mine.model(mine.upload({"serve": SERVER}), "clary/command"))))


@pytest.fixture(scope="module")
def rude(mine: Clary) -> Iterator[str]:
    name = rude_endpoint(mine)
    yield name
    mine.delete(name)


@pytest.fixture(scope="module")
def witness(mine: Clary) -> Iterator[str]:
    name = rude_endpoint(mine)
    yield name
    mine.delete(name)


REFUSED = (
    "garbage",
    "bad status",
    "huge head",
    "many fields",
    "two lengths",
    "length and chunks",
    "early close",
    "close without a word",
    "upgrade",
)


@pytest.mark.parametrize("word", REFUSED)
def test_w6_an_answer_that_is_no_http_is_told_and_its_connection_dropped(
    mine: Clary, rude: str, witness: str, word: str
) -> None:
    with load(mine, witness, 1) as clean:
        for _ in range(3):
            with pytest.raises(ClientError) as told:
                mine.invoke(rude, word, "text/plain")
            assert told.value.response["Error"]["Code"] == "ModelError"
            assert told.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424
            assert mine.invoke(rude, "hello", "text/plain") == b"hello"
    assert clean.failed == []


def test_w6_what_comes_before_the_answer_is_not_taken_for_it(mine: Clary, rude: str) -> None:
    for _ in range(3):
        assert mine.invoke(rude, "continue", "text/plain") == b"after all"


@pytest.mark.parametrize("word", ["smuggle", "smuggle late"])
def test_w6_a_second_answer_reaches_nobody(mine: Clary, rude: str, word: str) -> None:
    with load(mine, rude, 2, "own words") as others:
        for _ in range(10):
            with contextlib.suppress(ClientError):  # the two came in one piece, so neither is to be trusted
                assert mine.invoke(rude, word, "text/plain") == b"mine"
            for text in ("one", "two"):
                assert mine.invoke(rude, text, "text/plain") == text.encode()
    assert others.failed == []
    assert others.wrong == 0


def memory_bytes(pid: int, which: str) -> int:
    """Resident memory of a process: VmRSS now, VmHWM at its highest since `clear_refs` was told so."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith(which))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("word", ["endless", "endless error", "gigabyte"])
def test_w7_an_endless_answer_is_cut_at_the_cap(mine: Clary, rude: str, witness: str, word: str) -> None:
    pid = mine.service_pid("proxy")
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before_bytes = memory_bytes(pid, "VmRSS")
    with load(mine, witness, 1) as clean:
        started_s = time.monotonic()
        with pytest.raises((ClientError, BotoCoreError, ConnectionError, HTTPClientError, HTTPError)):
            mine.invoke(rude, word, "text/plain")
        worst_bytes = memory_bytes(pid, "VmHWM")
        took_s = time.monotonic() - started_s
    print(f"{word}: cut after {took_s:.2f} s, the proxy grew by {(worst_bytes - before_bytes) >> 20} MiB")
    assert mine.service_pid("proxy") == pid
    assert worst_bytes - before_bytes <= 2 * CAP_BYTES
    assert clean.failed == []
    assert clean.served > 0
    assert mine.invoke(rude, "hello", "text/plain") == b"hello"
