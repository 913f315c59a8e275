"""How much is measured: the full amounts, and those of a run with `--quick`, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts and times of one run. `seconds` is the length of one window of load."""

    quick: bool
    seconds: float
    rounds: int
    wakes: int
    wakes_beside: int  # of the rows beside the main one: killed zygotes, first wakes, plain starts
    cycles: int
    starts: int
    idle_s: float
    endpoints: int
    resident_s: float
    upload_mib: int  # a client
    models: int  # behind one endpoint
    zipf_calls: int
    records: int  # of a batch transform job
    async_wakes: int
    async_requests: int


FULL = Scale(False, 4.0, 5, 1000, 30, 200, 5, 60.0, 100, 300.0, 1024, 10_000, 20_000, 4_000_000, 30, 2000)
QUICK = Scale(True, 0.5, 2, 20, 3, 5, 2, 5.0, 5, 10.0, 64, 200, 300, 400_000, 4, 100)
