"""Counts what every fleet did, in a mapped file: a crash of this process loses no request that was answered.

The hot path adds to plain machine words; nothing here locks or calls the kernel. `domain.usage` tells how the file
lies; control reads it. `receipts` ties a count to the answer's departure.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

from clary.domain.usage import (
    HEADER_BYTES,
    INDEX,
    MODEL_LATENCY_AT,
    NAME_BYTES,
    OVERHEAD_LATENCY_AT,
    SLOT_BYTES,
    bucket,
)
from clary.proxy.receipts import Receipts

MAX_SLOTS = 65_536  # 256 MiB of sparse file: slots are never given to another fleet

_REQUESTS = INDEX["requests"]
_4XX = INDEX["errors_4xx"]
_5XX = INDEX["errors_5xx"]
_BILLED = INDEX["billed_ms"]
_MODEL = INDEX["model_latency_us"]
_OVERHEAD = INDEX["overhead_latency_us"]
_IN = INDEX["request_bytes"]
_OUT = INDEX["response_bytes"]
_STEPS = INDEX["steps"]


class Answered(NamedTuple):
    """What one answer adds to its fleet's numbers. `billed`: the model's time is charged."""

    status: int
    model_us: int
    overhead_us: int
    request_bytes: int
    response_bytes: int
    billed: bool


class Slot:
    """One fleet's numbers. Only this process writes them."""

    __slots__ = ("number", "numbers")

    def __init__(self, number: int, numbers: memoryview) -> None:
        self.number = number
        self.numbers = numbers

    def after(self, answered: Answered) -> list[tuple[int, int]]:
        """(index, value) of every number that the answer changes, as it then will be."""
        numbers = self.numbers
        status, model_us, overhead_us, request_bytes, response_bytes, billed = answered
        model_at = MODEL_LATENCY_AT + bucket(model_us)
        overhead_at = OVERHEAD_LATENCY_AT + bucket(overhead_us)
        found = [
            (_MODEL, numbers[_MODEL] + model_us),
            (_OVERHEAD, numbers[_OVERHEAD] + overhead_us),
            (_IN, numbers[_IN] + request_bytes),
            (_OUT, numbers[_OUT] + response_bytes),
            (model_at, numbers[model_at] + 1),
            (overhead_at, numbers[overhead_at] + 1),
        ]
        if billed:
            found.append((_BILLED, numbers[_BILLED] - (-model_us // 1000)))
        if status >= 400:
            kind = _4XX if status < 500 else _5XX
            found.append((kind, numbers[kind] + 1))
        found.append((_REQUESTS, numbers[_REQUESTS] + 1))  # last: a reader that sees the request sees its parts
        return found

    def take(self, after: list[tuple[int, int]]) -> None:
        """Sets the numbers; doing it twice is doing it once."""
        numbers = self.numbers
        for index, value in after:
            numbers[index] = value

    def answered(self, answered: Answered) -> None:
        """One request was answered."""
        self.take(self.after(answered))

    def step(self, model_us: int) -> None:
        """A pipeline's container took so long for its part of a request."""
        numbers = self.numbers
        numbers[_STEPS] += 1  # first: a reader that sees the latency sees whose it is
        numbers[_MODEL] += model_us
        numbers[MODEL_LATENCY_AT + bucket(model_us)] += 1

    def add(self, name: str, amount: int = 1) -> None:
        self.numbers[INDEX[name]] += amount


class Meter:
    """The file of all slots; slots of fleets that once were stay as they ended."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = HEADER_BYTES + MAX_SLOTS * SLOT_BYTES
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        self._slots: dict[str, Slot] = {}
        self._seen = 0
        self._used = int.from_bytes(self._map[:8], "little")
        for index in range(self._used):
            start = HEADER_BYTES + index * SLOT_BYTES
            name = self._map[start : start + NAME_BYTES].rstrip(b"\0").decode()
            self._slots[name] = self._slot(index)
        self.receipts = Receipts(self._map)
        left = self.receipts.left()
        if left is not None:  # the process before us died between an answer's departure and its count
            self._slot(left[0]).take(left[1])
            self.receipts.clear()

    def _slot(self, index: int) -> Slot:
        start = HEADER_BYTES + index * SLOT_BYTES
        return Slot(index, memoryview(self._map)[start + NAME_BYTES : start + SLOT_BYTES].cast("Q"))

    def slot(self, fleet: str) -> Slot:
        """The fleet's numbers, as they stood when they were last written.

        Raises: OSError when the file or the disk is full.
        """
        found = self._slots.get(fleet)
        if found is not None:
            return found
        if self._used == MAX_SLOTS:
            raise OSError(f"the usage file holds {MAX_SLOTS} fleets; archive it while clary is down")
        start = HEADER_BYTES + self._used * SLOT_BYTES
        name = fleet.encode()
        os.posix_fallocate(self._file, start, SLOT_BYTES)  # else a full disk ends us at the first write to it
        self._map[start : start + NAME_BYTES] = name.ljust(NAME_BYTES, b"\0")
        self._slots[fleet] = self._slot(self._used)
        self._used += 1
        self._map[:8] = self._used.to_bytes(8, "little")
        return self._slots[fleet]

    def changed(self) -> bool:
        """Whether a request was answered since the last call."""
        total = sum(slot.numbers[_REQUESTS] for slot in self._slots.values())
        changed, self._seen = total != self._seen, total
        return changed

    def flush(self) -> None:
        """Waits until the used part of the file is on the disk; called every second, on a thread."""
        self._map.flush(0, HEADER_BYTES + self._used * SLOT_BYTES)
