"""The model server's own package, put into an environment's site-packages.

It is copied rather than installed: an environment outlives many versions of clary. Each version lies in a folder
named by its content, `clary_worker-<hash>`, and `clary_worker` is a link that is swapped by one rename, so that a
process which starts at that moment sees the old package or the new one. The folder before the last is kept for
processes that still import from it. Bytecode is compiled by the environment's own Python, as workers may not write
there.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import uuid
from pathlib import Path

from clary.domain.errors import NotFound, StoreFailed
from clary.images.interpreters import open_to_read
from clary.images.steps import Run, Step, run_step

NAME = "clary_worker"


def sync_worker_package(env_dir: Path, *, source: Path | None = None, run: Run = run_step) -> bool:
    """Makes the environment's clary_worker the one of this clary; True when it was another. Twice is fine.

    Raises: NotFound when there is no environment or no package, StoreFailed when compiling fails.
    """
    source = source or worker_source()
    site = site_packages(env_dir)
    target = f"{NAME}-{content_hash(source)[:32]}"
    link = site / NAME
    if link.is_symlink() and os.readlink(link) == target:
        return False
    before = os.readlink(link) if link.is_symlink() else None
    if not (site / target).is_dir():
        temp = site / f".{target}.{uuid.uuid4().hex}"
        try:
            shutil.copytree(source, temp, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            _compile(env_dir, temp, run)
            open_to_read(temp)
            _rename(temp, site / target)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
    fresh = site / f".{NAME}.{uuid.uuid4().hex}"
    fresh.symlink_to(target)
    fresh.replace(link)
    for old in site.glob(f"{NAME}-*"):
        if old.name not in (target, before):
            shutil.rmtree(old, ignore_errors=True)
    return True


def _rename(temp: Path, folder: Path) -> None:
    """`folder` is there afterwards, made by us or, at the same moment, by another clary that shares the environment."""
    try:
        temp.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def worker_source() -> Path:
    """Where this clary's own copy lies; found, not imported."""
    spec = importlib.util.find_spec(NAME)
    if spec is None or spec.origin is None:
        raise NotFound("package", NAME)
    return Path(spec.origin).parent


def site_packages(env_dir: Path) -> Path:
    """The environment's site-packages. Raises: NotFound."""
    for folder in sorted((env_dir / "lib").glob("python3.*/site-packages")):
        return folder
    raise NotFound("environment", str(env_dir))


def content_hash(folder: Path) -> str:
    """Over every file's name and bytes, bytecode left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            data = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def _compile(env_dir: Path, folder: Path, run: Run) -> None:
    lines: list[str] = []
    step = Step(
        "compile clary_worker",
        (
            str(env_dir / "bin" / "python"),
            "-I",
            "-S",  # no .pth file of a user's package runs as whoever builds
            "-m",
            "compileall",
            "-q",
            "-s",
            str(folder),
            "-p",
            str(folder.parent / NAME),
            str(folder),
        ),
        {"PATH": os.defpath},
        env_dir,
        1,
    )
    status = run(step, lines.append)
    if status:
        raise StoreFailed(step.label, detail=f"exit {status}\n" + "\n".join(lines[-20:]))
