"""One output under way: appended to, made durable now and then together with how far its input was read.

A checkpoint names a position of the input and the length of the output that belongs to it. After a crash the file is
cut back to the last one, and what follows is made again, from the same place and so with the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from clary.failpoints import failpoint
from clary.paths import replace_file
from clary.transform.folder import JobFolder, sync_folder

CHECKPOINT_EVERY_S = 1.0
CHECKPOINT_EVERY_BYTES = 64 * 1024 * 1024


class Output:
    """`position` and `lines` are those of the input at the last checkpoint, where work goes on."""

    def __init__(self, folder: JobFolder, number: int) -> None:
        self._folder = folder
        self._number = number
        self._path = folder.parts / str(number)
        self._state = folder.parts / f"{number}.state"
        self.position = self.lines = self._size = 0
        if self._state.exists():
            told = json.loads(self._state.read_text())
            self.position, self.lines, self._size = told["position"], told["lines"], told["size"]
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, 0, os.SEEK_END)
        self._kept_size = self._size
        self._kept_s = time.monotonic()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._size += len(data)

    def append_file(self, path: Path) -> None:
        """A long answer that was kept in a file."""
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                self.write(data)

    def reached(self, position: int, lines: int) -> None:
        """All that belongs to the input up to `position` was written; made durable when it is time."""
        old = time.monotonic() - self._kept_s
        if old < CHECKPOINT_EVERY_S and self._size - self._kept_size < CHECKPOINT_EVERY_BYTES:
            return
        os.fdatasync(self._file)
        told = {"position": position, "lines": lines, "size": self._size}
        replace_file(self._state, json.dumps(told).encode())
        failpoint("transform.after_checkpoint")
        self._kept_size, self._kept_s = self._size, time.monotonic()

    def finish(self) -> None:
        """Whole: it moves to where control looks for what is to be published."""
        os.fsync(self._file)
        os.close(self._file)
        failpoint("transform.before_finish")
        os.rename(self._path, self._folder.outputs / str(self._number))
        sync_folder(self._folder.outputs)
        failpoint("transform.after_finish")
        self._state.unlink(missing_ok=True)

    def give_up(self, reason: str) -> None:
        """The input failed: nothing of its output stays."""
        os.close(self._file)
        self._folder.add_failed(self._number, reason)
        self._path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
