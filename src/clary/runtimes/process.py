"""The supervisor as control sees it: a live view of workers, and requests that are answered.

One connection for events, requests on the same one; it is made again when it breaks. Everything asked may be asked
twice. Waits have a deadline; what comes late is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clary.domain.errors import StoreFailed
from clary.domain.rollout import FleetView, failure_text

REQUEST_LIMIT_S = 10.0
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 8
FAILURES_KEPT = 4


class ProcessRuntime:
    """Workers that are processes of this host."""

    def __init__(self, path: Path, on_change: Callable[[str], None]) -> None:
        self._path = path
        self._on_change = on_change  # called with the fleet whose workers changed
        self._writer: asyncio.StreamWriter | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._connected = asyncio.Event()
        self.workers: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, deque[dict[str, Any]]] = {}
        self.failure_counts: dict[str, int] = {}
        self.isolation: dict[str, Any] = {}

    async def follow(self) -> None:
        """Reads events and answers for ever."""
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 24)
                subscription = next(self._ids)
                self._writer.write(json.dumps({"id": subscription, "op": "subscribe"}).encode() + b"\n")
                async for line in reader:
                    self._message(json.loads(line), subscription)
            except OSError:
                pass  # not there yet, or gone: the pause and the loop are the answer
            self._connected.clear()
            self._writer = None
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(StoreFailed("the supervisor", detail="its connection broke"))
            await asyncio.sleep(0.05)

    def _message(self, message: dict[str, Any], subscription: int) -> None:
        if message.get("event") == "worker":
            self._worker(message)
        elif message.get("id") == subscription:
            self.isolation = message["isolation"]
            before = {event["fleet"] for event in self.workers.values()}
            self.workers = {}
            for event in message["workers"]:
                self._worker(event)
            self._connected.set()
            for fleet in before:
                self._on_change(fleet)
        else:
            answer = self._answers.pop(message.get("id", 0), None)
            if answer is not None and not answer.done():
                answer.set_result(message)

    def _worker(self, event: dict[str, Any]) -> None:
        fleet = event["fleet"]
        if event["state"] == "exited":
            self.workers.pop(event["worker"], None)
            if not event["ready_ns"] and event["exit"].get("reason") not in ("FleetRemoved", "Shutdown", "ForkHung"):
                self.failures.setdefault(fleet, deque(maxlen=FAILURES_KEPT)).append(event)
                self.failure_counts[fleet] = self.failure_counts.get(fleet, 0) + 1
        else:
            self.workers[event["worker"]] = event
        self._on_change(fleet)

    async def connected(self) -> None:
        """Waits until the first view of the workers is there."""
        await self._connected.wait()

    async def request(self, operation: str, *, limit_s: float = REQUEST_LIMIT_S, **fields: Any) -> dict[str, Any]:
        """One request to the supervisor. Raises: StoreFailed when it is away, slow or refuses."""
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_s):
                await self._connected.wait()
                assert self._writer is not None
                self._answers[number] = answer
                self._writer.write(json.dumps({"id": number, "op": operation, **fields}).encode() + b"\n")
                result = await answer
        except TimeoutError:
            raise StoreFailed(f"asking the supervisor to {operation}", detail=f"no answer in {limit_s:g} s") from None
        finally:
            self._answers.pop(number, None)
        if not result.get("ok"):
            raise StoreFailed(f"asking the supervisor to {operation}", detail=str(result.get("error")))
        return result

    def view(self, fleet: str) -> FleetView:
        """What runs of a fleet, and why its last start failed."""
        mine = [event for event in self.workers.values() if event["fleet"] == fleet]
        failed = self.failures.get(fleet)
        last = failed[-1] if failed else None
        return FleetView(
            ready=sum(1 for event in mine if event["state"] == "ready"),
            live=len(mine),
            failures=self.failure_counts.get(fleet, 0),
            hopeless=last is not None and last["exit"].get("reason") in ("StartTimeout", "OutOfMemory"),
            reason=explain(last, fleet.split("/")[2]) if last else "",
        )

    def forget(self, fleet: str) -> None:
        self.failures.pop(fleet, None)
        self.failure_counts.pop(fleet, None)


def explain(event: Mapping[str, Any], variant: str) -> str:
    """FailureReason of a worker that never became ready: cause, exit code, last log lines, one hint."""
    facts, failure = event["exit"], event.get("failure") or {}
    code = f"exit code {facts['code']}" if "code" in facts else f"killed by {facts.get('name', 'a signal')}"
    reason = failure.get("reason") or {
        "OutOfMemory": "OutOfMemory: the process exceeded the memory of its instance",
        "StartTimeout": "it did not become ready in time",
        "ExitedWhileStarting": "the process ended while it started",
    }.get(facts.get("reason", ""), str(facts.get("reason", "unknown")))
    probe = (event.get("detail") or {}).get("last_probe")
    cause = f"{reason} ({code}{f'; last probe: {probe}' if probe else ''})."
    hint = failure.get("hint") or {
        "OutOfMemory": "choose an instance type or MemorySizeInMB with more memory",
        "ExitedWhileStarting": "the log's last lines tell what ended it",
    }.get(facts.get("reason", ""), "")
    return failure_text(variant, cause, log_tail(Path(event["log"])), hint.rstrip("."))


def log_tail(path: Path) -> list[str]:
    """The last lines of a worker's log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except FileNotFoundError:
        return []
