"""The model server over its real socket: HTTP, limits, ordering, streams, leaving."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_client import Worker, talk

ECHO = """
import time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else body.decode("latin-1")
    if text.startswith("sleep"):
        time.sleep(float(text.split()[1]))
    if text == "raise":
        raise KeyError("no such row")
    if text == "stream":
        return (("part %d;" % i).encode() for i in range(5)), "text/plain"
    if text == "stream-fails":
        return fails(), "text/plain"
    if text == "stream-fails-at-once":
        return fails(0), "text/plain"
    if text == "big":
        return b"x" * 3_000_000, "application/octet-stream"
    return body, content_type or "none/none"

def fails(after=1):
    for _ in range(after):
        yield b"before"
    raise RuntimeError("broken stream")
"""


@pytest.fixture(scope="module")
def echo(start: Callable[..., Worker], script: Callable[..., Path]) -> Worker:
    return start(script(ECHO), max_payload_bytes=1_000_000)


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while True:
        piece = connection.recv(65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def post(body: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    head = [b"POST /invocations HTTP/" + version, b"Host: w", b"Content-Type: text/plain"]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), *lines, b"", body])


def test_ping_answers_200_with_an_empty_body(echo: Worker) -> None:
    answer = echo.request("GET", "/ping")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing", 404, "GET /nothing is not known here"),
        ("POST", "/models", 404, "POST /models is not known here"),
        ("GET", "/invocations", 405, "use POST"),
        ("POST", "/ping", 405, "use GET"),
    ],
)
def test_what_is_not_served_says_so(echo: Worker, method: str, path: str, status: int, words: str) -> None:
    answer = echo.request(method, path)
    assert answer.status == status
    assert words in answer.text
    assert answer.kind.startswith("text/plain")


def test_head_is_answered_without_a_body_and_the_connection_goes_on(echo: Worker) -> None:
    connection = echo.connect()
    assert talk(connection, "HEAD", "/ping") == talk(connection, "HEAD", "/ping")
    parameters = talk(connection, "HEAD", "/execution-parameters")
    assert (parameters.status, parameters.body) == (200, b"")
    assert int(parameters.headers["content-length"]) > 0
    assert talk(connection, "POST", "/invocations", b"after").body == b"after"


def test_execution_parameters_are_those_of_a_transform_job(echo: Worker) -> None:
    assert echo.request("GET", "/execution-parameters").json == {
        "MaxConcurrentTransforms": 1,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 1,
    }


def test_many_requests_pass_over_one_connection(echo: Worker) -> None:
    connection = echo.connect()
    for number in range(200):
        assert talk(connection, "POST", "/invocations", b"%d" % number).body == b"%d" % number


def test_pipelined_requests_are_answered_in_order(echo: Worker) -> None:
    connection = echo.raw()
    ping = b"GET /ping HTTP/1.1\r\nHost: w\r\n\r\n"
    parts = [post(b"first"), ping, post(b"stream"), post(b"third"), b"GET /no HTTP/1.1\r\nHost: w\r\n\r\n"]
    connection.sendall(b"".join([*parts, post(b"last", b"Connection: close")]))
    found = read_all(connection)
    order = [found.index(word) for word in (b"first", b"part 4;", b"\r\n0\r\n\r\n", b"third", b"404", b"last")]
    assert order == sorted(order)
    assert found.count(b"HTTP/1.1 ") == 6


def test_pipelined_requests_of_different_kinds_keep_their_order_when_batched(
    start: Callable[..., Worker], models: dict[str, Path]
) -> None:
    worker = start(models["forest"], "sklearn")
    rows = [b"5.1,3.5,1.4,0.2", b"[[6.0, 3.0, 5.0, 2.0]]", b"broken,", b"5.9,3.0,5.1,1.8"]
    kinds = [b"text/csv", b"application/json", b"text/csv", b"text/csv"]
    connection = worker.raw()
    for place, row in enumerate(rows):
        last = b"Connection: close\r\n" if place == 3 else b""
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: w\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (last, kinds[place], len(row), row)
        )
    found = read_all(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"200", b"400", b"200"]


def test_a_request_cut_into_single_bytes_is_read(echo: Worker) -> None:
    connection = echo.raw()
    for byte in post(b"slow", b"Connection: close"):
        connection.send(bytes([byte]))
    assert read_all(connection).endswith(b"\r\n\r\nslow")


def test_a_chunked_body_is_joined(echo: Worker) -> None:
    assert echo.request("POST", "/invocations", iter([b"one ", b"two ", b"three"])).body == b"one two three"


def test_expect_continue_is_answered_before_the_body(echo: Worker) -> None:
    connection = echo.raw()
    message = post(b"waited", b"Expect: 100-continue", b"Connection: close")
    connection.sendall(message[: -len(b"waited")])
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"waited")
    assert read_all(connection).endswith(b"waited")


def test_a_body_over_the_limit_is_refused_on_its_head(echo: Worker) -> None:
    connection = echo.raw()
    connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: w\r\nContent-Length: 1000001\r\n\r\n")
    found = read_all(connection)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"1000001 bytes; at most 1000000 bytes" in found


def test_a_chunked_body_over_the_limit_is_refused_while_it_grows(echo: Worker) -> None:
    connection = echo.raw()
    connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(11):
        connection.sendall(b"%x\r\n%b\r\n" % (100_000, b"a" * 100_000))
    assert read_all(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_at_the_limit_is_taken(echo: Worker) -> None:
    assert len(echo.request("POST", "/invocations", b"a" * 1_000_000).body) == 1_000_000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ping HTTP/1.1\r\nHost: w\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: w\r\nX-Long: " + b"a" * 200_000,
        b"GET /" + b"p" * 70_000 + b" HTTP/1.1\r\nHost: w\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(9000)) + b"\r\n",
    ],
    ids=["one line", "unfinished line", "target", "many lines"],
)
def test_a_head_over_64_kib_is_refused(echo: Worker, head: bytes) -> None:
    connection = echo.raw()
    connection.sendall(head)
    assert read_all(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: w\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"POST /invocations HTTP/1.1\r\nHost: w\r\nContent-Length: +5\r\n\r\n12345",
        b"POST /invocations HTTP/1.1\r\nHost : w\r\nContent-Length: 0\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["words", "length and chunks", "two lengths", "signed length", "space before colon", "chunk size"],
)
def test_wrong_framing_is_refused_and_ends_the_connection(echo: Worker, message: bytes) -> None:
    connection = echo.raw()
    connection.sendall(message)
    found = read_all(connection)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.count(b"HTTP/1.1 ") == 1


def test_http_1_0_is_answered_and_closed(echo: Worker) -> None:
    connection = echo.raw()
    connection.sendall(post(b"old", version=b"1.0"))
    assert read_all(connection).endswith(b"\r\nConnection: close\r\n\r\nold")
    connection = echo.raw()
    connection.sendall(post(b"stream", version=b"1.0"))
    found = read_all(connection)
    assert found.endswith(b"\r\n\r\npart 0;part 1;part 2;part 3;part 4;")
    assert b"chunked" not in found


def test_a_generator_is_sent_in_chunks(echo: Worker) -> None:
    answer = echo.request("POST", "/invocations", b"stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.body == b"part 0;part 1;part 2;part 3;part 4;"
    assert answer.kind == "text/plain"


def test_a_stream_that_breaks_ends_without_its_last_chunk(echo: Worker) -> None:
    connection = echo.raw()
    connection.sendall(post(b"stream-fails"))
    found = b""
    with contextlib.suppress(ConnectionResetError):
        found = read_all(connection)
    assert b"before" in found
    assert not found.endswith(b"0\r\n\r\n")
    assert "broken stream" in echo.log


def test_a_stream_that_breaks_at_once_answers_500(echo: Worker) -> None:
    answer = echo.request("POST", "/invocations", b"stream-fails-at-once")
    assert (answer.status, answer.text) == (500, "RuntimeError: broken stream\n")


def test_a_large_response_reaches_a_slow_reader_whole(echo: Worker) -> None:
    connection = echo.raw()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(post(b"big") + post(b"next", b"Connection: close"))
    found = read_all(connection)
    assert found.count(b"x" * 3_000_000) == 1
    assert found.endswith(b"next")


def test_an_error_of_the_script_is_a_500_with_type_and_message(echo: Worker) -> None:
    answer = echo.request("POST", "/invocations", b"raise")
    assert (answer.status, answer.text) == (500, "KeyError: 'no such row'\n")
    assert "Traceback" in echo.log


def test_a_caller_that_leaves_harms_nobody(echo: Worker) -> None:
    for body in (b"sleep 0.01", b"stream", b"big"):
        connection = echo.raw()
        connection.sendall(post(body) * 3)
        connection.close()
    assert echo.request("POST", "/invocations", b"still here").body == b"still here"


def test_sigterm_answers_what_has_arrived_and_exits_0(
    start: Callable[..., Worker], script: Callable[..., Path]
) -> None:
    worker = start(script(ECHO))
    idle, busy = worker.connect(), worker.connect()
    assert talk(idle, "GET", "/ping").status == 200
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(talk(busy, "POST", "/invocations", b"sleep 0.3")))
    thread.start()
    late = worker.raw()
    late.sendall(post(b"late"))
    worker.terminate()
    thread.join()
    assert found[0].body == b"sleep 0.3"
    assert read_all(late).endswith(b"\r\n\r\nlate")
    assert worker.wait() == 0
    with pytest.raises(OSError, match=r"refused|No such file"):
        worker.raw()


def test_a_worker_with_nothing_to_do_leaves_on_sigterm(
    start: Callable[..., Worker], script: Callable[..., Path]
) -> None:
    worker = start(script(ECHO))
    assert worker.stop() == 0


def test_ready_tells_what_was_loaded_and_how_long_it_took(echo: Worker) -> None:
    assert echo.detail["loader"] == "script inference.py"
    assert echo.detail["batchable"] is False
    assert echo.detail["load_ms"] >= 0
    assert json.dumps(echo.detail)
