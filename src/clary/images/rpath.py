"""Library search paths inside copied programs.

A CPython built with `--enable-shared` carries the absolute path of its `libpython` folder (DT_RPATH or DT_RUNPATH). A
copy would keep loading the library from the old place, and where that may not be read, fall back to whatever the system
has under the same name: another patch release, with missing symbols. So the path is overwritten in the copy by one
relative to the file itself (`$ORIGIN/...`), in place, which works because it is shorter.

Only the few fields of the ELF64 format that this needs are read (System V ABI, "Dynamic Linking").
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, cast

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 5, 15, 29


def point_to(path: Path, old: str, folder: Path) -> bool:
    """Makes an ELF file that searches libraries in `old` search in `folder` instead; True when it did.

    Raises: ValueError when the new path does not fit into the place of the old.
    """
    with path.open("r+b") as file:
        data = file.read(64)
        if data[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian: what clary runs on
            return False
        found = _search_path(cast(BinaryIO, file), data)
        if found is None:
            return False
        offset, text = found
        parts = text.decode().split(":")
        relative = "$ORIGIN/" + os.path.relpath(folder, path.parent)
        changed = [relative if os.path.normpath(part) == os.path.normpath(old) else part for part in parts]
        if changed == parts:
            return False
        new = ":".join(changed).encode()
        if len(new) > len(text):
            raise ValueError(f"{path}: no room for {new.decode()} in the place of {text.decode()}")
        file.seek(offset)
        file.write(new.ljust(len(text), b"\0"))
    return True


def _search_path(file: BinaryIO, header: bytes) -> tuple[int, bytes] | None:
    """(file offset, text) of the search path."""

    def at(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    (program_offset,) = struct.unpack_from("<Q", header, 32)
    entry_size, count = struct.unpack_from("<HH", header, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic = b""
    for index in range(count):
        raw = at(program_offset + index * entry_size, 56)
        kind, _, offset, address, _, file_size = struct.unpack_from("<IIQQQQ", raw)
        if kind == PT_LOAD:
            loads.append((address, offset, file_size))
        elif kind == PT_DYNAMIC:
            dynamic = at(offset, file_size)
    tags: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<qQ", dynamic[: len(dynamic) // 16 * 16]):
        if tag == DT_NULL:
            break
        tags[tag] = value
    place = tags.get(DT_RUNPATH, tags.get(DT_RPATH))
    if place is None or DT_STRTAB not in tags:
        return None
    for address, offset, size in loads:
        if address <= tags[DT_STRTAB] < address + size:
            start = tags[DT_STRTAB] - address + offset + place
            return start, at(start, 4096).partition(b"\0")[0]
    return None
