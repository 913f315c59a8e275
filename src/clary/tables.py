"""Checksummed JSON tables: how control tells the supervisor and the proxy what is wanted; they keep the last good one.

A table is replaced by rename and carries the SHA-256 of its body, so a reader sees the old one, the new one, or
refuses a torn one. Standard library only: the supervisor and the proxy read it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from clary.paths import replace_file


class TornTable(ValueError):
    """The file is not a whole table: keep the last good one."""


def write(path: Path, body: dict[str, Any]) -> None:
    """Publishes `body`; mode 0600, since tables hold environments and keys."""
    text = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    replace_file(path, digest + b"\n" + text + b"\n")


def read(path: Path) -> dict[str, Any]:
    """The table's body; {} when there is none yet.

    Raises: TornTable when the checksum does not fit.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    digest, _, text = raw.partition(b"\n")
    text = text.removesuffix(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise TornTable(f"{path}: the checksum does not fit its {len(raw)} bytes")
    body: dict[str, Any] = json.loads(text)
    return body
