"""A user's own server instead of ours: any program that answers /ping and /invocations on a TCP port.

The program runs in the worker's jail, where port 8080 and /opt/ml are its own, so that two that both insist on them
live side by side. This process starts it, asks /ping until the answer is 200, and from then on carries each
connection of the unix socket to the port, byte for byte. Where the host gives no network of its own, the port is a
free one, told in SAGEMAKER_BIND_TO_PORT.

A connection carries one request: a program that answers twice cannot answer the next client's request that way.

    SIGTERM -> the program's SIGTERM; its exit is ours; when it dies, we die with its code
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
from typing import Any, Dict, List, Optional, Tuple

from .spec import WorkerSpec

PORT = 8080
PROBE_EVERY_S = 0.1
PROBE_SLOWER_S = 1.0
PROBE_LIMIT_S = 2.0  # of one /ping (container contract)
HIGH_WATER_BYTES = 1 << 20
_PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def argv_of(spec: WorkerSpec) -> List[str]:
    """The program and its arguments; `serve` is what SageMaker gives an image. Raises: FileNotFoundError."""
    if spec.command:
        return list(spec.command)
    given = spec.environ.get("CLARY_COMMAND", "")
    if given:
        return shlex.split(given)
    folders = [spec.model_dir, os.path.join(spec.model_dir, "code")]
    for folder in [spec.code_dir, *folders] if spec.code_dir else folders:
        path = os.path.join(folder, "serve")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return [path, "serve"]
    raise FileNotFoundError(
        "no program: set CLARY_COMMAND, or put an executable `serve` into the model archive or "
        "the archive that SAGEMAKER_SUBMIT_DIRECTORY names"
    )


def serve(spec: WorkerSpec, listener: socket.socket, status: Any, private_network: bool) -> int:
    """Runs the program until it ends or SIGTERM; the exit code."""
    port = PORT if private_network else _free_port()
    os.environ["SAGEMAKER_BIND_TO_PORT"] = str(port)
    try:
        argv = argv_of(spec)
        program = Program(argv, cwd=spec.model_dir, stdin=subprocess.DEVNULL)
    except OSError as error:
        status.failed("the server program cannot be started: %s" % error, "it must be an executable of this system")
        return 127
    return asyncio.run(Relay(program, listener, status, port, "command %s" % shlex.join(argv)).run())


class Program(subprocess.Popen):  # type: ignore[type-arg]
    """The started program."""

    def facts(self) -> Dict[str, Any]:
        """What else is told of it when it is ready."""
        return {}

    def last_words(self, code: int) -> Tuple[str, str]:
        """(reason, hint) of an end before it was ready."""
        return (
            "the server program ended with code %d before it answered /ping" % code,
            "its last words are in the endpoint's log",
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Relay:
    """The program (it can `terminate`, `wait`, tell `facts` and `last_words`), its probe, the connections to it."""

    def __init__(self, program: Any, listener: socket.socket, status: Any, port: int, loader: str) -> None:
        self._program = program
        self._listener = listener
        self._status = status
        self._port = port
        self._loader = loader

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._program.terminate)
        ended = loop.run_in_executor(None, self._program.wait)
        ready = asyncio.ensure_future(self._until_ready())
        both: Any = {ended, ready}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ready.cancel()
            early: int = ended.result()
            self._status.failed(*self._program.last_words(early))
            return early or 1
        self._listener.setblocking(False)
        server = await loop.create_unix_server(lambda: _Front(self._port), sock=self._listener)
        self._status.ready(
            {
                "loader": self._loader,
                "warmup": False,
                "batchable": False,
                "keeps_open": False,
                **self._program.facts(),
            }
        )
        code: int = await ended
        server.close()
        return code if code >= 0 else 128 - code

    async def _until_ready(self) -> None:
        last, tries = "", 0
        while True:
            code, told = await self._probe()
            if code == 200:
                return
            if told != last:
                self._status.probe(told)
                last = told
            tries += 1
            await asyncio.sleep(PROBE_EVERY_S if tries < 100 else PROBE_SLOWER_S)

    async def _probe(self) -> Tuple[int, str]:
        """(status or 0, what it was, in words) of one GET /ping."""
        writer = None
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection("127.0.0.1", self._port), timeout=PROBE_LIMIT_S
            )
            writer.write(_PING)
            line = await asyncio.wait_for(reader.readline(), timeout=PROBE_LIMIT_S)
            words = line.split()
            code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
            return code, "GET /ping -> %s" % (code or "no HTTP status")
        except (OSError, asyncio.TimeoutError, ValueError) as error:
            return 0, "GET /ping on port %d: %s" % (self._port, error or type(error).__name__)
        finally:
            if writer is not None:
                writer.close()


class _Side(asyncio.Protocol):
    """One end of a carried connection; `other` is the opposite one."""

    def __init__(self) -> None:
        self.transport: Optional[asyncio.Transport] = None
        self.other: Optional[_Side] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class _Front(_Side):
    """The proxy's end: opens the program's end, and keeps one read's bytes until that is there."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._opening: Optional["asyncio.Future[None]"] = None
        self._early: List[bytes] = []

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        # Not paused in connection_made already: Python 3.11.2, and some before it, begin to read in spite of that.
        self._early.append(data)
        if self.transport is not None:
            self.transport.pause_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        back = _Side()
        back.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self._port)
        except OSError as error:
            print("the server program refuses connections: %s" % error, file=sys.stderr)
            if self.transport is not None:
                self.transport.close()
            return
        self.other = back
        if self.transport is not None:
            for data in self._early:
                super().data_received(data)
            self._early.clear()
            self.transport.resume_reading()
        elif back.transport is not None:
            back.transport.close()
