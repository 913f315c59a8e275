"""A model repository: which model answers, what it needs, and all of that loaded.

    MODEL/config.pbtxt, MODEL/VERSION/model.onnx | model.pt | model.py | model.xml

The model is SAGEMAKER_TRITON_DEFAULT_MODEL_NAME or, without that, the only folder. Models of an ensemble's steps are
loaded before it. Where a Python model is among them, the other folders are loaded as well, as its code may call them;
one of those that fails is told in the note and is fatal to nobody.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..contract import LoadError
from . import onnx_backend, openvino_backend, python_backend, pytorch_backend
from .calls import Meta
from .config import FILENAMES, ModelConfig, read
from .ensemble import Ensemble
from .errors import InferError
from .model import Model
from .textformat import MAX_CHARS

VARIABLE = "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME"
CONFIG = "config.pbtxt"
CODE = "code"  # of the archive: requirements.txt, and no model


def default_model(folder: str, environ: Dict[str, str]) -> Tuple[str, str]:
    """(the model that answers, a note or ""). Raises: LoadError in the words of SageMaker's Triton image."""
    if os.path.exists(os.path.join(folder, CONFIG)):
        raise LoadError(
            "Incorrect directory structure. Model directory needs to contain the top level folder",
            "pack the folder that holds config.pbtxt, not what is inside it",
        )
    named = environ.get(VARIABLE, "")
    found = models_in(folder)
    if named:
        if named not in found:
            raise LoadError(
                "Directory with provided %s %s does not exist" % (VARIABLE, named),
                "the archive holds: %s" % (", ".join(found) or "no folder"),
            )
        return named, ""
    if not found:
        raise LoadError("No model found in model repository", "the archive needs MODEL/config.pbtxt and MODEL/1/")
    if len(found) > 1:
        raise LoadError(
            "More than 1 model directory found in model repository. Either provide a single directory or set %s to run "
            "the ensemble backend. Directories found in model repository: %s" % (VARIABLE, " ".join(found)),
            "set %s in the model's Environment" % VARIABLE,
        )
    return found[0], "No %s provided. Starting with the only existing model directory %s" % (VARIABLE, found[0])


def models_in(folder: str) -> List[str]:
    """The names of the folders that may be models."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [name for name in names if name != CODE or os.path.isfile(os.path.join(folder, name, CONFIG))]


class Repository:
    """The loaded models of one folder. Nothing runs before `open`. `joins` False: no call is joined with another."""

    def __init__(self, folder: str, threads: int, joins: bool = True) -> None:
        self._folder = folder
        self._threads = threads
        self._joins = joins
        self._models: Dict[str, Dict[int, Any]] = {}  # name -> version -> model
        self._python_folders: List[str] = []
        self.notes: List[str] = []

    def load(self, name: str) -> Any:
        """The newest version of a model, loaded with all that it needs. Raises: LoadError."""
        self._load(name, ())
        if self._python_folders:
            for other in models_in(self._folder):
                self._load_other(other)
        return self._newest(name)

    def open(self, loop: Any) -> None:
        for versions in self._models.values():
            for model in versions.values():
                model.open(loop)

    def close(self) -> None:
        """Finalizes the models, those that others need last."""
        for versions in reversed(list(self._models.values())):
            for model in versions.values():
                model.close()

    def _newest(self, name: str) -> Any:
        versions = self._models[name]
        return versions[max(versions)]

    def _load_other(self, name: str) -> None:
        if name in self._models:
            return
        try:
            self._load(name, ())
        except LoadError as error:
            self.notes.append("model '%s' is not served: %s" % (name, error.reason))

    def _load(self, name: str, way: Tuple[str, ...]) -> None:
        """`way`: the ensembles that led here."""
        if name in self._models:
            return
        if name in way:
            raise LoadError(
                "circular dependency between ensembles: %s" % " -> ".join((*way, name)), "let no ensemble need itself"
            )
        folder = os.path.join(self._folder, name)
        config = configuration(folder, name)
        for step in config.steps:
            if step.model_name not in models_in(self._folder):
                raise LoadError(
                    "ensemble '%s' depends on '%s' which has no folder in the repository" % (name, step.model_name),
                    "add the model's folder to the archive",
                )
            self._load(step.model_name, (*way, name))
        versions = config.versions.choose(versions_in(folder))
        if not versions:
            raise LoadError(
                "at least one version must be available under the version policy of model '%s'" % name,
                "put the model's file into %s/1/" % name,
            )
        loaded: Dict[int, Any] = {}
        for version in versions:
            loaded[version] = self._version(config, os.path.join(folder, str(version)), version)
        self.notes += loaded[versions[0]].config.notes
        self._models[name] = loaded

    def _version(self, config: ModelConfig, folder: str, version: int) -> Any:
        if config.backend == "ensemble":
            return Ensemble(config, version, [self._member(config.name, step) for step in config.steps])
        threads = max(1, self._threads // config.instances)
        if config.backend == "onnxruntime":
            config, instances, loader = onnx_backend.load(config, folder, threads)
        elif config.backend == "pytorch":
            config, instances, loader = pytorch_backend.load(config, folder, threads)
        elif config.backend == "python":
            config, instances, loader = python_backend.load(config, folder, version, self._python_folders, self._infer)
        else:
            config, instances, loader = openvino_backend.load(config, folder, threads)
        return Model(config if self._joins else replace(config, batching=None), version, instances, loader)

    def _member(self, ensemble: str, step: Any) -> Any:
        if step.version < 0:
            return self._newest(step.model_name)
        found = self._models[step.model_name].get(step.version)
        if found is None:
            raise LoadError(
                "ensemble '%s' depends on '%s' version %d, which is not loaded"
                % (ensemble, step.model_name, step.version),
                "see version_policy of '%s'" % step.model_name,
            )
        return found

    def _infer(
        self, name: str, version: int, tensors: Dict[str, Any], outputs: Optional[Sequence[str]], meta: Meta
    ) -> Dict[str, Any]:
        """Another model's outputs, for Python models. Raises: InferError."""
        versions = self._models.get(name)
        if versions is None:
            raise InferError("Failed for execute the inference request. Model '%s' is not ready." % name)
        model = versions.get(version) if version > 0 else versions[max(versions)]
        if model is None:
            raise InferError(
                "Failed for execute the inference request. Model '%s', version %d is not ready." % (name, version)
            )
        found: Dict[str, Any] = model.infer(tensors, outputs, meta)
        return found


def versions_in(folder: str) -> List[int]:
    """The folders of versions: those named by a whole number above 0."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return [int(name) for name in names if name.isdigit() and name == str(int(name)) and name != "0"]


def configuration(folder: str, name: str) -> ModelConfig:
    """What config.pbtxt says, with the backend told by the files where it does not. Raises: LoadError."""
    path = os.path.join(folder, CONFIG)
    given = os.path.isfile(path)
    config = read(_text(path), name, path) if given else ModelConfig(name)
    if config.backend:
        return config
    files = _files(folder)
    for backend, filename in FILENAMES.items():
        if (config.filename or filename) in files and (not config.filename or config.filename.endswith(filename[5:])):
            if not given and backend not in ("onnxruntime", "python"):
                raise LoadError(
                    "model '%s' has no config.pbtxt, and %s does not tell its inputs and outputs" % (name, filename),
                    "add %s/config.pbtxt" % name,
                )
            return replace(config, backend=backend)
    raise LoadError(
        "model '%s': %s, and no file tells the backend; its versions hold %s"
        % (
            name,
            "config.pbtxt names neither platform nor backend" if given else "there is no config.pbtxt",
            ", ".join(files) or "nothing",
        ),
        "name the backend in %s/config.pbtxt: onnxruntime, pytorch, python, openvino or ensemble" % name,
    )


def _text(path: str) -> str:
    with open(path, "rb") as file:
        raw = file.read(MAX_CHARS + 1)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(
            "failed to read text proto from %s: it is no UTF-8 (%s)" % (path, error), "save it as UTF-8"
        ) from error


def _files(folder: str) -> List[str]:
    """The names in the newest version's folder."""
    versions = versions_in(folder)
    return sorted(os.listdir(os.path.join(folder, str(max(versions))))) if versions else []
