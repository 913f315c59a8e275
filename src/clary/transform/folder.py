"""The folder of one transform job: what control plans, what the engine makes of it, what either finds after a crash.

order.json, inputs.jsonl   written by control before the engine starts, never changed
in/                        the inputs' bytes as they were when the job began: links to immutable files
part/N, part/N.state       an output under way, and how far it is durable
out/N                      a whole output that control has yet to publish
published, failed.jsonl    numbers of outputs that are visible; inputs that were given up, with their reasons
progress.json, stop, lock  what the engine tells, what it is told, and that it lives
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clary.domain.transform_plan import Input, Order
from clary.paths import replace_file
from clary.store.codec import decode, encode


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths, and the few files that are read and written whole."""

    path: Path

    @property
    def inputs_folder(self) -> Path:
        return self.path / "in"

    @property
    def parts(self) -> Path:
        return self.path / "part"

    @property
    def outputs(self) -> Path:
        return self.path / "out"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    def make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.inputs_folder, self.parts, self.outputs):
            folder.mkdir(mode=0o700, exist_ok=True)

    def write_order(self, order: Order) -> None:
        replace_file(self.path / "order.json", json.dumps(encode(order)).encode())

    def order(self) -> Order:
        return decode(Order, json.loads((self.path / "order.json").read_text()))

    def write_inputs(self, inputs: Iterable[Input]) -> tuple[int, int]:
        """Makes the list durable; how many there are and their bytes."""
        count = total = 0
        temporary = self.path / ".inputs.tmp"
        with temporary.open("w") as out:
            for one in inputs:
                out.write(json.dumps(encode(one), separators=(",", ":")) + "\n")
                count += 1
                total += one.size_bytes
            out.flush()
            os.fsync(out.fileno())
        os.rename(temporary, self.path / "inputs.jsonl")
        sync_folder(self.path)
        return count, total

    def inputs(self) -> Iterator[Input]:
        with (self.path / "inputs.jsonl").open() as lines:
            for line in lines:
                yield decode(Input, json.loads(line))

    def published(self) -> set[int]:
        return {int(line) for line in self._lines("published")}

    def add_published(self, number: int) -> None:
        self._append("published", f"{number}\n")

    def failed(self) -> dict[int, str]:
        """Why inputs were given up, by number."""
        found = (json.loads(line) for line in self._lines("failed.jsonl"))
        return {one["number"]: one["reason"] for one in found}

    def add_failed(self, number: int, reason: str) -> None:
        self._append("failed.jsonl", json.dumps({"number": number, "reason": reason}) + "\n")

    def finished(self) -> list[int]:
        """Whole outputs that wait to be published, in order."""
        return sorted(int(name) for name in os.listdir(self.outputs) if name.isdigit())

    def write_progress(self, told: dict[str, Any]) -> None:
        """Replaced whole, not flushed: it is only told, nothing depends on it."""
        temporary = self.path / ".progress.tmp"
        temporary.write_text(json.dumps(told))
        os.rename(temporary, self.path / "progress.json")

    def progress(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.path / "progress.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def lock(self) -> IO[bytes] | None:
        """The lock of the one engine that may work here, held until it is closed; None while another holds it."""
        file = (self.path / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def _lines(self, name: str) -> list[str]:
        """Whole lines only: what a crash cut off was never acknowledged."""
        try:
            text = (self.path / name).read_text()
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def _append(self, name: str, line: str) -> None:
        path = self.path / name
        with path.open("ab+") as out:
            out.seek(0, os.SEEK_END)
            size = out.tell()
            if size:
                out.seek(size - 1)
                if out.read(1) != b"\n":  # a line that a crash cut off
                    out.seek(0)
                    out.truncate(out.read().rfind(b"\n") + 1)
            out.write(line.encode())
            out.flush()
            os.fsync(out.fileno())


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
