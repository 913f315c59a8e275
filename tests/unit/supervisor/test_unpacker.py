"""The warm unpacker, as a process, and the supervisor's tasks that use it."""

from __future__ import annotations

import io
import json
import os
import selectors
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clary.supervisor.tasks import Tasks

LIMIT_S = 20.0


class Client:
    """Stands for the connection that asked for a task."""

    def __init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}

    def send(self, message: dict[str, Any]) -> None:
        self.answers[message["id"]] = message


class Supervised:
    """Tasks with a loop such as the supervisor's around them."""

    def __init__(self, logs: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.tasks = Tasks(self.selector, logs, lambda _name: 0)
        self.client = Client()
        self.asked = 0

    def ask(self, archive: Path, destination: Path) -> int:
        self.asked += 1
        request = {
            "id": self.asked,
            "argv": ["/bin/echo", "cold"],
            "files": [str(archive)],
            "unpack": {"destination": str(destination), "max_bytes": 1 << 20},
        }
        self.tasks.start(self.client, request, None)  # type: ignore[arg-type]
        return self.asked

    def step(self) -> None:
        for key, mask in self.selector.select(0.01):
            key.data(mask)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            assert self.tasks.exited(pid, status)

    def answer(self, number: int) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_S
        while number not in self.client.answers:
            assert time.monotonic() < deadline
            self.step()
        return self.client.answers[number]

    def warm(self) -> int:
        """The unpacker's pid, once it is ready."""
        deadline = time.monotonic() + LIMIT_S
        while not self.tasks._unpacker.ready:
            assert time.monotonic() < deadline
            self.step()
        return self.tasks._unpacker.pid


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    one = Supervised(tmp_path)
    yield one
    pid = one.tasks._unpacker.pid
    one.tasks.stop()
    if pid:
        os.waitpid(pid, 0)


def packed(path: Path, name: str = "model.txt", content: bytes = b"tree") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return path


def test_the_first_archive_waits_for_no_unpacker_and_the_next_ones_have_it(
    supervised: Supervised, tmp_path: Path
) -> None:
    archive = packed(tmp_path / "a.tar.gz")
    assert supervised.answer(supervised.ask(archive, tmp_path))["output"] == "cold\n"
    supervised.warm()
    folders = [tmp_path / str(number) for number in range(5)]
    for folder in folders:
        folder.mkdir()
    for number in [supervised.ask(archive, folder) for folder in folders]:
        told = supervised.answer(number)
        assert (told["code"], told["lost"], json.loads(told["output"])) == (0, False, {"files": 1, "bytes": 4})
    assert [(folder / "model.txt").read_bytes() for folder in folders] == [b"tree"] * 5


def test_an_archive_that_is_refused_is_told_as_by_an_interpreter_of_its_own(
    supervised: Supervised, tmp_path: Path
) -> None:
    supervised.answer(supervised.ask(packed(tmp_path / "a.tar.gz"), tmp_path))
    supervised.warm()
    told = supervised.answer(supervised.ask(packed(tmp_path / "b.tar.gz", "../escape"), tmp_path))
    assert told["code"] == 1
    assert "'..' in the path" in json.loads(told["output"])["error"]


def test_an_unpacker_that_dies_loses_its_archives_and_says_so(supervised: Supervised, tmp_path: Path) -> None:
    supervised.answer(supervised.ask(packed(tmp_path / "a.tar.gz"), tmp_path))
    pid = supervised.warm()
    os.kill(pid, signal.SIGSTOP)
    number = supervised.ask(packed(tmp_path / "b.tar.gz"), tmp_path)
    os.kill(pid, signal.SIGKILL)
    told = supervised.answer(number)
    assert (told["lost"], told["code"]) == (True, -1)
    assert supervised.answer(supervised.ask(packed(tmp_path / "c.tar.gz"), tmp_path))["output"] == "cold\n"


def test_an_unpacker_that_is_idle_for_long_leaves(supervised: Supervised, tmp_path: Path) -> None:
    supervised.answer(supervised.ask(packed(tmp_path / "a.tar.gz"), tmp_path))
    supervised.warm()
    (due,) = supervised.tasks.deadlines()
    supervised.tasks.expire(due - 1)
    assert supervised.tasks._unpacker.pid
    supervised.tasks.expire(due)
    deadline = time.monotonic() + LIMIT_S
    while supervised.tasks._unpacker.pid:
        assert time.monotonic() < deadline
        supervised.step()
    assert supervised.tasks.deadlines() == []


def test_one_that_is_kept_is_there_before_the_first_archive(supervised: Supervised, tmp_path: Path) -> None:
    supervised.tasks.keep_unpacker(True)
    supervised.warm()
    assert supervised.tasks.deadlines() == []
    told = supervised.answer(supervised.ask(packed(tmp_path / "a.tar.gz"), tmp_path))
    assert json.loads(told["output"])["files"] == 1
    supervised.tasks.keep_unpacker(False)
    assert len(supervised.tasks.deadlines()) == 1
