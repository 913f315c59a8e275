"""Unpacks a function's code that nobody trusts: `main` with the arguments ARCHIVE_FD DESTINATION MAX_BYTES.

`zipfile` only parses; files are made as in `archive`, whose rules hold here, too: no link is ever followed on the way,
nothing lies outside, caps on entries, depth, size and density. Symlinks are refused.

Runs in a jail under a uid of its own. Prints one JSON line: {"files": n, "bytes": n} or {"error": text}.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import zipfile
from typing import Dict

from clary_worker import archive as rules


def extract(descriptor: int, destination: str, max_bytes: int) -> Dict[str, int]:
    """Unpacks the zip open at `descriptor` into the empty folder `destination`. Raises: as `archive.extract`."""
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    count = written = 0
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as packed:
            entries = packed.infolist()
            if len(entries) > rules.MAX_ENTRIES:
                raise rules.Refused("more than %d entries" % rules.MAX_ENTRIES)
            if sum(entry.file_size for entry in entries) > max_bytes:
                raise rules.Refused("unpacks to more than %d bytes" % max_bytes)
            for entry in entries:
                parts = rules.parts_of(entry.filename)
                mode = entry.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise rules.Refused("entry %r: neither a file nor a folder" % entry.filename)
                if entry.is_dir():
                    os.close(rules._folder(root, parts))
                    continue
                if not parts:
                    raise rules.Refused("entry %r: a file without a name" % entry.filename)
                with packed.open(entry) as stream:
                    for block in rules._write(root, parts, stream, mode or 0o644):
                        written += block
                        if written > max_bytes:  # an entry may hold more than it says
                            raise rules.Refused("unpacks to more than %d bytes" % max_bytes)
                count += 1
    finally:
        os.close(root)
    return {"files": count, "bytes": written}


def main() -> int:
    descriptor, destination, max_bytes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.umask(0o022)
    try:
        told: Dict[str, object] = dict(extract(descriptor, destination, max_bytes))
    except (rules.Refused, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        told = {"error": "%s: %s" % (type(error).__name__, error)}
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if "error" in told else 0
