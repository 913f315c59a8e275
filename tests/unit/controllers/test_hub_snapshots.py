"""Snapshots of models in a folder: by name, in huggingface_hub's cache, and never out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clary.controllers.artifacts import Artifacts
from clary.controllers.hub_snapshots import HubSnapshots
from clary.domain.endpoint import Container
from clary.domain.errors import Invalid


def container(**environment: str) -> Container:
    return Container("clary/huggingface", environment=environment)


@pytest.fixture
def find(tmp_path: Path) -> Any:
    """find(HF_MODEL_ID=..., ...) -> {relative name: text} of what a worker would see."""
    kept = tmp_path / "models"
    kept.mkdir()
    nothing: Any = None  # neither an object store nor an unpacker has a part in this
    snapshots = HubSnapshots(Artifacts(kept, nothing, nothing), str(tmp_path / "hub"))

    async def go(**environment: str) -> dict[str, str]:
        found = await snapshots.find(container(**environment), 1, lambda _text: None)
        assert found is not None
        assert found.folder.parent == kept
        return {
            str(path.relative_to(found.folder)): path.read_text()
            for path in sorted(found.folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    return go


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def test_a_name_is_a_folder_and_a_revision_another(tmp_path: Path, find: Any) -> None:
    write(tmp_path / "hub/org/model/config.json", "one")
    write(tmp_path / "hub/org/model@v2/config.json", "two")
    write(tmp_path / "hub/org/model@v2/onnx/model.onnx", "deep")
    assert await find(HF_MODEL_ID="org/model") == {"config.json": "one"}
    assert await find(HF_MODEL_ID="org/model", HF_MODEL_REVISION="v2") == {
        "config.json": "two",
        "onnx/model.onnx": "deep",
    }
    write(tmp_path / "hub/org/model/config.json", "changed")
    assert await find(HF_MODEL_ID="org/model") == {"config.json": "changed"}


async def test_the_cache_of_huggingface_hub_is_one(tmp_path: Path, find: Any) -> None:
    cached = tmp_path / "hub/models--org--model"
    write(cached / "blobs/b1", "weights")
    write(cached / "refs/main", "abc123\n")
    (cached / "snapshots/abc123").mkdir(parents=True)
    (cached / "snapshots/abc123/model.safetensors").symlink_to("../../blobs/b1")
    assert await find(HF_MODEL_ID="org/model") == {"model.safetensors": "weights"}
    assert await find(HF_MODEL_ID="org/model", HF_MODEL_REVISION="abc123") == {"model.safetensors": "weights"}
    with pytest.raises(Invalid, match=r"is not among the snapshots .* \(tried org/model@v9"):
        await find(HF_MODEL_ID="org/model", HF_MODEL_REVISION="v9")


async def test_a_link_out_of_the_place_is_refused(tmp_path: Path, find: Any) -> None:
    write(tmp_path / "secret", "key")
    (tmp_path / "hub/org/model").mkdir(parents=True)
    (tmp_path / "hub/org/model/config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(Invalid, match="is a link out of"):
        await find(HF_MODEL_ID="org/model")


async def test_without_a_place_and_without_a_name_it_says_so() -> None:
    nothing: Any = None
    snapshots = HubSnapshots(nothing, "")
    with pytest.raises(Invalid, match="the Hugging Face hub, which is not asked"):
        await snapshots.find(container(HF_MODEL_ID="org/model"), 1, lambda _text: None)
    assert await snapshots.find(container(HF_MODEL_ID="/opt/ml/model"), 1, lambda _text: None) is None
    assert await snapshots.find(container(), 1, lambda _text: None) is None
    with pytest.raises(Invalid, match="neither an s3:// prefix nor an absolute path"):
        await HubSnapshots(nothing, "models").find(container(HF_MODEL_ID="a/b"), 1, lambda _text: None)
