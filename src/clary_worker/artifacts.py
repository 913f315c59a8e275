"""Which file of a model archive is the model, told by names and first bytes, before anything is loaded.

A kind is a way of loading: "pickle", "skops", "xgboost", "xgboost-legacy", "lightgbm", "onnx", "torch". Names alone
do not decide where one name serves several formats (xgboost-model, .bin, .json, .txt): there the first bytes do.
"""

from __future__ import annotations

import os
import re
from typing import List, NamedTuple

from .contract import LoadError

_SUFFIXES = {
    ".joblib": "pickle",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".skops": "skops",
    ".onnx": "onnx",
    ".pt": "torch",
    ".pth": "torch",
    ".ts": "torch",
    ".torchscript": "torch",
}
_SNIFFED = frozenset((".json", ".ubj", ".model", ".bin", ".xgb", ".txt", ".lgb", ".deprecated", ""))
_HEAD_BYTES = 8192

# What an environment serves first when an archive holds several kinds.
_OF_FRAMEWORK = {
    "sklearn": ("pickle", "skops"),
    "xgboost": ("xgboost", "pickle", "xgboost-legacy"),
    "lightgbm": ("lightgbm", "pickle"),
    "onnxruntime": ("onnx",),
    "pytorch": ("torch",),
}
_CONVENTIONAL = (
    "xgboost-model",
    "model.joblib",
    "model.pkl",
    "model.pickle",
    "model.skops",
    "model.onnx",
    "model.pt",
    "model.pth",
    "model.ubj",
    "model.json",
    "model.txt",
    "model.model",
    "model.bin",
    "model.xgb",
)
# An old XGBoost file: 136 bytes of parameters, the objective's name with its length, then the booster's name.
_LEGACY = re.compile(rb"(binary|reg|multi|rank|count|survival|rank):[a-z:]+")


class Artifact(NamedTuple):
    path: str
    kind: str


def find(model_dir: str, framework: str) -> Artifact:
    """The model in `model_dir` or in the one folder inside it.

    Raises: LoadError listing what is there when there is none, or more than one without a conventional name.
    """
    files = _files(model_dir)
    candidates = [Artifact(path, kind) for path in files for kind in [kind_of(path)] if kind]
    if not candidates:
        raise LoadError(
            "no model was found in the archive; it holds %s" % (_listed(files, model_dir) or "no file"),
            "put the model at the archive's top under a known name (model.joblib, xgboost-model, model.onnx, "
            "model.pt, model.txt), or add code/inference.py with model_fn",
        )
    if len(candidates) > 1:
        kinds = _OF_FRAMEWORK.get(framework, ())
        fitting = [item for item in candidates if item.kind in kinds] or candidates
        named = [item for name in _CONVENTIONAL for item in fitting if os.path.basename(item.path) == name]
        candidates = named[:1] or fitting
    if len(candidates) > 1:
        raise LoadError(
            "the archive holds %d models: %s"
            % (len(candidates), _listed([item.path for item in candidates], model_dir)),
            "keep one, give one a conventional name such as model.joblib or xgboost-model, "
            "or add code/inference.py with model_fn",
        )
    return candidates[0]


def kind_of(path: str) -> str:
    """The way of loading this file, "" when it is no model."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix not in _SNIFFED or (suffix == "" and name not in ("xgboost-model", "model")):
        return ""
    with open(path, "rb") as file:
        return _sniffed(file.read(_HEAD_BYTES))


def _sniffed(head: bytes) -> str:
    if head[:5] in (b"tree\n", b"tree\r"):
        return "lightgbm"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[:1] == b"{" and (b'"learner"' in head or b"learner" in head[:32] or b'"version":[' in head[:64]):
        return "xgboost"
    if head[:4] == b"binf" or _LEGACY.search(head[136:256]):
        return "xgboost-legacy"
    return ""


def _files(model_dir: str) -> List[str]:
    found: List[str] = []
    folders = []
    with os.scandir(model_dir) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                found.append(entry.path)
            elif entry.is_dir() and entry.name != "code":
                folders.append(entry.path)
    if len(folders) == 1:
        with os.scandir(folders[0]) as entries:
            found += sorted(entry.path for entry in entries if entry.is_file() and not entry.name.startswith("."))
    return found


def _listed(paths: List[str], model_dir: str) -> str:
    names = [os.path.relpath(path, model_dir) for path in paths]
    return ", ".join(names[:20]) + (" and %d more" % (len(names) - 20) if len(names) > 20 else "")
