"""The supervisor's deciding parts: which workers a fleet lacks, why one exited, what the journal says after a crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clary import tables
from clary.supervisor import processes
from clary.supervisor.fleet import Fleet, parse
from clary.supervisor.journal import Heartbeat, Journal
from clary.supervisor.workers import State, Worker, gap, status_message, why_exited

FLEET = Fleet(
    name="us-east-1/e/v/1",
    endpoint="e",
    variant="v",
    min=1,
    max=3,
    processes_per_instance=2,
    zygote="",
    python="/usr/bin/python3",
    prefixes=(),
    worker={},
    environ={},
    binds=(),
    memory_bytes=1 << 30,
    cpus=1.0,
    uid=-1,
    network=False,
    start_timeout_s=60.0,
)


def worker(slot: int, state: State = State.READY) -> Worker:
    return Worker(f"w{slot}", FLEET.name, slot, slot // 2, Path("s"), Path("l"), plain=False, state=state)


@pytest.mark.parametrize(
    ("workers", "demand", "start", "stop"),
    [
        ([], 0, (0,), ()),
        ([], 2, (0, 1), ()),
        ([], 9, (0, 1, 2), ()),
        ([worker(0)], 0, (), ()),
        ([worker(1)], 2, (0,), ()),
        ([worker(0, State.STOPPING)], 0, (0,), ()),
        ([worker(0, State.STARTING), worker(1)], 2, (), ()),
        ([worker(0), worker(1), worker(2), worker(3)], 0, (), ("w3",)),
    ],
)
def test_gap_starts_what_lacks_and_stops_what_is_too_much(
    workers: list[Worker], demand: int, start: tuple[int, ...], stop: tuple[str, ...]
) -> None:
    found = gap(FLEET, workers, demand)
    assert (found.start_slots, found.stop) == (start, stop)


@pytest.mark.parametrize(
    ("changes", "facts", "kills", "reason"),
    [
        ({}, {"name": "SIGKILL"}, 1, "OutOfMemory"),
        ({}, {"name": "SIGKILL"}, 0, "Crashed"),
        ({"stop_reason": "Idle"}, {"code": 0}, 0, "Idle"),
        ({"ended": "OutOfMemory"}, {"code": 137}, 0, "OutOfMemory"),
        ({"failure": {"reason": "x"}, "state": State.STARTING}, {"code": 70}, 0, "StartFailed"),
        ({"state": State.STARTING}, {"code": 1}, 0, "ExitedWhileStarting"),
        ({}, {"code": 0}, 0, "Exited"),
    ],
)
def test_an_exit_has_one_reason(changes: dict[str, object], facts: dict[str, object], kills: int, reason: str) -> None:
    assert why_exited(replace(worker(0), **changes), facts, kills) == reason  # type: ignore[arg-type]


def test_a_launch_table_with_unknown_or_missing_fields_is_refused() -> None:
    with pytest.raises((KeyError, TypeError)):
        parse({"fleets": {"x": {"prefixes": [], "binds": [], "surprise": 1}}})


def test_the_journal_closes_lives_that_ended_with_the_supervisor(tmp_path: Path) -> None:
    path, heartbeat = tmp_path / "j", Heartbeat(tmp_path / "h")
    journal = Journal(path, heartbeat)
    journal.record("started", worker="a", fleet="f", instance=0)
    journal.record("started", worker="b", fleet="f", instance=1)
    journal.record("exited", worker="a", fleet="f", instance=0)
    heartbeat.beat()
    last = heartbeat.last_ns()
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"seq": 99, "torn')  # a power cut in the middle of a line
    again = Journal(path, Heartbeat(tmp_path / "h"))
    again.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["event"] == "exited"
    assert (lines[-1]["worker"], lines[-1]["reason"], lines[-1]["at_ns"]) == ("b", "SupervisorLost", last)


def test_a_torn_table_is_refused_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    assert tables.read(path) == {}
    tables.write(path, {"a": 1})
    assert tables.read(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(tables.TornTable):
        tables.read(path)


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_a_signal_never_goes_to_our_own_group_or_to_everybody(pid: int) -> None:
    with pytest.raises(ValueError, match="no process of ours"):
        processes.end(pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\x00",
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"state": 1}',
        b'{"state": "ready", "detail": "text"}',
        b'{"state": "probe", "detail": {"a": 1}}',
        b'{"state": "failed", "reason": ["x"]}',
        b"[" * 100_000,
    ],
)
def test_a_status_line_that_is_none_of_ours_is_not_believed(line: bytes) -> None:
    assert status_message(line) is None


def test_a_status_line_of_ours_is() -> None:
    assert status_message(b'{"state": "ready", "detail": {"a": 1}}') == {"state": "ready", "detail": {"a": 1}}
    assert status_message(b'{"state": "failed", "reason": "x", "hint": ""}') is not None


def test_a_start_in_ticks_is_told_on_the_wall_clock() -> None:
    before_ns = time.time_ns()
    with subprocess.Popen(["sleep", "5"]) as child:
        after_ns = time.time_ns()
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        found_ns = processes.wall_ns(processes.start_time(child.pid))
        child.kill()
    assert before_ns - 2 * tick_ns <= found_ns <= after_ns


def test_the_journal_waits_for_room_on_a_full_disk_and_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "workers.jsonl"
    heartbeat = Heartbeat(tmp_path / "beat")
    journal = Journal(path, heartbeat)
    journal.record("started", worker="a", fleet="f", instance=0)
    journal.beat()
    real, full = journal._file, os.open("/dev/full", os.O_WRONLY)
    journal._file = full
    journal.record("exited", worker="a", fleet="f", instance=0)
    journal.record("started", worker="b", fleet="f", instance=0)
    assert journal.behind
    last_ns = heartbeat.last_ns()
    journal.beat()
    assert heartbeat.last_ns() == last_ns, "a life that ended on paper only in memory was told to go on"
    journal._file = real
    os.close(full)
    journal.write_on()
    assert not journal.behind
    journal.beat()
    assert heartbeat.last_ns() > last_ns
    journal.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["event"], one["worker"]) for one in events] == [("started", "a"), ("exited", "a"), ("started", "b")]
    assert [one["seq"] for one in events] == [1, 2, 3]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may favour a session")
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not group by session")
def test_a_service_is_favoured_against_other_sessions() -> None:
    pid = processes.start(["/bin/sleep", "60"], {}, {})
    try:
        processes.favour(pid, -10)
        assert Path(f"/proc/{pid}/autogroup").read_text().split()[-1] == "-10"
    finally:
        processes.end(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    processes.favour(pid, -10)  # gone by now: nothing
