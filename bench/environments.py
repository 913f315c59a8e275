"""Environments that the comparison needs, one per peer, built by uv below the cache folder and kept for the next run.

An environment whose stamp names the same requirements is taken as it is. One that cannot be built raises Unavailable
with uv's last words, which the report prints in the peer's row: a peer is never left out silently.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BUILD_LIMIT_S = 900.0


class Unavailable(RuntimeError):
    """What was wanted cannot be had on this machine; the text says why."""


def cache_folder() -> Path:
    """CLARY_BENCH_CACHE, else bench/.cache."""
    folder = Path(os.environ.get("CLARY_BENCH_CACHE", Path(__file__).parent / ".cache")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class Environments:
    """The environments below one cache folder."""

    cache: Path

    def build(self, name: str, requirements: Sequence[str]) -> str:
        """The environment's python. Raises: Unavailable."""
        folder = self.cache / "environments" / name
        stamp, python = folder / "built.json", folder / "bin" / "python"
        wanted = json.dumps([sys.version, *requirements])
        if stamp.exists() and stamp.read_text() == wanted:
            return str(python)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        uv = uv_program()
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements])
        stamp.write_text(wanted)
        return str(python)


def uv_program() -> str:
    """uv beside this python, else on PATH. Raises: Unavailable."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise Unavailable("uv is neither beside this python nor on PATH; `make setup` brings it")
    return found


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[:3])} took more than {BUILD_LIMIT_S:g} s") from error
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise Unavailable(f"cannot be installed: {words[-400:]}")


def versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages as an environment has them."""
    code = "import sys, importlib.metadata as m; print(*(m.version(p) for p in sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, timeout=60, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
