"""One model's configuration: what its config.pbtxt says, or what was found in its folder and its file.

    text -> textformat (fields) -> schema (plain values) -> ModelConfig

`raw` keeps the plain values, for what a Python model is handed as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..contract import LoadError
from . import schema, textformat
from .tensors import DTYPES, protocol_name

PLATFORMS: Dict[str, str] = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "ensemble": "ensemble",
}
# Platforms of backends that need software which no environment here has.
_UNSERVED_PLATFORMS = {
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "caffe2_netdef": "caffe2",
}
# The file that a backend looks for, by which a configuration that names no backend is completed.
FILENAMES: Dict[str, str] = {
    "onnxruntime": "model.onnx",
    "pytorch": "model.pt",
    "python": "model.py",
    "openvino": "model.xml",
}
BACKENDS: Tuple[str, ...] = ("onnxruntime", "pytorch", "python", "openvino", "ensemble")
MAX_INSTANCES = 64  # executions at once of one model in one process; each has a thread
_HINT = "correct the model's config.pbtxt"


@dataclass(frozen=True)
class Port:
    """An input or output. `dims` without the batch dimension, -1 for any size; `reshape` is what the model sees."""

    name: str
    datatype: str
    dims: Tuple[int, ...]
    reshape: Optional[Tuple[int, ...]] = None
    optional: bool = False
    ragged: bool = False


@dataclass(frozen=True)
class DynamicBatching:
    """`max_queue_size` and `timeout_us` are 0 for no limit."""

    preferred_sizes: Tuple[int, ...] = ()
    max_delay_us: int = 0
    max_queue_size: int = 0
    timeout_us: int = 0


@dataclass(frozen=True)
class VersionPolicy:
    latest: int = 1
    all: bool = False
    specific: Tuple[int, ...] = ()

    def choose(self, found: Sequence[int]) -> List[int]:
        """Of the versions there are, those that are served, newest first."""
        ordered = sorted(found, reverse=True)
        if self.specific:
            return [version for version in ordered if version in self.specific]
        return ordered if self.all else ordered[: self.latest]


@dataclass(frozen=True)
class Step:
    """A model of an ensemble; the maps go from the model's tensor names to the ensemble's. `version` -1: the newest."""

    model_name: str
    version: int
    inputs: Dict[str, str]
    outputs: Dict[str, str]


@dataclass(frozen=True)
class ModelConfig:
    name: str
    backend: str = ""
    max_batch_size: int = 0  # 0: requests carry no batch dimension
    inputs: Tuple[Port, ...] = ()
    outputs: Tuple[Port, ...] = ()
    batching: Optional[DynamicBatching] = None
    instances: int = 1
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    steps: Tuple[Step, ...] = ()
    parameters: Dict[str, str] = field(default_factory=dict)
    filename: str = ""
    notes: Tuple[str, ...] = ()
    raw: Dict[str, Any] = field(default_factory=dict)

    def input(self, name: str) -> Optional[Port]:
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Optional[Port]:
        return next((port for port in self.outputs if port.name == name), None)


def read(text: str, name: str, path: str) -> ModelConfig:
    """The configuration of the model in folder `name`. Raises: LoadError with file, line and field."""
    noted: List[str] = []
    try:
        raw = schema.values(textformat.parse(text), "ModelConfig", noted)
    except textformat.TextError as error:
        raise LoadError(
            "failed to read text proto from %s: Error parsing text-format inference.ModelConfig: %s" % (path, error),
            _HINT,
        ) from error
    except schema.Refused as error:
        raise LoadError(
            "model '%s': %s" % (name, error), "take it out of config.pbtxt, or serve the repository with Triton itself"
        ) from error
    return from_values(raw, name, noted)


def from_values(raw: Dict[str, Any], name: str, noted: Sequence[str] = ()) -> ModelConfig:
    """A configuration from plain values, checked. Raises: LoadError naming the model."""
    given = raw.get("name", "")
    if given and given != name:
        raise _wrong("unexpected directory name '%s' for model '%s', directory name must equal model name", name, given)
    if raw.get("model_transaction_policy", {}).get("decoupled"):
        raise _wrong("model '%s': model_transaction_policy.decoupled is not served here", name)
    size = raw.get("max_batch_size", 0)
    if size < 0:
        raise _wrong("'max_batch_size' must be non-negative value for model '%s'", name)
    notes = ["model '%s': %s has no effect here" % (name, one) for one in noted]
    config = ModelConfig(
        name=name,
        backend=_backend(raw, name),
        max_batch_size=size,
        inputs=tuple(_port(one, name, "input") for one in raw.get("input", ())),
        outputs=tuple(_port(one, name, "output") for one in raw.get("output", ())),
        batching=_batching(raw.get("dynamic_batching"), size, name),
        instances=_instances(raw.get("instance_group", ()), name, notes),
        versions=_versions(raw.get("version_policy", {})),
        steps=_steps(raw.get("ensemble_scheduling", {}), name),
        parameters={key: one.get("string_value", "") for key, one in raw.get("parameters", {}).items()},
        filename=raw.get("default_model_filename", ""),
        raw=raw,
    )
    for ports in (config.inputs, config.outputs):
        names = [port.name for port in ports]
        if len(set(names)) != len(names):
            raise _wrong("model '%s' names a tensor twice: %s", name, ", ".join(names))
    return replace(config, notes=tuple(notes))


def _wrong(text: str, *about: Any) -> LoadError:
    return LoadError(text % about, _HINT)


def _backend(raw: Dict[str, Any], name: str) -> str:
    platform, backend = str(raw.get("platform", "")), str(raw.get("backend", ""))
    if "ensemble_scheduling" in raw and not backend:
        backend = "ensemble"
    meant = backend or PLATFORMS.get(platform, _UNSERVED_PLATFORMS.get(platform, platform))
    if meant and meant not in BACKENDS:
        raise LoadError(
            "model '%s': the backend '%s' is not served here; %s are" % (name, meant, ", ".join(BACKENDS)),
            'export the model to ONNX, or wrap it in a Python model (backend: "python")',
        )
    return meant


def _port(raw: Dict[str, Any], model: str, way: str) -> Port:
    name = raw.get("name", "")
    if not name:
        raise _wrong("model %s must specify 'name' for model '%s'", way, model)
    kind = raw.get("data_type", "TYPE_INVALID")
    if kind == "TYPE_INVALID":
        raise _wrong("model %s '%s' must specify 'data_type' for model '%s'", way, name, model)
    datatype = protocol_name(kind)
    if datatype not in DTYPES:
        raise _wrong("model '%s': %s '%s' is %s, which is not served here", model, way, name, kind)
    for flag in ("is_shape_tensor", "is_non_linear_format_io"):
        if raw.get(flag):
            raise _wrong("model '%s': %s of %s '%s' is not served here", model, flag, way, name)
    dims = tuple(raw.get("dims", ()))
    reshape = tuple(raw["reshape"].get("shape", ())) if "reshape" in raw else None
    if not dims:
        raise _wrong("model %s '%s' must specify 'dims' for model '%s'", way, name, model)
    if any(size < 1 and size != -1 for size in (*dims, *(reshape or ()))):
        raise _wrong(
            "model %s '%s' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for model '%s'",
            way,
            name,
            model,
        )
    if reshape is not None and (_fixed(dims) != _fixed(reshape) or dims.count(-1) != reshape.count(-1)):
        raise _wrong("model %s '%s' has different size for dims and reshape for model '%s'", way, name, model)
    return Port(name, datatype, dims, reshape, raw.get("optional", False), raw.get("allow_ragged_batch", False))


def _fixed(dims: Sequence[int]) -> int:
    total = 1
    for size in dims:
        total *= size if size > 0 else 1
    return total


def _batching(raw: Optional[Dict[str, Any]], max_batch_size: int, name: str) -> Optional[DynamicBatching]:
    if raw is None:
        return None
    sizes = raw.get("preferred_batch_size", [])
    if any(size <= 0 for size in sizes):
        raise _wrong("dynamic batching preferred size must be positive for model '%s'", name)
    if any(size > max_batch_size for size in sizes):
        raise _wrong("dynamic batching preferred size must be <= max batch size for model '%s'", name)
    policy = raw.get("default_queue_policy", {})
    if policy.get("timeout_action") == "DELAY":
        raise _wrong("model '%s': timeout_action DELAY is not served here", name)
    return DynamicBatching(
        tuple(sorted(set(sizes))),
        raw.get("max_queue_delay_microseconds", 0),
        policy.get("max_queue_size", 0),
        policy.get("default_timeout_microseconds", 0),
    )


def _instances(groups: Sequence[Dict[str, Any]], name: str, notes: List[str]) -> int:
    total = 0
    for group in groups:
        number = group.get("count", 0) or 1
        if number < 0:
            raise _wrong("instance group of model '%s' must specify a 'count' >= 1", name)
        total += number
        if group.get("kind") == "KIND_GPU":
            notes.append("model '%s': KIND_GPU runs on the CPU here" % name)
    if total > MAX_INSTANCES:
        raise _wrong("model '%s' asks for %d instances; at most %d are run here", name, total, MAX_INSTANCES)
    return max(1, total)


def _versions(raw: Dict[str, Any]) -> VersionPolicy:
    if "specific" in raw:
        return VersionPolicy(specific=tuple(raw["specific"].get("versions", ())) or (-1,))
    return VersionPolicy(latest=raw.get("latest", {}).get("num_versions", 1) or 1, all="all" in raw)


def _steps(raw: Dict[str, Any], name: str) -> Tuple[Step, ...]:
    found = []
    for step in raw.get("step", ()):
        if not step.get("model_name"):
            raise _wrong("must specify 'model_name' in step of ensemble '%s'", name)
        # Left out, the version is proto3's 0, which Triton takes for the newest, too.
        version = step.get("model_version", -1) or -1
        found.append(Step(step["model_name"], version, step.get("input_map", {}), step.get("output_map", {})))
    return tuple(found)
