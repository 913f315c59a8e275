"""The extractor of functions' code: honest archives come out as they are, hostile ones touch nothing."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

SOURCE = str(Path(__file__).parents[3] / "src")
PROGRAM = f"import sys; sys.path.insert(0, {SOURCE!r}); from clary_worker.zip_archive import main; sys.exit(main())"


def unpack(folder: Path, content: bytes, max_bytes: int = 1 << 20) -> tuple[dict[str, Any], Path]:
    archive, target = folder / "code.zip", folder / "out"
    archive.write_bytes(content)
    target.mkdir()
    with archive.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM, str(file.fileno()), str(target), str(max_bytes)],
            pass_fds=[file.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    return json.loads(done.stdout), target


def packed(*entries: tuple[str, bytes, int]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, body)
    return content.getvalue()


def test_an_archive_comes_out_as_it_is(tmp_path: Path) -> None:
    made = packed(("app.py", b"x = 1\n", 0), ("lib/", b"", stat.S_IFDIR | 0o755), ("lib/run.sh", b"#!", 0o100755))
    told, target = unpack(tmp_path, made)
    assert told == {"files": 2, "bytes": 8}
    assert (target / "app.py").read_bytes() == b"x = 1\n"
    assert os.access(target / "lib" / "run.sh", os.X_OK)
    assert not os.access(target / "app.py", os.X_OK)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (packed(("../evil", b"x", 0)), "'..'"),
        (packed(("/etc/evil", b"x", 0)), "absolute"),
        (packed(("link", b"/etc/passwd", stat.S_IFLNK | 0o777)), "neither a file nor a folder"),
        (packed(("fifo", b"", stat.S_IFIFO | 0o666)), "neither a file nor a folder"),
        (packed(("/".join("a" * 40), b"x", 0)), "deeper"),
        (packed(("big", b"0" * (2 << 20), 0)), "unpacks to more than"),
        (b"PK nothing", "BadZipFile"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    told, target = unpack(tmp_path, content)
    assert why in told["error"]
    assert not [path for path in target.rglob("*") if path.is_file()]
    assert not (tmp_path / "evil").exists()


def test_an_entry_that_lies_about_its_size_is_cut_off(tmp_path: Path) -> None:
    made = bytearray(packed(("big", b"0" * (2 << 20), 0)))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = made.index(signature) + offset
        made[at : at + 4] = (10).to_bytes(4, "little")
    told, target = unpack(tmp_path, bytes(made))
    assert "error" in told
    assert sum(path.stat().st_size for path in target.rglob("*")) <= 1 << 20
