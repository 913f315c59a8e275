"""Slots for work that control brings itself: asynchronous invocations take and return them here.

A unix socket (mode 0600), JSON lines; a connection holds at most one lease, and its end returns it:

    {"op": "acquire", "region": r, "endpoint": e, "limit_s": s}
        -> {"worker": id, "address": its socket, "variant": v}    when a worker has room; wakes sleeping ones
        -> {"refused": code, "message": text}
    {"op": "release", "status": n, "model_us": n, "request_bytes": n, "response_bytes": n, "end": e}
        -> {"released": true}      e: "", "unused", "lost" when the worker broke off, "hung" when its time ran out

So one owner counts what is inside a worker, whoever sends it there, and bodies of any size pass from the object store
to the worker without touching this process.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.dispatch import Dispatcher
from clary.proxy.forward import Exchange
from clary.proxy.meter import Answered

MAX_LINE_BYTES = 64 * 1024
ENDS = ("", "unused", "lost", "hung")


class Lease(Exchange):
    """An admitted place without a request of ours in it."""

    __slots__ = ("_limit_s",)
    leased = True

    def __init__(self, client: LeaseConnection, pool: Pool, limit_s: float) -> None:
        super().__init__(client, pool, b"", 0, perf_counter_ns())  # type: ignore[arg-type]
        self._limit_s = limit_s

    @property
    def limit_s(self) -> float:
        return self._limit_s

    def granted(self, worker: Worker) -> None:
        self.sent_ns = perf_counter_ns()
        self.client.granted(worker, self.pool.route.name)  # type: ignore[attr-defined]


class LeaseConnection(asyncio.Protocol):
    """One holder."""

    keep_open = True

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._lease: Lease | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        lease, self._lease = self._lease, None
        if lease is not None:
            self._dispatcher.client_gone(lease)

    def data_received(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        if len(self._data) > MAX_LINE_BYTES:
            self.abort()
            return
        for line in lines:
            try:
                self._asked(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                self._say({"refused": "ValidationError", "message": f"{type(error).__name__}: {error}"})

    def _asked(self, message: dict[str, Any]) -> None:
        if message["op"] == "acquire" and self._lease is None:
            self._acquire(message["region"], message["endpoint"], float(message["limit_s"]))
        elif message["op"] == "release" and self._lease is not None and self._lease.worker is not None:
            if message["end"] not in ENDS:
                raise ValueError(f"end is one of {ENDS}")
            lease, self._lease = self._lease, None
            self._dispatcher.returned(lease, _answered(lease, message), message["end"])
            self._say({"released": True})
        else:
            raise ValueError(f"op {message['op']!r} is none that fits here")

    def _acquire(self, region: str, endpoint: str, limit_s: float) -> None:
        dispatcher = self._dispatcher
        found = dispatcher.endpoint(region, endpoint)
        route = dispatcher.not_found(endpoint) if found is None else dispatcher.variant(found, None)
        if isinstance(route, Refusal):
            self.refuse(route)
            return
        self._lease = lease = Lease(self, dispatcher.pools[route.fleet], limit_s)
        refusal = dispatcher.lease(lease)
        if refusal is not None:
            self.refuse(refusal)

    # -- what the dispatcher tells ---------------------------------------------------------------

    def granted(self, worker: Worker, variant: str) -> None:
        self._say({"worker": worker.id, "address": worker.address, "variant": variant})

    def refuse(self, refusal: Refusal) -> None:
        self._lease = None
        self._say({"refused": refusal.code, "message": refusal.message or refusal.code})

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps(message).encode() + b"\n")


def _answered(lease: Lease, message: dict[str, Any]) -> Answered:
    model_us = int(message["model_us"])
    total_us = (perf_counter_ns() - lease.sent_ns) // 1000
    return Answered(
        int(message["status"]),
        model_us,
        max(0, total_us - model_us),
        int(message["request_bytes"]),
        int(message["response_bytes"]),
        False,
    )


async def listen(path: Path, dispatcher: Dispatcher) -> asyncio.Server:
    """Serves `path`."""
    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        return await asyncio.get_running_loop().create_unix_server(lambda: LeaseConnection(dispatcher), str(path))
    finally:
        os.umask(old)
