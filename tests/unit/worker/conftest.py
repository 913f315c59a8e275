"""Workers for the tests: one forking process a session, one folder and socket a worker, all stopped at the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_models
from worker_client import Forks, Worker

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    found = Forks(["sklearn", "xgboost", "lightgbm", "onnxruntime"])
    yield found
    found.close()


@pytest.fixture(scope="session")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """New folders with short paths: a unix socket's may have about 100 characters."""
    base = tmp_path_factory.mktemp("w")
    numbers = itertools.count()

    def new() -> Path:
        folder = base / str(next(numbers))
        folder.mkdir()
        return folder

    return new


@pytest.fixture(scope="module")
def start(forks: Forks, sockets: Callable[[], Path]) -> Iterator[Start]:
    """start(model_dir, framework="auto", **spec) -> Worker; stopped after the module's last test."""
    started: list[Worker] = []

    def go(model_dir: Path, framework: str = "auto", **spec: Any) -> Worker:
        started.append(forks.start(sockets(), model_dir, framework, **spec))
        return started[-1]

    yield go
    for worker in started:
        worker.stop()


@pytest.fixture(scope="session")
def script(sockets: Callable[[], Path]) -> Callable[..., Path]:
    """script(text, name="inference.py") -> a model folder with that program in code/."""

    def make(text: str, name: str = "inference.py") -> Path:
        folder = sockets()
        (folder / "code").mkdir()
        (folder / "code" / name).write_text(text)
        return folder

    return make


@pytest.fixture(scope="session")
def estimators() -> dict[str, Any]:
    return worker_models.fitted()


@pytest.fixture(scope="session")
def trees() -> dict[str, Any]:
    return worker_models.boosters()


@pytest.fixture(scope="session")
def models(sockets: Callable[[], Path], estimators: dict[str, Any], trees: dict[str, Any]) -> dict[str, Path]:
    return worker_models.save(sockets, estimators, trees)
