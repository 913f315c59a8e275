"""What is counted is what has left, over any number of kill -9 between any two instructions."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest

from clary.domain.usage import INDEX
from clary.proxy.meter import Answered, Meter, Slot

FLEET = "us-east-1/e/AllTraffic/1"
OK = Answered(200, 1500, 20, 7, 100, True)
DATA = b"a" * 99 + b"\n"


def counted(path: Path, name: str = "requests") -> int:
    return Meter(path).slot(FLEET).numbers[INDEX[name]]


def test_an_answer_that_leaves_whole_is_counted_once(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert meter.receipts.send(ours.fileno(), DATA, meter.slot(FLEET), OK) == len(DATA)
        assert theirs.recv(1000) == DATA
    assert counted(tmp_path / "counters") == 1
    assert counted(tmp_path / "counters", "billed_ms") == 2
    assert counted(tmp_path / "counters", "response_bytes") == 100


def test_an_answer_that_leaves_in_part_or_not_at_all_is_not_counted(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "counters")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        huge = b"b" * (8 << 20)
        assert 0 < meter.receipts.send(ours.fileno(), huge, meter.slot(FLEET), OK) < len(huge)
        assert meter.receipts.send(ours.fileno(), DATA, meter.slot(FLEET), OK) == 0
        theirs.close()
        with pytest.raises(BrokenPipeError):
            meter.receipts.send(ours.fileno(), DATA, meter.slot(FLEET), OK)
    assert counted(tmp_path / "counters") == 0


def test_a_death_between_departure_and_count_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter(tmp_path / "counters")
    slot = meter.slot(FLEET)
    ours, theirs = socket.socketpair()

    def die(_slot: Slot, _after: object) -> None:
        raise KeyboardInterrupt

    with ours, theirs:
        monkeypatch.setattr(Slot, "take", die)
        with pytest.raises(KeyboardInterrupt):
            meter.receipts.send(ours.fileno(), DATA, slot, OK)
        monkeypatch.undo()
        assert theirs.recv(1000) == DATA
    assert slot.numbers[INDEX["requests"]] == 0
    assert counted(tmp_path / "counters") == 1
    assert counted(tmp_path / "counters") == 1  # once only


def test_killed_at_random_the_count_is_what_the_other_side_has_read(tmp_path: Path) -> None:
    path, read, seed = tmp_path / "counters", 0, random.randrange(1 << 32)
    dice = random.Random(seed)
    print("seed", seed)
    for _ in range(60):
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            theirs.close()
            meter = Meter(path)
            ours.setblocking(True)
            while True:  # the kill ends it
                sent = meter.receipts.send(ours.fileno(), DATA, meter.slot(FLEET), OK)
                if sent != len(DATA):
                    time.sleep(0.0005)
                    if sent:
                        ours.sendall(DATA[sent:-1])
                        while not meter.receipts.send(ours.fileno(), DATA[-1:], meter.slot(FLEET), OK):
                            time.sleep(0.0005)
        ours.close()
        deadline = time.monotonic() + dice.uniform(0.005, 0.02)
        data = bytearray()
        theirs.setblocking(False)
        while time.monotonic() < deadline:
            try:
                data += theirs.recv(1 << 16)
            except BlockingIOError:
                time.sleep(0.0002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        theirs.setblocking(True)
        while more := theirs.recv(1 << 16):
            data += more
        theirs.close()
        read += data.count(b"\n")
        assert counted(path) == read, f"seed {seed}"
    assert read > 1000
