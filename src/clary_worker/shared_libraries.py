"""Shared libraries that a model brings along, in `shared_libs` of its archive.

The inference.py that SageMaker's ModelBuilder writes copies that folder into /lib (`shutil.copytree`, also when it is
empty), where a container's own loader finds them. Here /lib is the host's. The libraries are loaded from where they
lie instead, and whoever asks for one by name finds it in the process; the copy of that folder to that place is done
with that, every other copy is as ever.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from typing import Any

FOLDER = "shared_libs"
SYSTEM = "/lib"
_taken: set[str] = set()


def take(model_dir: str) -> None:
    """Loads what `model_dir` brings; nothing without such a folder. One that does not load is named in the log."""
    folder = os.path.normpath(os.path.join(model_dir, FOLDER))
    if folder in _taken or not os.path.isdir(folder):
        return
    if not _taken:
        shutil.copytree = _but_ours(shutil.copytree)
    _taken.add(folder)
    for path, reason in _load(sorted(os.path.join(folder, name) for name in os.listdir(folder))).items():
        print("clary: %s was not loaded: %s" % (path, reason), flush=True)


def _load(paths: list[str]) -> dict[str, str]:
    """Loads the libraries, those first that others of them need; the ones that do not load, and why."""
    while True:
        failed = {}
        for path in paths:
            try:
                ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
            except OSError as error:
                failed[path] = str(error)
        if len(failed) == len(paths):
            return failed
        paths = list(failed)


def _but_ours(copytree: Any) -> Any:
    @functools.wraps(copytree)
    def without_ours(src: Any, dst: Any, *options: Any, **named: Any) -> Any:
        if os.fspath(dst) == SYSTEM and os.path.normpath(src) in _taken:
            return dst
        return copytree(src, dst, *options, **named)

    return without_ours
