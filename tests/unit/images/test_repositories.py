"""Which repositories bring torch into their environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from clary.images.repositories import needs_torch


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"a/config.pbtxt": 'platform: "onnxruntime_onnx"', "a/1/model.onnx": ""}, False),
        ({"a/1/model.pt": ""}, True),
        ({"a/config.pbtxt": 'platform : "pytorch_libtorch"', "a/1/net.ts": ""}, True),
        ({"a/config.pbtxt": "backend:'pytorch'"}, True),
        ({"e/config.pbtxt": 'platform: "ensemble"', "e/1/x": "", "b/config.pbtxt": 'backend: "pytorch"'}, True),
        ({"a/config.pbtxt": 'backend: "python"', "a/1/model.py": "import torch", "a/weights/model.pt": ""}, False),
    ],
)
def test_torchscript_is_seen_by_its_file_or_its_platform(tmp_path: Path, files: dict[str, str], expected: bool) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert needs_torch(tmp_path) is expected


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('backend: "pytorch"')
    repository = tmp_path / "repository"
    (repository / "a").mkdir(parents=True)
    (repository / "a" / "config.pbtxt").symlink_to(tmp_path / "secret")
    (repository / "b").symlink_to(tmp_path)
    assert not needs_torch(repository)
