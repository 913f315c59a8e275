"""Archives of functions' code on the disk by the SHA-256 of their bytes: `DIGEST.zip`, beside it `DIGEST/` unpacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from clary.domain.errors import StoreFailed
from clary.paths import replace_file

# An archive exists for a moment before the function that names it does.
GRACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Archive:
    """`sha256` in hexadecimal."""

    sha256: str
    size_bytes: int


class FunctionCode:
    """See the module. Everything here blocks; call it on a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, content: bytes) -> Archive:
        """Durable when it returns; the same bytes twice are one file. Raises: StoreFailed."""
        digest = hashlib.sha256(content).hexdigest()
        try:
            if self.archive(digest).exists():
                os.utime(self.archive(digest))
            else:
                replace_file(self.archive(digest), content)
        except OSError as error:
            raise StoreFailed("keeping the function's code", detail=str(error)) from error
        return Archive(digest, len(content))

    def archive(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.zip"

    def unpacked(self, sha256: str) -> Path:
        return self._folder / sha256

    def forget_all_but(self, wanted: Collection[str]) -> int:
        """Removes archives and folders that no function names and that are old enough; how many went."""
        gone = 0
        for place in self._folder.iterdir():
            digest = place.name.removesuffix(".zip").lstrip(".").partition(".")[0]
            if digest in wanted or time.time() - place.lstat().st_mtime < GRACE_S:
                continue
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink()
            gone += 1
        return gone
