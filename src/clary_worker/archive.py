"""Unpacks a model archive that nobody trusts: `python -I -S archive.py ARCHIVE_FD DESTINATION MAX_BYTES [--strict]`.

`tarfile`'s own filters have been got around more than once (CVE-2025-4517 and its kin), so tarfile only parses here
and every file is made by us: folders and regular files opened relative to a folder descriptor with O_NOFOLLOW and
O_EXCL, so that no link on the way is ever followed; hard links become copies; symlinks are kept aside and made last,
only relative ones that stay inside. Everything else is refused, and so is an archive over one of the caps.

Runs in the worker's jail under the worker's uid. Prints one JSON line: {"files": n, "bytes": n} or {"error": text}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
from typing import IO, Any, Dict, Iterator, List, Tuple

MAX_ENTRIES = 100_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
MAX_RATIO = 200  # unpacked bytes for one packed byte
RATIO_FREE_BYTES = 64 * 1024 * 1024  # small archives may be as dense as they like
CHUNK_BYTES = 1 << 20


class Refused(ValueError):
    """The archive breaks a rule; the text names the entry and the rule."""


class _Counted(io.RawIOBase):
    """The packed stream, counting what was read of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray") -> int:  # type: ignore[override]
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


def parts_of(name: str) -> Tuple[str, ...]:
    """The path components of an entry's name. Raises: Refused when the name could lead outside."""
    if "\0" in name:
        raise Refused("entry %r: a NUL in the name" % name)
    if name.startswith("/"):
        raise Refused("entry %r: an absolute path" % name)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Refused("entry %r: '..' in the path" % name)
    if len(parts) > MAX_DEPTH:
        raise Refused("entry %r: deeper than %d folders" % (name, MAX_DEPTH))
    for part in parts:
        if len(os.fsencode(part)) > MAX_NAME_BYTES:
            raise Refused("entry %r: a name over %d bytes" % (name, MAX_NAME_BYTES))
    return parts


def stays_inside(link: Tuple[str, ...], target: str) -> bool:
    """Whether a symlink at `link` pointing to `target` resolves, by text alone, to a place inside the root."""
    if not target or target.startswith("/") or "\0" in target:
        return False
    depth = len(link) - 1
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return False
        elif part not in ("", "."):
            depth += 1
    return True


def extract(descriptor: int, destination: str, max_bytes: int, strict: bool = False) -> Dict[str, int]:
    """Unpacks the tar (plain, gzip, bzip2 or xz) read from `descriptor` into the empty folder `destination`.

    Raises: Refused (a rule), tarfile.TarError or OSError (a broken archive, a full disk).
    """
    source = _Counted(descriptor)
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    entries = written = 0
    links: List[Tuple[Tuple[str, ...], str]] = []
    files: Dict[Tuple[str, ...], int] = {}
    try:
        packed: Any = io.BufferedReader(source, CHUNK_BYTES)  # type: ignore[type-var, unused-ignore]
        with tarfile.open(fileobj=packed, mode="r|*") as archive:
            for entry in archive:
                entries += 1
                if entries > MAX_ENTRIES:
                    raise Refused("more than %d entries" % MAX_ENTRIES)
                parts = parts_of(entry.name)
                if entry.isdir():
                    os.close(_folder(root, parts))
                elif entry.isreg():
                    if not parts:
                        raise Refused("entry %r: a file without a name" % entry.name)
                    if written + entry.size > max_bytes:
                        raise Refused("unpacks to more than %d bytes; give the variant a larger volume" % max_bytes)
                    stream = archive.extractfile(entry)
                    if stream is None:
                        raise Refused("entry %r: no content" % entry.name)
                    for block in _write(root, parts, stream, entry.mode):
                        written += block
                        if written > max_bytes:
                            raise Refused("unpacks to more than %d bytes" % max_bytes)
                        if written > RATIO_FREE_BYTES and written > MAX_RATIO * max(source.count, 1):
                            raise Refused("unpacks to more than %d times its packed size" % MAX_RATIO)
                    files[parts] = entry.mode
                elif entry.islnk():
                    written += _copy(root, parts, parts_of(entry.linkname), files)
                    files[parts] = entry.mode
                elif entry.issym():
                    if strict:
                        raise Refused("entry %r: a symlink (refused by --strict, as on AWS)" % entry.name)
                    if not parts or not stays_inside(parts, entry.linkname):
                        raise Refused("entry %r: a symlink that leaves the archive (%r)" % (entry.name, entry.linkname))
                    links.append((parts, entry.linkname))
                else:
                    raise Refused("entry %r: neither a file, a folder nor a link" % entry.name)
        _make_links(root, destination, links)
    finally:
        os.close(root)
    return {"files": len(files), "bytes": written}


def _folder(root: int, parts: Tuple[str, ...]) -> int:
    """A descriptor of the folder `parts`, made where it lacks; no link is followed on the way."""
    here = os.dup(root)
    try:
        for part in parts:
            # An earlier entry may have made it; the open below refuses anything but a real folder.
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
    except OSError:
        os.close(here)
        raise
    return here


def _create(root: int, parts: Tuple[str, ...], mode: int) -> int:
    folder = _folder(root, parts[:-1])
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=folder)  # a later entry of the same name wins, as in tar
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(parts[-1], flags, 0o755 if mode & 0o100 else 0o644, dir_fd=folder)
    finally:
        os.close(folder)


def _write(root: int, parts: Tuple[str, ...], stream: IO[bytes], mode: int) -> Iterator[int]:
    out = _create(root, parts, mode)
    try:
        while True:
            block = stream.read(CHUNK_BYTES)
            if not block:
                return
            view = memoryview(block)
            while view:
                view = view[os.write(out, view) :]
            yield len(block)
    finally:
        os.close(out)


def _copy(root: int, parts: Tuple[str, ...], target: Tuple[str, ...], files: Dict[Tuple[str, ...], int]) -> int:
    if target not in files:
        raise Refused("hard link %r to %r, which the archive has not brought" % ("/".join(parts), "/".join(target)))
    folder = _folder(root, target[:-1])
    try:
        source = os.open(target[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    with os.fdopen(source, "rb") as stream:
        return sum(_write(root, parts, stream, files[target]))


def _make_links(root: int, destination: str, links: List[Tuple[Tuple[str, ...], str]]) -> None:
    for parts, target in links:
        folder = _folder(root, parts[:-1])
        try:
            os.symlink(target, parts[-1], dir_fd=folder)
        finally:
            os.close(folder)
    # By text every link stays inside; through other links it might still not, so each is resolved once more.
    top = os.path.realpath(destination)
    for parts, target in links:
        place = os.path.realpath(os.path.join(destination, *parts))
        if place != top and not place.startswith(top + os.sep):
            raise Refused("symlink %r (%r) leaves the archive through another link" % ("/".join(parts), target))


def tell(descriptor: int, destination: str, max_bytes: int, strict: bool = False) -> int:
    """Unpacks, prints what came of it, and returns the exit code."""
    os.umask(0o022)
    try:
        told: Dict[str, object] = dict(extract(descriptor, destination, max_bytes, strict))
    except (Refused, tarfile.TarError, EOFError, OSError, ValueError) as error:
        told = {"error": "%s: %s" % (type(error).__name__, error)}
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if "error" in told else 0


def main() -> int:
    return tell(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "--strict" in sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
