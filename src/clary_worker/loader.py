"""From an artifact to a predictor, and the imports that a zygote makes ahead of time.

Nothing of a framework is imported until an artifact needs it; `preload` does that early in a process which then only
forks, so that a worker's start pays for the file alone.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
import warnings
from typing import Any, Dict, List, Sequence, Tuple

from . import artifacts, snapshots
from .contract import LoadError
from .huggingface import pipelines

# Modules that a first request would otherwise import, by framework. Names that an environment lacks are left out.
_BASE = ("asyncio", "uvloop", "httptools", "json", "csv", "zipfile", "numpy", "numpy.lib.format")
_PRELOAD: Dict[str, Tuple[str, ...]] = {
    "sklearn": (
        "joblib",
        "scipy.sparse",
        "sklearn.ensemble",
        "sklearn.tree",
        "sklearn.linear_model",
        "sklearn.pipeline",
        "sklearn.preprocessing",
        "sklearn.compose",
        "sklearn.impute",
        "sklearn.neighbors",
        "sklearn.svm",
        "sklearn.cluster",
        "sklearn.naive_bayes",
        "sklearn.neural_network",
        "sklearn.feature_extraction.text",
        "skops.io",
    ),
    "xgboost": ("scipy.sparse", "xgboost", "xgboost.core"),
    "lightgbm": ("scipy.sparse", "lightgbm"),
    "onnxruntime": ("onnxruntime",),
    "pytorch": ("torch", "torch.jit"),
    "triton": ("onnxruntime",),
    "triton-pytorch": ("onnxruntime", "torch", "torch.jit"),
    "huggingface": pipelines.MODULES,
    "huggingface-tgi": pipelines.MODULES,
}
_OUR_ROOMS = {
    "sklearn": ("sklearn_model", "boosters"),
    "xgboost": ("boosters",),
    "lightgbm": ("boosters",),
    "onnxruntime": ("onnx_model",),
    "pytorch": ("torch_model",),
    "triton": ("triton.serving",),
    "triton-pytorch": ("triton.serving",),
    "huggingface": ("huggingface.kit",),
    "huggingface-tgi": ("huggingface.kit",),
}
_XGBOOST_JSON_VERSION = re.compile(rb'"version":\s*\[(\d+),\s*(\d+),\s*(\d+)\]')
_XGBOOST_UBJ_VERSION = b"version[#L"
_SKLEARN_VERSION = re.compile(rb"_sklearn_version.{1,6}?(\d+\.\d+[0-9a-z.+]*)", re.DOTALL)
_SCAN_BYTES = 1 << 20  # of an artifact that fails, how much is looked through for its versions


def preload(framework: str) -> List[str]:
    """Imports what workers of `framework` will need; the names that were imported. Starts no thread of ours.

    "auto" imports the base alone. A module that the environment lacks is left out, a broken one raises.
    """
    done = []
    if framework in ("huggingface", "huggingface-tgi"):
        pipelines.before_import()
    for name in _BASE + _PRELOAD.get(framework, ()):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only the asked-for package itself may be missing; what it needs may not.
            if error.name is not None and not (name + ".").startswith(error.name + "."):
                raise
            continue
        done.append(name)
    for room in _OUR_ROOMS.get(framework, ()):
        importlib.import_module(__package__ + "." + room)
    return done


def preload_distributions(names: Sequence[str]) -> List[str]:
    """Imports the top-level packages of installed distributions (what a user's requirements.txt names).

    One that cannot be imported ahead of time is left to the script that wants it: there its failure has a reader.
    """
    from importlib import metadata

    done = []
    for name in names:
        for module in _top_levels(metadata, name):
            try:
                importlib.import_module(module)
            except Exception as error:
                sys.stderr.write("not imported ahead of time: %s: %s: %s\n" % (module, type(error).__name__, error))
            else:
                done.append(module)
    return done


def _top_levels(metadata: Any, distribution: str) -> List[str]:
    """The names that a distribution adds to the import path, as its list of files tells."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return []
    tops = {file.parts[0] for file in files if len(file.parts) == 2 and file.parts[1] == "__init__.py"}
    tops |= {file.name[:-3] for file in files if len(file.parts) == 1 and file.suffix == ".py"}
    return sorted(top for top in tops if top.isidentifier() and not top.startswith("_"))


def load(model_dir: str, framework: str, threads: int, environ: Dict[str, str], cache_dir: str = "") -> Tuple[Any, str]:
    """The archive's model as a predictor, and a note ("" or what the user should know).

    `cache_dir`: where an earlier worker of the same deployment may have left a snapshot, and this one leaves its own.

    Raises: LoadError with reason and hint.
    """
    artifact = artifacts.find(model_dir, framework)
    name = os.path.basename(artifact.path)
    method = environ.get("CLARY_SKLEARN_METHOD", "")
    selected = environ.get("SAGEMAKER_INFERENCE_OUTPUT", "")
    if artifact.kind == "pickle":
        return _pickled(artifact.path, threads, method, selected, cache_dir)
    if artifact.kind == "skops":
        return adopt(_skops(artifact.path, environ), "skops %s" % name, threads, method), ""
    if artifact.kind in ("xgboost", "xgboost-legacy"):
        return adopt(_xgboost(artifact), "xgboost %s" % name, threads, method, selected), ""
    if artifact.kind == "lightgbm":
        lightgbm = _framework("lightgbm", name)
        return adopt(lightgbm.Booster(model_file=artifact.path), "lightgbm %s" % name, threads, method), ""
    if artifact.kind == "onnx":
        _framework("onnxruntime", name)
        from . import onnx_model

        return onnx_model.OnnxModel(onnx_model.open_session(artifact.path, threads), "onnx %s" % name, method), ""
    _framework("torch", name)
    from . import torch_model

    return torch_model.TorchModel(torch_model.load_module(artifact.path, threads), "torchscript %s" % name), ""


def _pickled(path: str, threads: int, method: str, selected: str, cache_dir: str) -> Tuple[Any, str]:
    loader = "pickle %s" % os.path.basename(path)
    kept = snapshots.read(cache_dir, path) if cache_dir else None
    if kept is not None:
        value, note, proven = kept
        return adopt(value, loader, threads, method, selected, proven), note
    value, note = unpickle(path)
    frozen = snapshots.freeze(value) if cache_dir else None  # before it is adopted: exactly what was loaded
    predictor = adopt(value, loader, threads, method, selected)
    if cache_dir:
        snapshots.write(cache_dir, path, frozen, note, getattr(predictor, "proven", ()))
    return predictor, note


def adopt(
    model: Any, loader: str, threads: int, method: str = "", selected: str = "", proven: Tuple[bool, ...] = ()
) -> Any:
    """A predictor around a model object, whoever loaded it. `proven`: what an earlier load found out about it.

    Raises: LoadError when the object is nothing that predicts.
    """
    package = type(model).__module__.partition(".")[0]
    kind = type(model).__name__
    if kind == "Booster" and package == "xgboost":
        from . import boosters

        return boosters.XGBoostModel(model, loader, threads, selected)
    if kind == "Booster" and package == "lightgbm":
        from . import boosters

        return boosters.LightGBMModel(model, loader, threads)
    if kind == "InferenceSession":
        from . import onnx_model

        return onnx_model.OnnxModel(model, loader, method)
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from . import torch_model

        return torch_model.TorchModel(model.eval(), loader)
    if isinstance(model, dict):
        raise LoadError(
            "%s holds a dictionary (%s), not a model" % (loader, ", ".join(str(key) for key in list(model)[:10])),
            "save the fitted estimator itself, or add code/inference.py with model_fn",
        )
    from . import sklearn_model

    return sklearn_model.SklearnModel(model, loader, method, proven)


def unpickle(path: str) -> Tuple[Any, str]:
    """The object in a pickle or joblib file, and a note when its scikit-learn differs from the installed one.

    Raises: LoadError naming both versions, or the module that is missing.
    """
    try:
        import joblib

        read = joblib.load
    except ModuleNotFoundError:
        read = _plain_pickle
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = read(path)
        except ModuleNotFoundError as error:
            raise LoadError(
                "%s needs the module %s, which this environment lacks" % (os.path.basename(path), error.name),
                "add it to code/requirements.txt, or serve the model with its framework's image",
            ) from error
        except Exception as error:  # a pickle runs its author's code: anything may come out, and it is told as is
            raise LoadError(
                "%s cannot be unpickled: %s: %s%s"
                % (os.path.basename(path), type(error).__name__, error, _versions(path)),
                "serve it with the framework version that saved it, or save it again with the installed one",
            ) from error
    notes = []
    for warning in caught:
        if type(warning.message).__name__ == "InconsistentVersionWarning":
            saved = getattr(warning.message, "original_sklearn_version", "?")
            ours = getattr(warning.message, "current_sklearn_version", "?")
            note = "saved with scikit-learn %s, served with %s" % (saved, ours)
            if note not in notes:
                notes.append(note)
        else:
            print("%s: %s" % (warning.category.__name__, warning.message), file=sys.stderr)
    return value, "; ".join(notes)


def _plain_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


def _versions(path: str) -> str:
    """ " (saved with scikit-learn 1.0.2; installed is 1.9.1)", as far as the bytes tell."""
    with open(path, "rb") as file:
        found = _SKLEARN_VERSION.search(file.read(_SCAN_BYTES))
    sklearn = sys.modules.get("sklearn")
    told = []
    if found:
        told.append("saved with scikit-learn %s" % found.group(1).decode("ascii", "replace"))
    if sklearn is not None:
        told.append("installed is scikit-learn %s" % sklearn.__version__)
    return " (%s)" % "; ".join(told) if told else ""


def _skops(path: str, environ: Dict[str, str]) -> Any:
    skops = _framework("skops.io", os.path.basename(path))
    trusted = [name.strip() for name in environ.get("CLARY_SKOPS_TRUSTED", "").split(",") if name.strip()]
    unknown = [name for name in skops.get_untrusted_types(file=path) if name not in trusted]
    if unknown:
        raise LoadError(
            "%s holds types that are not trusted: %s" % (os.path.basename(path), ", ".join(sorted(unknown))),
            "if you know them, set CLARY_SKOPS_TRUSTED=%s in the model's Environment" % ",".join(sorted(unknown)),
        )
    return skops.load(path, trusted=trusted)


def _xgboost(artifact: artifacts.Artifact) -> Any:
    name = os.path.basename(artifact.path)
    xgboost = _framework("xgboost", name)
    booster = xgboost.Booster()
    with open(artifact.path, "rb") as file:
        content = bytearray(file.read())
    saved = _xgboost_version(content)
    installed = tuple(int(part) for part in re.findall(r"\d+", xgboost.__version__)[:2])
    if saved[:2] > installed:
        # A newer model loads without a word and answers wrongly: 3.0 takes 3.1's base_score for 0.5.
        told = ".".join(map(str, saved))
        raise LoadError(
            "%s was saved by XGBoost %s, which the installed %s misreads" % (name, told, xgboost.__version__),
            "serve it with image clary/xgboost:%s or save it with XGBoost %s" % (told, xgboost.__version__),
        )
    try:
        # From memory, because from a file the suffix would decide the format, and xgboost-model has none.
        booster.load_model(content)
    except xgboost.core.XGBoostError as error:
        if artifact.kind == "xgboost-legacy":
            raise LoadError(
                "%s is in XGBoost's old binary format, which XGBoost %s no longer reads" % (name, xgboost.__version__),
                "convert it once: pip install 'xgboost<3.1', then b = xgboost.Booster(); b.load_model(%r); "
                "b.save_model('model.ubj')" % name,
            ) from error
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        raise LoadError(
            "XGBoost %s cannot read %s: %s" % (xgboost.__version__, name, line),
            "save the booster with save_model() of this or an older XGBoost",
        ) from error
    return booster


def _xgboost_version(content: bytearray) -> Tuple[int, ...]:
    """The version that a JSON or UBJSON model names, (0, 0, 0) for older formats."""
    found = _XGBOOST_JSON_VERSION.search(content)
    if found:
        return tuple(int(number) for number in found.groups())
    start = content.rfind(_XGBOOST_UBJ_VERSION)
    place = start + len(_XGBOOST_UBJ_VERSION) + 8  # the array's length, as a 64-bit number
    numbers = []
    for _ in range(3 if start >= 0 else 0):
        size = {ord("i"): 1, ord("U"): 1, ord("I"): 2, ord("l"): 4, ord("L"): 8}.get(content[place], 0)
        numbers.append(int.from_bytes(content[place + 1 : place + 1 + size], "big"))
        place += 1 + size
    return tuple(numbers) or (0, 0, 0)


def _framework(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LoadError(
            "%s needs %s, which this environment lacks (%s)" % (name, module.partition(".")[0], error),
            "choose the framework's image, or add it to code/requirements.txt",
        ) from error
