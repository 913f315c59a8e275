"""Both SageMaker Python SDKs, unmodified, in environments of their own: what `clary env` prints is all they are given.

The scripts are a user's: they train, deploy, predict, compare with the library's own predictions, update and delete.
They run side by side, because an SDK mostly imports and waits; not all at once, because importing takes a core.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Clary

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
STORIES = {  # those that wait longest go first
    "sdk2_ways.py": ("sdk2", ("asynchronous", "captured", "streamed")),
    "sdk2_components.py": ("sdk2", ("components",)),
    "sdk2_sklearn.py": ("sdk2", ("pickled", "script_mode", "serverless")),
    "sdk2_xgboost.py": ("sdk2", ("script_mode", "us-east-1", "ap-northeast-1")),
    "sdk2_transform.py": ("sdk2", ("transformer", "joined")),
    "sdk2_multimodel.py": ("sdk2", ("pickled", "scripted")),
    "sdk2_pipeline.py": ("sdk2", ("pipeline", "direct")),
    "sdk3.py": ("sdk3", ("core_resources", "serverless", "model_builder")),
    "sdk3_ways.py": ("sdk3", ("asynchronous", "variants", "streamed")),
    "sdk3_many.py": ("sdk3", ("multimodel", "containers", "components")),
    "sdk3_builder.py": ("sdk3", ("asynchronous", "captured", "pipeline", "components")),
    "sdk3_transform.py": ("sdk3", ("transform_job", "transformer")),
}
AT_ONCE = 8
LIMIT_S = 280  # of one script, from its own start


class Outside:
    """Stands for everything beyond this machine: an HTTPS proxy that lets nothing through and counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).decode(errors="replace").partition("\r\n")[0])
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@dataclass
class Running:
    """A script that runs when its turn comes; `close` ends it, or keeps it from starting."""

    command: list[str | Path]
    environ: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> int:
        """The exit status, within LIMIT_S."""
        with self.log.open("wb") as out, self.lock:
            assert not self.closed, f"{self.log.name} was not started: the tests ended first"
            self.process = subprocess.Popen(
                self.command, env=self.environ, cwd=self.log.parent, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            return self.process.wait(LIMIT_S)
        finally:
            self.close()

    def close(self) -> None:
        with self.lock:
            self.closed = True
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()


@dataclass(frozen=True)
class Turn:
    """The end of a script that is to come, and what it printed."""

    ended: Future[int]
    log: Path

    def told(self) -> str:
        """All that it printed, once it ended well."""
        try:
            status = self.ended.result(LIMIT_S * len(STORIES))
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.log.name} did not end within {LIMIT_S} s: {self.log.read_text()[-6000:]}")
        output = self.log.read_text()
        assert status == 0, output[-6000:]
        return output


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    one = Outside()
    yield one
    one.close()


@pytest.fixture(scope="module")
def turns(clary: Clary, outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Turn]]:
    """Gives the turn of a script: all whose SDK is installed go one after the other, AT_ONCE at a time."""
    home = tmp_path_factory.mktemp("home")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HTTP_PROXY": outside.url,
        "HTTPS_PROXY": outside.url,
        "NO_PROXY": "127.0.0.1,localhost",
        "COLUMNS": "120",
        **clary.environment(),
    }
    given: dict[str, tuple[Running, Turn]] = {}

    def of(script: str) -> Turn:
        if script not in given:
            pytest.skip(f"{STORIES[script][0]} is not installed: make setup puts it into .venvs/")
        return given[script][1]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for script, (name, _) in STORIES.items():
            python = ROOT / ".venvs" / name / "bin" / "python"
            if python.exists():
                one = Running([python, SCRIPTS / script], environ, home / f"{script}.log")
                given[script] = one, Turn(pool.submit(one.run), one.log)
        yield of
        for one, turn in given.values():
            turn.ended.cancel()
            one.close()


@pytest.mark.parametrize("script", STORIES)
def test_an_sdk_runs_unmodified(turns: Callable[[str], Turn], script: str) -> None:
    told = turns(script).told()
    for story in STORIES[script][1]:
        assert f"{story}: done" in told, told[-6000:]


def test_nothing_was_asked_of_the_outside(turns: Callable[[str], Turn], outside: Outside) -> None:
    for script in STORIES:
        turns(script).told()
    assert outside.asked == []
