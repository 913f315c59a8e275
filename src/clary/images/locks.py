"""The lock files: which exact packages a framework release stands on, for which Python, with which hashes.

    locks/pins.json     framework -> version -> Python -> ["numpy==1.26.4", ...], transitively complete
    locks/hashes.json   pin -> ["sha256:...", ...]; read only when an environment is built

Made by `clary.images.relock`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "locks"
Pins = Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]]


@cache
def pins() -> Pins:
    """Framework -> version -> Python -> pins."""
    raw = json.loads((FOLDER / "pins.json").read_text())
    return {
        framework: {
            version: {python: tuple(found) for python, found in pythons.items()}
            for version, pythons in versions.items()
        }
        for framework, versions in raw.items()
    }


@cache
def hashes() -> Mapping[str, tuple[str, ...]]:
    """Pin -> its files' hashes."""
    raw = json.loads((FOLDER / "hashes.json").read_text())
    return {pin: tuple(values) for pin, values in raw.items()}
