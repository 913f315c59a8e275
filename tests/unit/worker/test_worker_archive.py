"""The extractor of archives that nobody trusts: honest ones come out as they are, hostile ones touch nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "src" / "clary_worker" / "archive.py"


def file(name: str, content: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    return entry, content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    return entry, b""


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., tuple[dict[str, object], Path]]:
    def run(
        entries: list[tuple[tarfile.TarInfo, bytes]], max_bytes: int = 1 << 20, mode: str = "w:gz", *flags: str
    ) -> tuple[dict[str, object], Path]:
        archive = tmp_path / "a.tar.gz"
        with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
            for entry, content in entries:
                tar.addfile(entry, io.BytesIO(content))
        out = tmp_path / "out"
        out.mkdir()
        (tmp_path / "canary").write_text("alive")
        descriptor = os.open(archive, os.O_RDONLY)
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(PROGRAM), str(descriptor), str(out), str(max_bytes), *flags],
                pass_fds=[descriptor],
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            os.close(descriptor)
        assert (tmp_path / "canary").read_text() == "alive"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "canary", "out"]
        return json.loads(done.stdout.splitlines()[-1]), out

    return run


Unpack = Callable[..., tuple[dict[str, object], Path]]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_folders_and_links_come_out(unpack: Unpack, mode: str) -> None:
    entries = [file("./model.bin", b"weights"), file("code/serve", b"#!", 0o755), link("latest", "model.bin")]
    told, out = unpack([*entries, link("copy", "model.bin", tarfile.LNKTYPE)], 1 << 20, mode)
    assert told == {"files": 3, "bytes": 16}
    assert (out / "model.bin").read_bytes() == b"weights"
    assert (out / "copy").read_bytes() == b"weights"
    assert os.readlink(out / "latest") == "model.bin"
    assert os.access(out / "code" / "serve", os.X_OK)
    assert not os.access(out / "model.bin", os.X_OK) or os.geteuid() == 0
    assert (out / "copy").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([file("../canary", b"dead")], "'..'"),
        ([file("/etc/canary", b"dead")], "absolute"),
        ([file("a/../../canary", b"dead")], "'..'"),
        ([link("out", ".."), file("out/canary", b"dead")], "leaves the archive"),
        ([link("d", "."), link("d2", "d/.."), file("x")], "through another link"),
        ([link("x", "/etc/passwd")], "leaves the archive"),
        ([link("x", "../canary", tarfile.LNKTYPE)], "'..'"),
        ([link("x", "nothing", tarfile.LNKTYPE)], "has not brought"),
        ([special("null", tarfile.CHRTYPE)], "neither a file"),
        ([special("pipe", tarfile.FIFOTYPE)], "neither a file"),
        ([file("n" * 256)], "255 bytes"),
        ([file("/".join("d" * 40))], "deeper than"),
        ([file("big", b"0" * (2 << 20))], "more than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_archives_are_refused(unpack: Unpack, entries: list[tuple[tarfile.TarInfo, bytes]], why: str) -> None:
    told, _ = unpack(entries)
    assert why in str(told["error"])


def test_a_folder_that_became_a_link_is_not_followed(unpack: Unpack) -> None:
    folder = tarfile.TarInfo("d")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    told, out = unpack([(folder, b""), link("e", "d"), file("e/x", b"1")])
    assert "error" in told or not (out / "d" / "x").exists()


def test_strict_refuses_symlinks_as_aws_does(unpack: Unpack) -> None:
    told, _ = unpack([file("a"), link("b", "a")], 1 << 20, "w:gz", "--strict")
    assert "--strict" in str(told["error"])


def test_a_broken_archive_is_told_not_raised(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x1f\x8bnot gzip at all")
    (tmp_path / "out").mkdir()
    with (tmp_path / "a").open("rb") as archive:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(PROGRAM), str(archive.fileno()), str(tmp_path / "out"), "1000"],
            pass_fds=[archive.fileno()],
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "error" in json.loads(done.stdout)
