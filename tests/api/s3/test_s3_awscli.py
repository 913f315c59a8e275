"""The aws command, unmodified."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

AWS = Path(sys.executable).parent / "aws"

pytestmark = pytest.mark.skipif(not AWS.exists(), reason="awscli is not installed beside this Python")


def aws(served: Served, *arguments: str, data: bytes | None = None) -> str:
    done = subprocess.run(
        [str(AWS), *arguments], input=data, capture_output=True, env=served.environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_of_two_hundred_files_goes_there_and_back(served: Served, tmp_path: Path) -> None:
    bucket, source, target = served.new_name(), tmp_path / "source", tmp_path / "target"
    for number in range(200):
        file = source / f"sub {number % 7}" / f"file+{number}é.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(number * 37))
    (source / "large").write_bytes(os.urandom(9 * 1024 * 1024))
    aws(served, "s3", "mb", f"s3://{bucket}")
    aws(served, "s3", "sync", "--quiet", str(source), f"s3://{bucket}/deep/er")
    assert aws(served, "s3", "sync", str(source), f"s3://{bucket}/deep/er") == ""  # nothing left to do
    aws(served, "s3", "sync", "--quiet", f"s3://{bucket}/deep/er", str(target))
    assert contents(target) == contents(source)
    assert "PRE sub 0/" in aws(served, "s3", "ls", f"s3://{bucket}/deep/er/")
    aws(served, "s3", "rb", "--force", f"s3://{bucket}")
    assert bucket not in aws(served, "s3", "ls")


def test_a_file_is_copied_through_pipes_and_moved(served: Served, tmp_path: Path) -> None:
    bucket = served.new_name()
    aws(served, "s3", "mb", f"s3://{bucket}")
    aws(served, "s3", "cp", "-", f"s3://{bucket}/piped", data=b"from a pipe")
    aws(served, "s3", "mv", f"s3://{bucket}/piped", f"s3://{bucket}/moved")
    assert aws(served, "s3", "cp", f"s3://{bucket}/moved", "-") == "from a pipe"
    assert "piped" not in aws(served, "s3", "ls", f"s3://{bucket}")
    assert '"ContentLength": 11' in aws(served, "s3api", "head-object", "--bucket", bucket, "--key", "moved")
