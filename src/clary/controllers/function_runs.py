"""Invocations of functions: one jailed process each, with a session of the function's role and clary's port.

A process serves one invocation and ends. It runs under the function's own uid, in its own control group, sees the
code read-only and a private /tmp, and reaches clary through one socket (`runtimes.function_socket`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from clary.domain.errors import LimitExceeded, StoreFailed
from clary.domain.functions import (
    LATEST,
    MAX_PAYLOAD_BYTES,
    FunctionDesired,
    FunctionObserved,
    failure,
    function_arn,
)
from clary.paths import Layout
from clary.runtimes.function_socket import FunctionSocket
from clary.runtimes.process import ProcessRuntime
from clary.runtimes.task import walls
from clary.store.codec import decode
from clary.store.log_segments import NewEvent
from clary.store.logs import LogStore
from clary.store.resources import Record

log = logging.getLogger(__name__)

INIT_LIMIT_S = 30.0  # for interpreter and imports, beyond the function's own timeout
SESSION_S = 3600
MIB = 1 << 20
CPU_MIB = 1769  # memory that comes with one vCPU (Lambda developer guide, "Configure memory")
SPARE_PIDS = 256
LOG_TAIL_BYTES = 4096  # of LogResult


@dataclass(frozen=True, slots=True)
class Keys:
    """Temporary credentials."""

    access_key_id: str
    secret: str
    session_token: str
    expires_at: datetime


class Sessions(Protocol):
    """Sessions of a role, with the role's rights, or with those of `user` where IAM holds no such role."""

    def open(self, role_arn: str, user: str, user_role: str, session_name: str, duration_s: int) -> Keys: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is "" for a success; else FunctionError. `log_tail` is the end of what it printed."""

    error: str
    payload: bytes
    log_tail: str


class FunctionRuns:
    """See the module. `concurrency` run at once."""

    def __init__(
        self,
        layout: Layout,
        runtime: ProcessRuntime,
        sessions: Sessions,
        logs: LogStore,
        front_door: tuple[str, int],
        network: bool,
        now: Callable[[], datetime],
        concurrency: int,
    ) -> None:
        self._layout = layout
        self._runtime = runtime
        self._sessions = sessions
        self._logs = logs
        self._front_door = front_door
        self._network = network
        self._now = now
        self._concurrency = concurrency
        self._room = asyncio.Semaphore(concurrency)
        self._running: Counter[int] = Counter()
        self._keys: dict[tuple[int, str, str], Keys] = {}
        for left in layout.worker_sockets.glob("f*.sock"):
            left.unlink()

    def running(self, uid: int) -> int:
        return self._running[uid]

    def check_room(self) -> None:
        """For those who would rather hear it than wait. Raises: LimitExceeded."""
        if self._room.locked():
            raise LimitExceeded(
                "functions that run at once",
                maximum=self._concurrency,
                asked=self._concurrency + 1,
                setting="function_concurrency",
            )

    async def invoke(self, record: Record, event: bytes, request_id: str = "") -> Outcome:
        """Runs the function on an event, a JSON document. Raises: StoreFailed when the supervisor is away."""
        self._running[record.uid] += 1
        try:
            async with self._room:
                return await self._invoke(record, event, request_id or str(uuid.uuid4()))
        except OSError as error:  # no socket, or no room for the session
            raise StoreFailed("starting the function", detail=str(error)) from error
        finally:
            self._running[record.uid] -= 1
            if not self._running[record.uid]:
                del self._running[record.uid]

    async def _invoke(self, record: Record, event: bytes, request_id: str) -> Outcome:
        desired, observed = decode(FunctionDesired, record.desired), decode(FunctionObserved, record.observed)
        group = f"/aws/lambda/{record.name}"
        stream = f"{self._now():%Y/%m/%d}/[{LATEST}]{uuid.uuid4().hex}"
        facts = {"request_id": request_id, "function_arn": function_arn(record.place, record.name)}
        keys = await asyncio.to_thread(self._session, record, desired)
        environ = self._environ(record, desired, keys, group, stream)
        path = self._layout.worker_sockets / f"f{os.urandom(6).hex()}.sock"
        began_s = time.monotonic()
        async with FunctionSocket(path, self._front_door, facts, event, MAX_PAYLOAD_BYTES) as sock:
            result = await self._runtime.request(
                "task",
                limit_s=desired.timeout_s + INIT_LIMIT_S + 15,
                name=f"function~{record.uid}~{path.stem}",
                argv=self._argv(desired, observed, path),
                environ=environ,
                cwd="/var/task" if self._private_root else observed.folder,
                timeout_s=desired.timeout_s + INIT_LIMIT_S,
                jail=self._jail(desired, observed, path),
            )
        duration_ms = (time.monotonic() - began_s) * 1000
        error, payload = self._judge(sock, result, desired, request_id)
        text = str(result["output"])
        lines = self._lines(text, observed, request_id, desired, duration_ms, error, payload)
        await asyncio.to_thread(self._keep, record, group, stream, lines)
        return Outcome(error, payload, "\n".join(lines)[-LOG_TAIL_BYTES:])

    @property
    def _private_root(self) -> bool:
        return bool(self._runtime.isolation.get("private_root"))

    def _relayed(self) -> bool:
        """Whether the function has a network of its own, in which clary's port has to be opened for it."""
        return bool(self._runtime.isolation.get("private_network")) and not self._network

    def _argv(self, desired: FunctionDesired, observed: FunctionObserved, path: Any) -> list[str]:
        private = self._private_root
        return [
            observed.python,
            "-I",
            "-X",
            "utf8",
            "-m",
            "clary_worker.function",
            "/run/clary.sock" if private else str(path),
            "/var/task" if private else observed.folder,
            desired.handler,
            str(self._front_door[1]) if self._relayed() else "0",
            str(desired.timeout_s),
        ]

    def _jail(self, desired: FunctionDesired, observed: FunctionObserved, path: Any) -> dict[str, Any]:
        return walls(
            [(observed.folder, "/var/task", "ro"), (str(path), "/run/clary.sock", "rw")],
            observed.uid,
            desired.memory_mib * MIB,
            INIT_LIMIT_S,
            python=observed.python,
            prefixes=observed.prefixes,
            cpus=max(1.0, desired.memory_mib / CPU_MIB),
            network=self._network,
            pids=SPARE_PIDS,
        )

    def _session(self, record: Record, desired: FunctionDesired) -> Keys:
        """The role's session, opened anew well before it ends."""
        key = (record.uid, desired.role_arn, desired.user)
        held = self._keys.get(key)
        if held is None or held.expires_at - self._now() < timedelta(seconds=desired.timeout_s + INIT_LIMIT_S + 300):
            held = self._sessions.open(desired.role_arn, desired.user, desired.user_role, record.name, SESSION_S)
            self._keys = {one: keys for one, keys in self._keys.items() if keys.expires_at > self._now()}
            self._keys[key] = held
        return held

    def _environ(
        self, record: Record, desired: FunctionDesired, keys: Keys, group: str, stream: str
    ) -> Mapping[str, str]:
        host, port = ("127.0.0.1", self._front_door[1]) if self._relayed() else self._front_door
        code = "/var/task" if self._private_root else str(decode(FunctionObserved, record.observed).folder)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            **desired.environment,
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_REGION": record.place.region,
            "AWS_DEFAULT_REGION": record.place.region,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
            "AWS_SESSION_TOKEN": keys.session_token,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{desired.runtime}",
            "AWS_LAMBDA_FUNCTION_NAME": record.name,
            "AWS_LAMBDA_FUNCTION_VERSION": LATEST,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(desired.memory_mib),
            "AWS_LAMBDA_LOG_GROUP_NAME": group,
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "LAMBDA_TASK_ROOT": code,
            "_HANDLER": desired.handler,
        }

    # -- how it went -----------------------------------------------------------------------------

    def _judge(
        self, sock: FunctionSocket, result: Mapping[str, Any], desired: FunctionDesired, request_id: str
    ) -> tuple[str, bytes]:
        if sock.outcome is not None:
            return sock.outcome
        facts = result["facts"]
        if sock.too_large:
            text = f"Response payload size exceeded maximum allowed payload size ({MAX_PAYLOAD_BYTES} bytes)."
            return "Unhandled", failure("Function.ResponseSizeTooLarge", text)
        if result["timed_out"] or facts.get("name") == "SIGALRM":
            at = f"{self._now():%Y-%m-%dT%H:%M:%S.000Z}"
            text = f"{at} {request_id} Task timed out after {desired.timeout_s:.2f} seconds"
            return "Unhandled", failure("Sandbox.Timedout", text)
        if result.get("oom_killed"):
            text = f"RequestId: {request_id} Error: Runtime exited with error: signal: killed"
            return "Unhandled", failure("Runtime.OutOfMemory", text)
        if facts.get("code") == 71:  # the jail's own status: a wall could not be put up
            raise StoreFailed("starting the function", detail=str(result["output"])[-300:])
        how = f"exit status {facts['code']}" if "code" in facts else f"signal: {facts.get('name')}"
        return "Unhandled", failure(
            "Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}"
        )

    def _lines(
        self,
        text: str,
        observed: FunctionObserved,
        request_id: str,
        desired: FunctionDesired,
        duration_ms: float,
        error: str,
        payload: bytes,
    ) -> list[str]:
        lines = [f"INIT_START Runtime Version: {observed.note}"] if observed.note else []
        lines += text.splitlines()
        if error and not any(line.startswith("END RequestId") for line in lines):
            lines.append(payload.decode(errors="replace"))
            lines.append(f"END RequestId: {request_id}")
        billed_ms = int(duration_ms) + 1
        lines.append(
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {billed_ms} ms\t"
            f"Memory Size: {desired.memory_mib} MB"
        )
        return lines

    def _keep(self, record: Record, group: str, stream: str, lines: list[str]) -> None:
        at_ms = round(self._now().timestamp() * 1000)
        events = [NewEvent(at_ms, line.encode()) for line in lines if line]
        try:
            self._logs.take(record.place, group, stream, events)
        except OSError as error:  # the disk is full: the invocation's outcome is worth more than its log
            log.warning("function=%s event=log_lost reason=%s", record.name, error)
