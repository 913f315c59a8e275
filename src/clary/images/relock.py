"""Makes the lock files anew from the catalogue: `python -m clary.images.relock [path to uv [framework ...]]`.

For every release and Python, `uv pip compile` resolves the direct pins from wheels alone and prints hashes. What
resolves is written to `locks/pins.json` (framework -> version -> Python -> pins); the hashes of each pinned package,
which many locks share, to `locks/hashes.json`. Needs a package index; takes some minutes. Run by people, never by
clary.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from clary.images.catalogue import FRAMEWORKS

LOCKS = Path(__file__).parent / "locks"
PIN = re.compile(r"^([A-Za-z0-9._-]+==[^\s\\]+)")
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def compile_lock(uv: str, requirements: tuple[str, ...], python: str) -> dict[str, list[str]] | str:
    """Pin -> hashes, or the resolver's complaint."""
    done = subprocess.run(
        (
            *(uv, "pip", "compile", "--quiet", "--only-binary", ":all:", "--generate-hashes", "--no-header"),
            *("--no-annotate", "--python-version", python, "-"),
        ),
        input="\n".join(requirements),
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()
    found: dict[str, list[str]] = {}
    pin = ""
    for line in done.stdout.splitlines():
        if match := PIN.match(line):
            pin = match[1]
            found[pin] = []
        found[pin].extend(HASH.findall(line))
    return found


def main(uv: str, names: list[str]) -> int:
    """Writes both files, anew for the frameworks named (all by default); returns 1 when a release does not resolve."""
    pins: dict[str, dict[str, dict[str, list[str]]]] = json.loads((LOCKS / "pins.json").read_text()) if names else {}
    hashes: dict[str, list[str]] = json.loads((LOCKS / "hashes.json").read_text()) if names else {}
    failed = 0
    for framework in FRAMEWORKS.values():
        if not framework.locked or framework.locked_as or (names and framework.name not in names):
            continue
        fresh: dict[str, dict[str, list[str]]] = {}
        for release in framework.releases:
            for python in release.pythons:
                found = compile_lock(uv, release.requirements(python), python)
                if isinstance(found, str):
                    print(f"{framework.name} {release.version} on {python}: {found}", file=sys.stderr)
                    failed = 1
                    continue
                print(f"{framework.name} {release.version} on {python}: {len(found)} packages", flush=True)
                fresh.setdefault(release.version, {})[python] = sorted(found)
                hashes.update({pin: sorted(set(values)) for pin, values in found.items()})
        pins[framework.name] = fresh
    used = {
        pin for versions in pins.values() for pythons in versions.values() for one in pythons.values() for pin in one
    }
    kept = {pin: values for pin, values in sorted(hashes.items()) if pin in used}
    (LOCKS / "pins.json").write_text(json.dumps(pins, indent=1) + "\n")
    (LOCKS / "hashes.json").write_text(json.dumps(kept, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "uv", sys.argv[2:]))
