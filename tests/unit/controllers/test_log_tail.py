"""Log files of workers to streams: every line once, whatever stops when."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from clary.controllers import log_tail
from clary.controllers.log_tail import LINE_BYTES, LogTail, split
from clary.domain.names import Place
from clary.store.log_segments import Position, forward
from clary.store.logs import LogStore

PLACE = Place("111122223333", "eu-west-1")
GROUP = "/aws/sagemaker/Endpoints/e"


class Desk:
    """A folder of log files, the workers that live, and a tail that is stepped by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "workers" / "eu-west-1~e~v~7"
        self.files.mkdir(parents=True)
        self.live: list[dict[str, Any]] = []
        self.now_s = 1000.0
        self.open()

    def open(self) -> None:
        self.store = LogStore(self.folder / "groups")
        self.tail = LogTail(self.folder / "workers", self.store, PLACE.account, lambda: self.live)

    def write(self, worker: str, data: bytes) -> None:
        with (self.files / f"{worker}.log").open("ab") as file:
            file.write(data)

    def run(self, steps: int = 1) -> float | None:
        wait_s: float | None = None
        for _ in range(steps):
            self.tail.poke()
            wait_s = self.tail.step(self.now_s)
            self.now_s += 0.3
        return wait_s

    def lines(self, worker: str) -> list[str]:
        view = self.store.view(PLACE, GROUP, f"v/{worker}")
        return [event.text for event in forward(view.segments, Position())]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_worker_that_printed_and_died_at_once_is_read_whole(desk: Desk) -> None:
    desk.write("w1", b"starting\nTraceback: no such model\nlast words")
    desk.run()
    assert desk.lines("w1") == ["starting", "Traceback: no such model", "last words"]


def test_an_unfinished_line_of_a_living_worker_waits_for_its_end(desk: Desk) -> None:
    desk.live = [{"worker": "w1"}]
    desk.write("w1", b"one\ntw")
    desk.run()
    assert desk.lines("w1") == ["one"]
    desk.write("w1", b"o\n")
    desk.run()
    assert desk.lines("w1") == ["one", "two"]
    desk.write("w1", b"password: ")
    desk.run()
    desk.now_s += 5
    desk.run()
    assert desk.lines("w1") == ["one", "two", "password: "]


def test_a_restart_goes_on_exactly_where_it_was(desk: Desk) -> None:
    chance = random.Random(3)
    desk.live = [{"worker": "w1"}]
    expected = []
    for n in range(200):
        line = f"line {n} " + "y" * chance.randrange(40)
        expected.append(line)
        data = line.encode() + b"\n"
        cut = chance.randrange(len(data))
        desk.write("w1", data[:cut])
        if chance.random() < 0.3:
            desk.run()
        if chance.random() < 0.1:
            desk.open()
        desk.write("w1", data[cut:])
    desk.run(2)
    assert desk.lines("w1") == expected


def test_much_text_is_taken_in_steps_and_its_place_given_back(desk: Desk) -> None:
    desk.live = [{"worker": "w1"}]
    line = b"z" * 999 + b"\n"
    desk.write("w1", line * 20_000)
    desk.write("w2", b"not starved\n")
    assert desk.run() == 0.0, "there is more at once"
    assert desk.lines("w2") == ["not starved"]
    desk.run(30)
    assert len(desk.lines("w1")) == 20_000
    facts = (desk.files / "w1.log").stat()
    assert facts.st_size == 20_000_000
    if desk.tail._punches:  # not every file system can
        assert facts.st_blocks * 512 < 12_000_000
    desk.write("w1", b"the end\n")
    desk.open()
    desk.run(3)
    assert desk.lines("w1")[-2:] == [line[:-1].decode(), "the end"]
    assert len(desk.lines("w1")) == 20_001


def test_a_hole_that_a_worker_made_is_stepped_over(desk: Desk) -> None:
    desk.live = [{"worker": "w1"}]
    desk.write("w1", b"before\n")
    os.truncate(desk.files / "w1.log", 1 << 40)
    desk.run(3)
    desk.write("w1", b"after\n")
    desk.run(3)
    assert desk.lines("w1") == ["before", "after"]


def test_a_file_that_its_worker_cut_is_read_from_its_start(desk: Desk) -> None:
    desk.live = [{"worker": "w1"}]
    desk.write("w1", b"something long\n")
    desk.run()
    os.truncate(desk.files / "w1.log", 0)
    desk.write("w1", b"new\n")
    desk.run()
    assert desk.lines("w1") == ["something long", "new"]


def test_a_file_seen_before_its_worker_was_told_of_is_followed(desk: Desk) -> None:
    desk.write("w1", b"early\n")
    desk.run(5)
    desk.live = [{"worker": "w1"}]
    desk.write("w1", b"later\n")
    desk.run(2)
    assert desk.lines("w1") == ["early", "later"]


def test_files_go_ten_minutes_after_their_worker(desk: Desk) -> None:
    desk.write("w1", b"bye\n")
    desk.live = [{"worker": "w2"}]
    desk.write("w2", b"alive\n")
    desk.run(3)
    for worker in ("w1", "w2"):
        os.utime(desk.files / f"{worker}.log", (0, 0))
    desk.run(2)
    assert sorted(path.name for path in desk.files.iterdir()) == ["w2.log"]
    assert desk.lines("w1") == ["bye"]


def test_with_nobody_alive_it_sleeps(desk: Desk) -> None:
    assert desk.run() is None
    desk.write("w1", b"bye\n")
    wait_s = desk.run(4)
    assert wait_s is not None
    assert wait_s > 500, "until the file is removed"
    desk.live = [{"worker": "w2"}]
    assert desk.run() in (log_tail.POLL_S, log_tail.CALM_POLL_S)


async def test_it_runs_beside_others_until_cancelled(desk: Desk) -> None:
    running = asyncio.create_task(desk.tail.run())
    await asyncio.sleep(0)
    desk.write("w1", b"hello\n")
    desk.tail.poke()
    for _ in range(1000):
        if desk.store.groups(PLACE):
            break
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.lines("w1") == ["hello"]


def test_foreign_folders_are_left_alone(desk: Desk) -> None:
    other = desk.folder / "workers" / "notes"
    other.mkdir()
    (other / "x.log").write_text("private\n")
    desk.run(2)
    assert desk.store.groups(PLACE) == []


@pytest.mark.parametrize(
    ("data", "ripe", "expected", "taken"),
    [
        (b"a\nb\n", False, [(b"a", 12), (b"b", 14)], 14),
        (b"a\r\n\n\nb", False, [(b"a", 13)], 15),
        (b"a\nb", True, [(b"a", 12), (b"b", 13)], 13),
        (b"x" * (LINE_BYTES + 5), False, [(b"x" * LINE_BYTES, 10 + LINE_BYTES)], 10 + LINE_BYTES),
        (
            b"x" * (LINE_BYTES + 5) + b"\n",
            False,
            [(b"x" * LINE_BYTES, 10 + LINE_BYTES), (b"xxxxx", 16 + LINE_BYTES)],
            16 + LINE_BYTES,
        ),
        (b"", True, [], 10),
    ],
)
def test_split(data: bytes, ripe: bool, expected: list[tuple[bytes, int]], taken: int) -> None:
    events, position = split(data, 10, 0, ripe)
    assert [(event.message, event.source_end) for event in events] == expected
    assert position == taken
