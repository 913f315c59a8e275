"""The load generator: closed loops over keep-alive connections, and a client that paces itself.

It runs as a process of its own (`python bench/load.py < order.json`), pinned to its own core, so that it never takes
time from what it measures. Request bytes are made once and sent as they are, signature included (AWS's signatures
hold for 15 minutes). A closed loop sends the next request when the last answer is complete: latencies are those of
N busy clients, and the rate is what N such clients get. A paced client keeps to its clock: a request that
is late because the last answer was slow counts its wait (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import machine
import uvloop

HEAD_END = b"\r\n\r\n"
START_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where. `address` is unix:PATH or tcp:HOST:PORT; `cpu_of` names groups of pids to be metered."""

    address: str
    requests: Sequence[bytes]  # connection i sends requests[i % len]
    connections: int
    seconds: float
    warm_s: float = 0.3
    core: int = -1
    period_s: float = 0.0  # 0: closed loop; else each connection sends once a period
    cpu_of: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "requests": [base64.b64encode(r).decode() for r in self.requests]})

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        return cls(**{**fields, "requests": [base64.b64decode(r) for r in fields["requests"]]})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement. `cpu_us` is per answered request, by group; `first_error` quotes what was not a 200."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    errors: int
    first_error: str
    cpu_us: dict[str, float]


def measure(order: Order) -> Outcome:
    """Runs the order in a process of its own. Raises: RuntimeError with its last words when it fails."""
    limit_s = order.warm_s + order.seconds + START_LIMIT_S
    done = subprocess.run(
        [sys.executable, __file__], input=order.to_json(), capture_output=True, text=True, timeout=limit_s
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1:]}")
    outcome = Outcome(**json.loads(done.stdout))
    if not outcome.requests:
        raise RuntimeError(f"no request to {order.address} was answered with 200; first answer: {outcome.first_error}")
    return outcome


class Run:
    """What all connections of an order write to."""

    def __init__(self) -> None:
        self.recording = False
        self.latencies_s: list[float] = []
        self.errors = 0
        self.first_error = ""
        self.over = False

    def failed(self, text: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or text[:300]


class Client(asyncio.Protocol):
    """One connection. The usual answer (a 200 of the length seen before) is told by two comparisons."""

    def __init__(self, run: Run, request: bytes, period_s: float) -> None:
        self._run = run
        self._request = request
        self._period_s = period_s
        self._transport: asyncio.Transport | None = None
        self._usual_length = -1
        self._part = b""
        self._sent_s = 0.0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._sent_s = perf_counter()
        self._send()

    def _send(self) -> None:
        if self._run.over or self._transport is None or self._transport.is_closing():
            return
        self._busy = True
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if len(data) == self._usual_length and data[9:12] == b"200" and not self._part:
            self._done(True)
            return
        data = self._part = self._part + data
        length = answer_length(data)
        if length is None or len(data) < length:
            return
        self._part = b""
        good = data[9:12] == b"200"
        if good:
            self._usual_length = length
        else:
            self._run.failed(data[:300].decode("latin-1"))
        self._done(good)

    def _done(self, good: bool) -> None:
        now_s = perf_counter()
        self._busy = False
        run = self._run
        if good and run.recording:
            run.latencies_s.append(now_s - self._sent_s)
        if not self._period_s:
            self._sent_s = now_s
            self._send()
            return
        self._sent_s += self._period_s
        asyncio.get_running_loop().call_later(max(0.0, self._sent_s - now_s), self._send)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._run.over:
            if self._busy:
                self._run.failed(f"the connection was closed: {error}")
            self._run.over = self._run.over or self._run.errors > 1000


def answer_length(data: bytes) -> int | None:
    """Bytes of the whole answer that `data` begins, None while that cannot be told."""
    end = data.find(HEAD_END)
    if end < 0:
        return None
    head = data[:end].lower()
    place = head.find(b"content-length:")
    if place >= 0:
        return end + 4 + int(head[place + 15 :].split(b"\r\n", 1)[0])
    last = data.find(b"\r\n0\r\n\r\n", end)
    return last + 7 if last >= 0 else None


async def _connect(order: Order, run: Run, place: int) -> None:
    loop = asyncio.get_running_loop()
    kind, _, rest = order.address.partition(":")

    def made() -> Client:
        return Client(run, order.requests[place % len(order.requests)], order.period_s)

    if kind == "unix":
        await loop.create_unix_connection(made, rest)
    else:
        host, _, port = rest.rpartition(":")
        await loop.create_connection(made, host, int(port))


async def _perform(order: Order) -> Outcome:
    run = Run()
    for place in range(order.connections):
        await _connect(order, run, place)
        if order.period_s:
            await asyncio.sleep(order.period_s / order.connections)  # spread over the period, not all at once
    await asyncio.sleep(order.warm_s)
    before = {name: machine.cpu_s(pids) for name, pids in order.cpu_of.items()}
    started_s = perf_counter()
    run.recording = True
    await asyncio.sleep(order.seconds)
    run.recording = False
    elapsed_s = perf_counter() - started_s
    after = {name: machine.cpu_s(pids) for name, pids in order.cpu_of.items()}
    run.over = True
    return _outcome(run, elapsed_s, {name: after[name] - before[name] for name in after})


def _outcome(run: Run, elapsed_s: float, cpu_s: Mapping[str, float]) -> Outcome:
    latencies = sorted(run.latencies_s)
    count = len(latencies)
    return Outcome(
        requests_per_s=count / elapsed_s,
        p50_ms=quantile(latencies, 0.50) * 1000,
        p99_ms=quantile(latencies, 0.99) * 1000,
        max_ms=latencies[-1] * 1000 if latencies else 0.0,
        requests=count,
        errors=run.errors,
        first_error=run.first_error,
        cpu_us={name: seconds * 1e6 / count if count else 0.0 for name, seconds in cpu_s.items()},
    )


def quantile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank quantile; 0 of nothing."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


def post(path: str, body: bytes, host: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a POST, JSON unless `headers` say otherwise."""
    fields = {"Host": host, "Content-Type": "application/json", **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def ask(port: int, request: bytes, limit_s: float = 60.0) -> tuple[float, int, bytes]:
    """(milliseconds, status, answer) of one request on a new connection to loopback, connecting included.

    Raises: OSError (refused, reset, late), ConnectionError when the connection ends inside the answer.
    """
    started_s = perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request)
        data = b""
        while (length := answer_length(data)) is None or len(data) < length:
            part = connection.recv(65536)
            if not part:
                raise ConnectionError(f"the connection ended inside an answer: {data[:200]!r}")
            data += part
    return (perf_counter() - started_s) * 1000, int(data[9:12]), data


def main() -> None:
    order = Order.from_json(sys.stdin.read())
    if order.core >= 0:
        os.sched_setaffinity(0, {order.core})
    outcome: Any = uvloop.run(_perform(order))
    sys.stdout.write(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
