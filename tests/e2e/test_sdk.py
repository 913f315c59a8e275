"""Both SageMaker Python SDKs, unmodified, in environments of their own: what `clary env` prints is all they are given.

The scripts are a user's: they train, deploy, predict, compare with the library's own predictions, update and delete.
They run side by side, because an SDK mostly imports and waits.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Clary

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
STORIES = {
    "sdk2_sklearn.py": ("sdk2", ("pickled", "script_mode", "serverless")),
    "sdk2_xgboost.py": ("sdk2", ("script_mode", "us-east-1", "ap-northeast-1")),
    "sdk2_transform.py": ("sdk2", ("transformer", "joined")),
    "sdk2_multimodel.py": ("sdk2", ("pickled", "scripted")),
    "sdk2_pipeline.py": ("sdk2", ("pipeline", "direct")),
    "sdk2_ways.py": ("sdk2", ("asynchronous", "captured", "streamed", "components")),
    "sdk3.py": ("sdk3", ("core_resources", "serverless", "model_builder")),
    "sdk3_ways.py": ("sdk3", ("asynchronous", "variants", "streamed")),
    "sdk3_many.py": ("sdk3", ("multimodel", "containers", "components")),
    "sdk3_builder.py": ("sdk3", ("asynchronous", "captured", "pipeline", "components")),
    "sdk3_transform.py": ("sdk3", ("transform_job", "transformer")),
}
LIMIT_S = 280


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
    """A script on its way."""

    process: subprocess.Popen[bytes]
    log: Path

    def told(self) -> str:
        """All that it printed, once it ended well."""
        self.process.wait(LIMIT_S)
        output = self.log.read_text()
        assert self.process.returncode == 0, output[-6000:]
        return output


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    one = Outside()
    yield one
    one.close()


@pytest.fixture(scope="module")
def running(
    clary: Clary, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Running]]:
    """Gives a script that was started together with all others whose SDK is installed."""
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
    started: dict[str, Running] = {}
    for script, (name, _) in STORIES.items():
        python = ROOT / ".venvs" / name / "bin" / "python"
        if python.exists():
            log = home / f"{script}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [python, SCRIPTS / script], env=environ, cwd=home, stdout=out, stderr=subprocess.STDOUT
                )
            started[script] = Running(process, log)

    def of(script: str) -> Running:
        if script not in started:
            pytest.skip(f"{STORIES[script][0]} is not installed: make setup puts it into .venvs/")
        return started[script]

    yield of
    for one in started.values():
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize("script", STORIES)
def test_an_sdk_runs_unmodified(running: Callable[[str], Running], script: str) -> None:
    told = running(script).told()
    for story in STORIES[script][1]:
        assert f"{story}: done" in told, told[-6000:]


def test_nothing_was_asked_of_the_outside(running: Callable[[str], Running], outside: Outside) -> None:
    for script in STORIES:
        running(script).process.wait(LIMIT_S)
    assert outside.asked == []
