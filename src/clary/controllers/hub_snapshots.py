"""The files of the model that a container's HF_MODEL_ID names: fetched below a prefix, or copied from a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clary.controllers.artifacts import Artifacts
from clary.domain.endpoint import Container, DataSource
from clary.domain.errors import Invalid
from clary.domain.hub_model import SETTING, HubModel, absent, hub_model_of, prefix_of


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's folder, where it came from, and what its files were then."""

    folder: Path
    uri: str
    etag: str


class HubSnapshots:
    """Looks in one place, named by the setting: an object-store prefix or a folder of this machine."""

    def __init__(self, artifacts: Artifacts, place: str) -> None:
        self._artifacts = artifacts
        self._place = place

    async def find(self, container: Container, volume_gib: int, progress: Callable[[str], None]) -> Snapshot | None:
        """What HF_MODEL_ID names, None when that is the model data. Raises: Invalid when it is not there."""
        if prefix := prefix_of(container.image, container.environment):
            progress(f"fetching {prefix}")
            return await self._below(prefix, volume_gib)
        model = hub_model_of(container.image, container.environment)
        if model is None:
            return None
        progress(f"fetching {model.folder}")
        if not self._place:
            raise Invalid("HF_MODEL_ID", absent(model, "", ()))
        if self._place.startswith("s3://"):
            tried = f"{self._place.rstrip('/')}/{model.folder}/"
            if not await self._artifacts.any_below(tried):
                raise Invalid("HF_MODEL_ID", absent(model, self._place, (tried,)))
            return await self._below(tried, volume_gib)
        return await self._in_folder(model)

    async def _below(self, prefix: str, volume_gib: int) -> Snapshot:
        folder, etag = await self._artifacts.fetch(DataSource(prefix, compressed=False, prefix=True), volume_gib)
        return Snapshot(folder, prefix, etag)

    async def _in_folder(self, model: HubModel) -> Snapshot:
        root = Path(self._place)
        if not root.is_absolute():
            raise Invalid(SETTING, f"{self._place} is neither an s3:// prefix nor an absolute path")
        candidates = (root / model.folder, _cached(root / model.cache_folder, model.revision))
        found = next((one for one in candidates if one.is_dir()), None)
        if found is None:
            tried = tuple(str(one.relative_to(root)) for one in candidates)
            raise Invalid("HF_MODEL_ID", absent(model, self._place, tried))
        folder, etag = await self._artifacts.copy_folder(found, root)
        return Snapshot(folder, str(found), etag)


def _cached(folder: Path, revision: str) -> Path:
    """The snapshot that huggingface_hub keeps of a revision: refs/NAME holds the commit of a branch or tag."""
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    return folder / "snapshots" / commit.rpartition("/")[2]
