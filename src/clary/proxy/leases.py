"""Slots for work that control brings itself: asynchronous invocations take and return them here.

A unix socket (mode 0600), JSON lines; a connection holds at most one lease, and its end returns it:

    {"op": "acquire", "region": r, "endpoint": e, "limit_s": s}
        -> {"workers": [{"address": its socket, "container": name}], "variant": v}
                                   when a worker has room, one of each container; wakes sleeping ones
        -> {"refused": code, "message": text}
    {"op": "release", "status": n, "model_us": [n], "request_bytes": n, "response_bytes": n, "end": e}
        -> {"released": true}      e: "", "unused", "lost" when the worker broke off, "hung" when its time ran out

`model_us` is of each container that was asked, in order; `end` is the last one's. A pipeline's lease holds a place in
every container from beginning to end: so many invocations are in an instance, and no more.

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

from clary.proxy import answers
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.dispatch import Dispatcher
from clary.proxy.forward import Exchange
from clary.proxy.kinds import PLAIN, fitting
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
        self.client.granted()  # type: ignore[attr-defined]


class LeaseConnection(asyncio.Protocol):
    """One holder."""

    keep_open = True

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._pools: list[Pool] = []  # in which a place is wanted
        self._leases: list[Lease] = []  # the places, all but the last one granted
        self._limit_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        leases, self._leases = self._leases, []
        for lease in leases:
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
        if message["op"] == "acquire" and not self._leases:
            self._acquire(message["region"], message["endpoint"], float(message["limit_s"]))
        elif message["op"] == "release" and self._whole:
            if message["end"] not in ENDS:
                raise ValueError(f"end is one of {ENDS}")
            self._release(message)
        else:
            raise ValueError(f"op {message['op']!r} is none that fits here")

    @property
    def _whole(self) -> bool:
        return bool(self._leases) and len(self._leases) == len(self._pools) and self._leases[-1].worker is not None

    def _acquire(self, region: str, endpoint: str, limit_s: float) -> None:
        dispatcher = self._dispatcher
        found = dispatcher.endpoint(region, endpoint)
        variant = dispatcher.not_found(endpoint) if found is None else dispatcher.variant(found, None)
        route = variant if isinstance(variant, Refusal) else fitting(endpoint, variant, PLAIN)
        if isinstance(route, Refusal):
            self.refuse(route)
            return
        self._pools = [dispatcher.pools[one.fleet] for one in route.routes]
        self._limit_s = limit_s
        self._next()
        for pool in self._pools[1:] if self._leases else ():
            dispatcher.rouse(pool)

    def _next(self) -> None:
        """A place in the next container."""
        pool = self._pools[len(self._leases)]
        if self._dispatcher.pools.get(pool.fleet) is not pool:
            self.refuse(answers.unavailable(f"Endpoint {pool.endpoint} has just been updated; ask again."))
            return
        lease = Lease(self, pool, self._limit_s)
        self._leases.append(lease)
        refusal = self._dispatcher.lease(lease)
        if refusal is not None:
            self._leases.pop()
            self.refuse(refusal)

    def _release(self, message: dict[str, Any]) -> None:
        leases, self._leases = self._leases, []
        times_us = [int(one) for one in message["model_us"]]
        last = max(0, len(times_us) - 1)  # that was asked: what `end` is about
        for place, lease in enumerate(leases):
            if place < len(times_us) and lease.pool.steps is not None and message["end"] != "unused":
                lease.pool.steps.step(times_us[place])
            end = message["end"] if place == last else "unused"
            self._dispatcher.returned(lease, _answered(leases[0], message, sum(times_us)), end)
        self._say({"released": True})

    # -- what the dispatcher tells ---------------------------------------------------------------

    def granted(self) -> None:
        if len(self._leases) < len(self._pools):
            self._next()
            return
        workers = [
            {"address": lease.worker.address, "container": lease.pool.container}
            for lease in self._leases
            if lease.worker is not None
        ]
        self._say({"workers": workers, "variant": self._pools[0].route.name})

    def refuse(self, refusal: Refusal) -> None:
        """One of the places is not to be had: those that are held go back."""
        leases, self._leases = self._leases, []
        for lease in leases:
            if not lease.done and lease.worker is not None:
                self._dispatcher.returned(lease, Answered(0, 0, 0, 0, 0, False), "unused")
        self._say({"refused": refusal.code, "message": refusal.message or refusal.code})

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _say(self, message: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps(message).encode() + b"\n")


def _answered(first: Lease, message: dict[str, Any], model_us: int) -> Answered:
    total_us = (perf_counter_ns() - first.sent_ns) // 1000
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
