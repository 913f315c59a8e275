"""What a model repository for Triton needs of its environment, told by names and a few words, without loading a thing.

The files are a user's: links are not followed, and of a config.pbtxt only its beginning is looked at. A wrong guess
costs torch's download or ends in the worker's own refusal, which names the package.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_READ_BYTES = 1 << 18  # of a config.pbtxt; the worker reads no more either
_PYTORCH = re.compile(rb"""(platform\s*:\s*["']pytorch_libtorch["'])|(backend\s*:\s*["']pytorch["'])""")


def needs_torch(folder: Path) -> bool:
    """Whether a model in the repository is a TorchScript one."""
    for model in _folders(folder):
        if any((version / "model.pt").is_file() for version in _folders(model) if version.name.isdigit()):
            return True
        if _PYTORCH.search(_beginning(model / "config.pbtxt")):
            return True
    return False


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]


def _beginning(path: Path) -> bytes:
    """The file's first bytes, none where there is no plain file."""
    if path.is_symlink() or not path.is_file():
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_READ_BYTES)
