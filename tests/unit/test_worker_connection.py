"""The engine's HTTP client against servers that answer well, badly, late and not at all, over a real socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clary import worker_connection
from clary.worker_connection import Connection, Lost, Misanswered, TimedOut

Serve = Callable[..., Connection]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Gives a connection to a server whose n-th accepted connection sends the n-th list of answers, one a request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "w.sock"))
    listener.listen()

    def start(*connections: list[bytes]) -> Connection:
        def run() -> None:
            for answers in connections:
                accepted, _ = listener.accept()
                with accepted, contextlib.suppress(OSError):  # who has heard enough goes
                    for answer in answers:
                        accepted.recv(1 << 20)
                        accepted.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return Connection(str(tmp_path / "w.sock"))

    yield start
    listener.close()


def ask(connection: Connection, limit_s: float = 5.0) -> tuple[int, bytes]:
    answer = connection.request("POST", "/invocations", (("Content-Type", "text/csv"),), b"1,2", limit_s)
    return answer.status, answer.body


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n0.5"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n0.\r\n1\r\n5\r\n0\r\nTrailer: x\r\n\r\n"


def test_answers_of_every_framing(serve: Serve) -> None:
    connection = serve(
        [GOOD, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"],
    )
    assert [ask(connection) for _ in range(4)] == [(200, b"0.5"), (200, b"0.5"), (200, b"0.5"), (500, b"no")]


def test_a_body_that_ends_with_its_connection(serve: Serve) -> None:
    connection = serve([b"HTTP/1.1 200 OK\r\n\r\n0.5"], [GOOD])
    assert ask(connection) == (200, b"0.5")
    assert ask(connection) == (200, b"0.5")


def test_an_idle_connection_that_was_closed_is_made_anew(serve: Serve) -> None:
    connection = serve([GOOD], [GOOD])
    assert ask(connection) == (200, b"0.5")
    assert ask(connection) == (200, b"0.5")


HALF_HEAD, HALF_BODY = b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"


@pytest.mark.parametrize("answers", [[], [HALF_HEAD], [HALF_BODY]])
def test_a_connection_that_breaks_is_lost(serve: Serve, answers: list[bytes]) -> None:
    with pytest.raises(Lost):
        ask(serve(answers))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n",
        b"x" * (worker_connection.MAX_HEAD_BYTES + 2),
    ],
)
def test_what_is_no_answer_is_refused(serve: Serve, answer: bytes) -> None:
    with pytest.raises(Misanswered):
        ask(serve([answer]))


def test_an_answer_over_the_limit_is_not_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_connection, "MAX_ANSWER_BYTES", 100)
    with pytest.raises(Misanswered, match="larger than 100"):
        ask(serve([b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101]))
    with pytest.raises(Lost):
        ask(Connection("/nowhere/w.sock"))


def test_one_deadline_for_all_of_an_answer(serve: Serve) -> None:
    with pytest.raises(TimedOut):
        ask(serve([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n0.", b"5"]), 0.2)
