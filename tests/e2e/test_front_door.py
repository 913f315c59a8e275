"""The one port against raw sockets: ambiguous framing, oversize, slow and absent clients, browsers on other sites."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable

import pytest
from conftest import Clary, instance, wait_for


@pytest.fixture(scope="module")
def open_clary(start_clary: Callable[..., Clary]) -> Clary:
    return start_clary("--no-auth")


@pytest.fixture(scope="module")
def echo(open_clary: Clary, echo_files: dict[str, str]) -> str:
    model = open_clary.model(open_clary.upload(dict(echo_files)), "clary/sklearn")
    return open_clary.endpoint(open_clary.config(instance(model)))


def talk(clary: Clary, raw: bytes, limit_s: float = 15.0) -> bytes:
    """Everything the server says to `raw` until it closes or is silent for a moment."""
    with socket.create_connection(("127.0.0.1", clary.port), timeout=limit_s) as connection:
        connection.sendall(raw)
        connection.settimeout(1.0)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            pass
        except ConnectionResetError:
            pass
        return found


def post(name: str, body: bytes = b"hi", extra: bytes = b"", head: bytes = b"") -> bytes:
    return (
        b"POST /endpoints/%b/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n" % name.encode()
        + (head or b"Content-Length: %d\r\n" % len(body))
        + extra
        + b"\r\n"
        + body
    )


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 2\r\nContent-Length: 2\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 0x2\r\n",
        b"Content-Length: 2 2\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Content-Length: 2\r\nHost: other\r\n",
        b"Content-Length: 2\r\n folded: x\r\n",
        b"Content-Length : 2\r\n",
        b"Content-Length: 2\r\nX-Bad: a\x00b\r\n",
        b"Content-Length: 2\r\nX-Big: " + b"a" * 70_000 + b"\r\n",
        b"Content-Length: 2\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(120)),
        b"Content-Length: 2\r\nOrigin: http://evil.example\r\n",
        b"Content-Length: 2\r\nSec-Fetch-Site: cross-site\r\n",
    ],
    ids=lambda head: head[:48].decode("latin-1"),
)
def test_ambiguous_heads_get_one_refusal_and_the_end(open_clary: Clary, echo: str, head: bytes) -> None:
    answer = talk(open_clary, post(echo, head=head) + post(echo, b"smuggled"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close" in answer
    assert b"smuggled" not in answer


def test_a_foreign_host_name_is_refused_without_signatures(open_clary: Clary, echo: str) -> None:
    answer = talk(open_clary, post(echo).replace(b"Host: localhost", b"Host: rebound.example"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"host names" in answer


def test_pipelined_requests_are_answered_in_order(open_clary: Clary, echo: str) -> None:
    answer = talk(open_clary, b"".join(post(echo, b"n%d" % i) for i in range(20)))
    places = [answer.index(b"\r\n\r\nn%d" % i) for i in range(20)]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200 OK") == 20


def test_pipelined_requests_that_are_the_same_are_answered_each(open_clary: Clary, echo: str) -> None:
    answer = talk(open_clary, post(echo, b"sleep 0.1") + 4 * post(echo, b"again"))
    assert answer.count(b"HTTP/1.1 200") == 5
    assert answer.count(b"again") == 4


def test_chunked_bodies_are_taken(open_clary: Clary, echo: str) -> None:
    raw = post(echo, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", head=b"Transfer-Encoding: chunked\r\n")
    assert talk(open_clary, raw).endswith(b"\r\n\r\nabcde")


def test_a_body_over_the_limit_is_refused_before_it_is_read(open_clary: Clary, echo: str) -> None:
    answer = talk(open_clary, post(echo, b"", head=b"Content-Length: 26214401\r\n"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert "max_request_bytes" in json.loads(answer.partition(b"\r\n\r\n")[2])["Message"]


def test_expect_100_is_answered(open_clary: Clary, echo: str) -> None:
    with socket.create_connection(("127.0.0.1", open_clary.port), timeout=5) as connection:
        connection.sendall(post(echo, b"", b"Expect: 100-continue\r\n", b"Content-Length: 2\r\n"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"ok")
        assert connection.recv(1000).endswith(b"ok")


def test_a_slow_head_is_cut_off(open_clary: Clary) -> None:
    with socket.create_connection(("127.0.0.1", open_clary.port), timeout=30) as connection:
        connection.sendall(b"POST /endpoints/x/invocations HTTP/1.1\r\nHost: loc")
        started_s = time.monotonic()
        assert connection.recv(1) == b""
        assert 8 < time.monotonic() - started_s < 20


def test_a_thousand_clients_that_leave_free_their_slots(open_clary: Clary, echo: str) -> None:
    def leave(after: bytes) -> None:
        connection = socket.create_connection(("127.0.0.1", open_clary.port), timeout=5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(after)
        connection.close()

    raw = post(echo, b"sleep 0.001")
    for number in range(1000):
        leave(raw[: number % len(raw)] if number % 2 else raw)

    def inside() -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(open_clary.data / "run" / "proxy.sock"))
            connection.sendall(b'{"op": "facts"}\n')
            fleets = json.loads(connection.makefile().readline())["fleets"]
            return sum(one["inside"] + one["waiting"] for one in fleets.values())

    wait_for(lambda: inside() == 0, 20, "the slots of absent clients")
    assert open_clary.invoke(echo, "still here", "text/plain") == b"still here"


def answer_on(connection: socket.socket) -> bytes:
    """One answer with a Content-Length, head and body."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(65536)
        assert piece, f"closed after {found!r}"
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def put_into_nothing(size_bytes: int) -> bytes:
    return b"PUT /no-such-bucket/key HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size_bytes


def test_an_answer_before_the_body_is_over_leaves_the_connection_usable(open_clary: Clary) -> None:
    """Closing would reset it under a client that is still sending, and the answer would be lost with it."""
    half = b"x" * (4 << 20)
    with socket.create_connection(("127.0.0.1", open_clary.port), timeout=15) as connection:
        for _ in range(2):
            connection.sendall(put_into_nothing(2 * len(half)) + half)
            assert b"NoSuchBucket" in answer_on(connection)
            connection.sendall(half)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"ListAllMyBucketsResult" in answer_on(connection)


def test_a_body_that_nobody_wants_is_not_read_for_ever(open_clary: Clary) -> None:
    piece = b"x" * (1 << 20)
    with socket.create_connection(("127.0.0.1", open_clary.port), timeout=15) as connection:
        connection.sendall(put_into_nothing(1 << 32) + 4 * piece)
        assert b"NoSuchBucket" in answer_on(connection)
        with pytest.raises(ConnectionError):
            connection.sendall(200 * piece)


def test_a_slow_reader_of_a_large_answer_leaves_nobody_waiting(open_clary: Clary) -> None:
    """The answer's end may come while its reader is behind; the connection to control that brought it serves others."""
    s3 = open_clary.client("s3")
    s3.create_bucket(Bucket="slowly")
    for number in range(12):
        size_bytes = (4 << 20) + number * 100_000
        s3.put_object(Bucket="slowly", Key="large", Body=bytes(size_bytes))
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            reader.connect(("127.0.0.1", open_clary.port))
            reader.sendall(b"GET /slowly/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            came_bytes = 0
            while came_bytes < size_bytes:
                time.sleep(0.002)
                came_bytes += len(reader.recv(1 << 16))
        assert b"ListAllMyBucketsResult" in talk_once(open_clary, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def talk_once(clary: Clary, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", clary.port), timeout=10) as connection:
        connection.sendall(raw)
        return answer_on(connection)
