"""Where the files of the model are that HF_MODEL_ID names: no hub is asked, so below a prefix or among snapshots.

HF_MODEL_ID=s3://bucket/prefix/      the objects below that prefix
HF_MODEL_ID=org/model                the same below the setting `hugging_face_models`, a prefix or a folder:
                                     org/model/, with HF_MODEL_REVISION=v2 org/model@v2/,
                                     and in a folder also what huggingface_hub keeps: models--org--model/snapshots/
HF_MODEL_ID=/opt/ml/model[/folder]   the model data that came with the container
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clary.domain.errors import Invalid

SETTING = "hugging_face_models"
# `org/model` or `model`, as huggingface_hub validates them; no part begins with a dot, so none leads out of a folder.
NAME = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")
REVISION = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")
DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub by its name. `revision` is a branch, a tag or a commit."""

    name: str
    revision: str = DEFAULT_REVISION

    @property
    def folder(self) -> str:
        """Its folder below a place of snapshots, as "org/model" or "org/model@v2"."""
        return self.name if self.revision == DEFAULT_REVISION else f"{self.name}@{self.revision}"

    @property
    def cache_folder(self) -> str:
        """Its folder in a cache of huggingface_hub."""
        return "models--" + self.name.replace("/", "--")


def is_hugging_face(image: str) -> bool:
    """Whether an image is one whose containers look at HF_MODEL_ID, by its repository's name."""
    repository = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return repository.startswith("huggingface")


def prefix_of(image: str, environment: Mapping[str, str]) -> str:
    """The object-store prefix that HF_MODEL_ID is, ending in "/"; "" when it is something else."""
    named = environment.get("HF_MODEL_ID", "")
    if not named.startswith("s3://") or not is_hugging_face(image):
        return ""
    return named.rstrip("/") + "/"


def hub_model_of(image: str, environment: Mapping[str, str]) -> HubModel | None:
    """The hub's model that HF_MODEL_ID names; None when it is absent, a prefix or a path.

    Raises: Invalid for what is no name of a model or a revision.
    """
    named = environment.get("HF_MODEL_ID", "")
    if not named or named.startswith(("s3://", "/")) or not is_hugging_face(image):
        return None
    if NAME.match(named) is None:
        raise Invalid("HF_MODEL_ID", f'"{named}" is neither org/model, nor s3://bucket/prefix/, nor /opt/ml/model')
    revision = environment.get("HF_MODEL_REVISION", "") or DEFAULT_REVISION
    if REVISION.match(revision) is None:
        raise Invalid("HF_MODEL_REVISION", f'"{revision}" is no branch, tag or commit of a model')
    return HubModel(named, revision)


def absent(model: HubModel, place: str, tried: tuple[str, ...]) -> str:
    """Why there is no such model, and what to do."""
    what = f'HF_MODEL_ID "{model.name}"' + ("" if model.revision == DEFAULT_REVISION else f" at {model.revision}")
    put = "upload its files and set HF_MODEL_ID=s3://bucket/prefix/"
    if not place:
        return (
            f"{what} names a model of the Hugging Face hub, which is not asked: {put}, "
            f"or keep snapshots in a place named by the setting {SETTING} (CLARY_{SETTING.upper()})"
        )
    return f"{what} is not among the snapshots of {place} (tried {', '.join(tried)}): put it there, or {put}"
