"""HTTP/1.1 to a worker's unix socket: one request at a time on a connection that stays open.

Small on purpose: heads are ours, bodies pass as bytes, answers are read by Content-Length or in chunks, and every
byte waits against one deadline. What a stranger's server sends is bounded before it is kept.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 4096
_READ_BYTES = 256 * 1024

Sink = Callable[[bytes], object]
SinkOf = Callable[[Mapping[str, str]], Sink]  # by the answer's headers


class Lost(Exception):
    """The connection broke, or was never made: whether the model saw the request is unknown."""


class TimedOut(Exception):
    """No whole answer in time."""


class Misanswered(Exception):
    """What came is no HTTP answer that can be taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The body is empty where a sink took it."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)  # lower-case names


class Connection:
    """Opened at the first request; closed by any failure, to be opened anew by the next request."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._data = bytearray()
        self._deadline = 0.0

    def request(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | Callable[[], Iterable[bytes]],
        limit_s: float,
        sink_of: SinkOf | None = None,
        length_bytes: int | None = None,
    ) -> Answer:
        """One exchange. A 2xx body goes to the sink that `sink_of` gives for its headers.

        `body` as a function gives pieces, which are sent as chunks, or as they are where `length_bytes` tells what they
        come to.

        Raises: Lost, TimedOut, Misanswered.
        """
        self._deadline = time.monotonic() + limit_s
        used, whole = self._socket is not None, False
        try:
            try:
                answer = self._exchange(method, path, headers, body, sink_of, length_bytes)
            except _Unanswered:
                if not used:
                    raise
                # A server may close an idle connection at any time: once more on a fresh one.
                answer = self._exchange(method, path, headers, body, sink_of, length_bytes)
            whole = True
            return answer
        except TimeoutError as error:
            raise TimedOut(f"no answer within {limit_s:g} s") from error
        except (OSError, _Unanswered) as error:
            raise Lost(str(error) or type(error).__name__) from error
        except (ValueError, IndexError) as error:
            raise Misanswered(f"the answer is not HTTP: {error}") from error
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._data.clear()

    def _exchange(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | Callable[[], Iterable[bytes]],
        sink_of: SinkOf | None,
        length_bytes: int | None,
    ) -> Answer:
        if isinstance(body, bytes):
            length_bytes = len(body)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
        framing = "Transfer-Encoding: chunked" if length_bytes is None else f"Content-Length: {length_bytes}"
        head = "\r\n".join([*lines, framing, "", ""]).encode("latin-1")
        try:
            self._open()
            if isinstance(body, bytes):
                self._send(head + body if len(body) < 65536 else head)
                if len(body) >= 65536:
                    self._send(body)
            elif length_bytes is not None:
                self._send(head)
                for piece in body():
                    self._send(piece)
            else:
                self._send(head)
                for chunk in body():
                    self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self._send(b"0\r\n\r\n")
        except TimeoutError:
            raise
        except OSError as error:
            # A server that refuses early (413) answers and closes: what it said counts more than the broken pipe.
            if self._socket is None or not self._fill_quietly():
                self.close()
                raise _Unanswered(str(error)) from error
        return self._answer(sink_of)

    def _open(self) -> None:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(self._left_s())
            try:
                made.connect(self._address)
            except OSError:
                made.close()
                raise
            self._socket = made

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        self._socket.sendall(data)

    def _fill(self) -> bool:
        """More bytes into the buffer; False at the end of the stream."""
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        data = self._socket.recv(_READ_BYTES)
        self._data += data
        return bool(data)

    def _fill_quietly(self) -> bool:
        try:
            return bool(self._data) or self._fill()
        except OSError:
            return False

    def _answer(self, sink_of: SinkOf | None) -> Answer:
        while True:
            status, headers = self._head()
            if status != 100:
                break
        good = 200 <= status < 300
        sink = sink_of(headers) if good and sink_of is not None else None
        kept: list[bytes] = []
        size = 0

        def keep(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if sink is not None:
                sink(data)
            elif size <= (MAX_ANSWER_BYTES if good else MAX_ERROR_BYTES):
                kept.append(data)
            elif good:
                raise ValueError(f"its body is larger than {MAX_ANSWER_BYTES} bytes")

        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._chunks(keep)
        elif "content-length" in headers:
            self._take(int(headers["content-length"]), keep)
        else:
            while self._fill() or self._data:
                keep(bytes(self._data))
                self._data.clear()
            self.close()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, b"".join(kept), headers)

    def _head(self) -> tuple[int, dict[str, str]]:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                raise ValueError("its head does not end")
            try:
                more = self._fill()
            except ConnectionResetError:
                more = False
            if not more:
                empty = not self._data
                self.close()
                raise _Unanswered("the connection was closed" + ("" if empty else " within the answer's head"))
        first, *lines = bytes(self._data[:end]).decode("latin-1").split("\r\n")
        del self._data[: end + 4]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(first.split(" ")[1]), headers

    def _take(self, count: int, keep: Sink) -> None:
        if count < 0:
            raise ValueError("a body of negative length")
        while count:
            if not self._data and not self._fill():
                raise ConnectionResetError("the connection was closed within the answer")
            piece = bytes(self._data[:count])
            del self._data[: len(piece)]
            keep(piece)
            count -= len(piece)

    def _chunks(self, keep: Sink) -> None:
        while True:
            size = int(self._line().partition(b";")[0], 16)
            self._take(size, keep)
            ending = self._line()
            if size == 0:
                while ending:  # trailers
                    ending = self._line()
                return

    def _line(self) -> bytes:
        while (end := self._data.find(b"\r\n")) < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                raise ValueError("a line does not end")
            if not self._fill():
                raise ConnectionResetError("the connection was closed within the answer")
        line = bytes(self._data[:end])
        del self._data[: end + 2]
        return line


class _Unanswered(Exception):
    """The connection ended before a whole head came."""
