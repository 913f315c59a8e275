"""The Pythons of this host, and a copy of one where it lies too privately for workers.

Workers run under other uids. A Python under `/root/.pyenv` or a 0700 home cannot be run by them, and opening such a
home would be worse than the trouble it cures. So its prefix is copied into the data folder, without what serving does
not need (tests, documentation, installed packages), and the copy is run before it is trusted: CPython finds its
library from where its executable lies, so a copy works once its shared library is found there too (`rpath`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from clary.domain.errors import Unsupported
from clary.images.recipes import Interpreter
from clary.images.rpath import point_to

SUPPORTED = ("3.11", "3.12", "3.13")
PROBE = (
    "import json, sys, platform;"
    "print(json.dumps([platform.python_version(), platform.python_implementation(),"
    " getattr(sys, '_base_executable', sys.executable), sys.base_prefix]))"
)
# What an environment's interpreter must be able to import.
CHECK = (
    "import ctypes, hashlib, json, platform, select, socket, sqlite3, ssl, sys, zlib;"
    "print(json.dumps([platform.python_version(), sys.base_prefix, open('/proc/self/maps').read()]))"
)
PROBE_LIMIT_S = 20.0
LEFT_BEHIND = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "tkinter", "lib2to3", "ensurepip"}
)


def find_interpreters(environ: Mapping[str, str], *, first: str | None = None) -> tuple[Interpreter, ...]:
    """CPython 3.11 to 3.13 on this host, our own first, then by PATH; one a minor version and place.

    A name that does not run (a version manager's shim without a version) or cannot be looked at is no interpreter.
    """
    candidates = [first or str(getattr(sys, "_base_executable", sys.executable))]
    for python in SUPPORTED:
        for folder in environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(folder, f"python{python}")
            # os.path: a folder that we may not enter (another user's, kept on PATH by `su`) holds no Python for us,
            # where Path.exists would raise.
            if folder and os.path.exists(path):
                candidates.append(path)
    found: dict[str, Interpreter] = {}
    for candidate in candidates:
        interpreter = probe(candidate)
        if interpreter is not None and interpreter.python in SUPPORTED:
            found.setdefault(interpreter.path, interpreter)
    return tuple(found.values())


def probe(executable: str) -> Interpreter | None:
    """What that executable is; None when it is no CPython that runs."""
    try:
        done = subprocess.run(
            [executable, "-I", "-c", PROBE], capture_output=True, text=True, timeout=PROBE_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    version, implementation, path, prefix = json.loads(done.stdout)
    if implementation != "CPython":
        return None
    return Interpreter(version=version, path=os.path.realpath(path), prefix=os.path.realpath(prefix))


def others_can_read(path: Path) -> bool:
    """True when any uid may walk to that file and read it (and run it, if it is a program)."""
    path = path.resolve()
    mode = path.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
    return mode & needed == needed and all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def copy_place(interpreter: Interpreter, data_dir: Path) -> Path:
    """The prefix of the copy of that interpreter in the data folder."""
    name = hashlib.sha256(f"{interpreter.version}\n{interpreter.prefix}".encode()).hexdigest()[:32]
    return data_dir / "interpreters" / name


def copied(interpreter: Interpreter, place: Path) -> Interpreter:
    """The same interpreter at its copy's place."""
    return Interpreter(
        interpreter.version, str(place / Path(interpreter.path).relative_to(interpreter.prefix)), str(place)
    )


def copy_interpreter(interpreter: Interpreter, place: Path) -> None:
    """Copies the prefix, proves the copy, and puts it in place by one rename; nothing when it is there already.

    Raises: Unsupported when the copy does not run from its new place.
    """
    if place.is_dir():
        return
    prefix = Path(interpreter.prefix)
    library = f"python{interpreter.python}"
    place.parent.mkdir(parents=True, exist_ok=True)
    temp = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    try:
        for part in ("bin", "lib"):
            shutil.copytree(
                prefix / part,
                temp / part,
                symlinks=True,
                ignore=lambda folder, names: _left(prefix, library, folder, names),
            )
        (temp / "lib" / library / "site-packages").mkdir(exist_ok=True)
        open_to_read(temp)
        complaint = _point_to_itself(prefix, temp) or _complaint(interpreter, temp)
        if complaint:
            raise Unsupported(
                f"Python {interpreter.version} at {interpreter.path}",
                f"workers cannot reach it, and a copy of it does not stand by itself ({complaint}); "
                "install a Python for all users, as in /usr/bin",
            )
        temp.rename(place)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _point_to_itself(prefix: Path, copy: Path) -> str:
    """Turns library search paths from the old prefix to the copy; what went wrong, or nothing."""
    for path in (*(copy / "bin").iterdir(), *(copy / "lib").rglob("*.so*")):
        if path.is_file() and not path.is_symlink():
            try:
                point_to(path, str(prefix / "lib"), copy / "lib")
            except ValueError as error:
                return str(error)
    return ""


def _complaint(interpreter: Interpreter, copy: Path) -> str:
    """Why the copy is no Python of its own, or nothing: it must run, as the same version, without the old files."""
    executable = copied(interpreter, copy).path
    done = subprocess.run([executable, "-I", "-c", CHECK], capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip()
    version, base, maps = json.loads(done.stdout)
    if version != interpreter.version:
        return f"it runs as {version}"
    if os.path.realpath(base) != os.path.realpath(copy):
        return f"it takes its library from {base}"
    return f"it still loads files from {interpreter.prefix}" if f" {interpreter.prefix}/" in maps else ""


def open_to_read(root: Path) -> None:
    """Lets every uid read what lies there (and run what its owner may run); takes writing from all but the owner."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder), *(Path(folder) / name for name in names)):
            if not path.is_symlink():
                mode = path.stat().st_mode
                run = 0o055 if mode & stat.S_IXUSR else 0o044
                path.chmod((stat.S_IMODE(mode) | run) & ~0o022)


def _left(prefix: Path, library: str, folder: str, names: Iterable[str]) -> set[str]:
    """What is not copied: of `bin` all but the interpreter, of `lib` all but the library and shared objects."""
    here = Path(folder)
    if here == prefix / "bin":
        return {name for name in names if not name.startswith("python") or name.endswith("-config")}
    if here == prefix / "lib":
        return {name for name in names if name != library and not name.startswith("libpython")}
    return {name for name in names if name in LEFT_BEHIND or name.startswith("config-") or name.endswith(".a")}


def main(arguments: list[str]) -> int:
    """`python -m clary.images.interpreters copy VERSION PATH PREFIX PLACE`: the copy as a step of a build."""
    _, version, path, prefix, place = arguments
    try:
        copy_interpreter(Interpreter(version, path, prefix), Path(place))
    except Unsupported as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
