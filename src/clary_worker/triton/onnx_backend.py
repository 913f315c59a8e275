"""The onnxruntime backend: model.onnx, a file, or a folder of that name that holds one.

What config.pbtxt leaves out is completed from the session as Triton does it: inputs and outputs, and, when every
tensor's first size is free, a batch dimension of at most 4 with dynamic batching. All instances share one session,
which is made for calls from several threads.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

from ..contract import LoadError
from ..onnx_model import open_session
from .config import DynamicBatching, ModelConfig, Port
from .errors import InferError
from .model import Tensors
from .tensors import as_bytes, listed, objects

# default-max-batch-size of Triton's backend configuration.
DEFAULT_MAX_BATCH_SIZE = 4
_ERROR = re.compile(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", re.DOTALL)
_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxInstance(Tensors):
    def __init__(self, session: Any, config: ModelConfig) -> None:
        self._session = session
        self._texts = [port.name for port in config.inputs if port.datatype == "BYTES"]

    def infer(self, inputs: Dict[str, Any], outputs: Sequence[str]) -> Dict[str, Any]:
        import numpy as np

        for name in self._texts:
            if name in inputs:
                array = inputs[name]
                texts = [as_bytes(value).decode("utf-8") for value in array.ravel()]
                inputs = {**inputs, name: objects(texts, array.shape)}
        try:
            found = self._session.run(list(outputs), inputs)
        except Exception as error:  # onnxruntime raises its own kinds, which are not importable by name
            raise InferError(told(error)) from error
        return {name: np.asarray(array) for name, array in zip(outputs, found)}


def told(error: BaseException) -> str:
    """An error of ONNX Runtime as Triton words it: onnx runtime error CODE: TEXT."""
    match = _ERROR.match(str(error))
    return "onnx runtime error %s: %s" % match.groups() if match else "onnx runtime error: %s" % error


def load(config: ModelConfig, folder: str, threads: int) -> Tuple[ModelConfig, List[Any], str]:
    """(the completed configuration, instances, what loaded it). Raises: LoadError."""
    name = config.filename or "model.onnx"
    path = os.path.join(folder, name)
    if os.path.isdir(path):
        path = os.path.join(path, "model.onnx")
    if not os.path.isfile(path):
        raise LoadError(
            "failed to stat file %s of model '%s'" % (path, config.name), "put %s into the version's folder" % name
        )
    try:
        session = open_session(path, threads)
    except ModuleNotFoundError as error:
        raise LoadError("model '%s' needs onnxruntime: %s" % (config.name, error), "use image clary/triton") from error
    except Exception as error:  # onnxruntime raises its own kinds, which are not importable by name
        raise LoadError(
            "failed to load '%s' version %s: %s" % (config.name, os.path.basename(folder), told(error)),
            "see that the file is a whole ONNX model for this onnxruntime",
        ) from error
    config = _completed(config, session)
    _prove(config, session.get_inputs(), config.inputs, "input")
    _prove(config, session.get_outputs(), config.outputs, "output")
    lacking = [port.name for port in session.get_inputs() if config.input(port.name) is None]
    if lacking:
        raise _unfit(config, "expected %d inputs, model provides %d (%s is not in config.pbtxt)"
                     % (len(config.inputs), len(session.get_inputs()), ", ".join(lacking)))  # fmt: skip
    return config, [OnnxInstance(session, config) for _ in range(config.instances)], "onnxruntime"


def _completed(config: ModelConfig, session: Any) -> ModelConfig:
    if config.inputs and config.outputs:
        return config
    ports = session.get_inputs() + session.get_outputs()
    free = all(port.shape and not isinstance(port.shape[0], int) for port in ports)
    batched = config.max_batch_size > 0 or (free and "max_batch_size" not in config.raw)
    if batched and not free:
        text = "max_batch_size is %d, but a first dimension of the model is fixed"
        raise _unfit(config, text % config.max_batch_size)
    if batched and not config.max_batch_size:
        config = replace(config, max_batch_size=DEFAULT_MAX_BATCH_SIZE, batching=config.batching or DynamicBatching())
    return replace(
        config,
        inputs=config.inputs or tuple(_port(config, port, batched) for port in session.get_inputs()),
        outputs=config.outputs or tuple(_port(config, port, batched) for port in session.get_outputs()),
        notes=(*config.notes, "model '%s': inputs and outputs were read from the ONNX file" % config.name),
    )


def _port(config: ModelConfig, port: Any, batched: bool) -> Port:
    datatype = _TYPES.get(port.type)
    if datatype is None:
        raise _unfit(config, "unsupported datatype %s of '%s'" % (port.type, port.name))
    dims = [size if isinstance(size, int) else -1 for size in port.shape]
    if batched:
        dims = dims[1:]
        # A tensor of one value a row: config.pbtxt writes it as [1] that is reshaped to [].
        return Port(port.name, datatype, tuple(dims) or (1,), None if dims else ())
    return Port(port.name, datatype, tuple(dims))


def _prove(config: ModelConfig, ports: Sequence[Any], given: Sequence[Port], way: str) -> None:
    """Raises LoadError where the configuration does not fit the file."""
    known = {port.name: port for port in ports}
    for port in given:
        there = known.get(port.name)
        if there is None:
            raise _unfit(
                config,
                "unexpected inference %s '%s', allowed %ss are: %s" % (way, port.name, way, ", ".join(sorted(known))),
            )
        datatype = _TYPES.get(there.type, there.type)
        if datatype != port.datatype:
            raise _unfit(
                config,
                "configuration expects datatype %s for %s '%s', model provides %s"
                % (port.datatype, way, port.name, datatype),
            )
        dims = list(port.dims if port.reshape is None else port.reshape)
        full = ([-1] if config.max_batch_size else []) + dims
        shape = [size if isinstance(size, int) else -1 for size in there.shape]
        if len(full) != len(shape) or any(-1 not in (a, b) and a != b for a, b in zip(full, shape)):
            lead = (
                "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
            )
            text = (
                "%s '%s', the model expects %d dimensions (shape %s) but the model configuration specifies %d "
                "dimensions (%sshape %s)"
            )
            lead = lead + "complete " if config.max_batch_size else ""
            words = (way, port.name, len(shape), listed(shape), len(full), lead, listed(full))
            raise _unfit(config, text % words)
        if config.max_batch_size and shape and shape[0] not in (-1,):
            raise _unfit(
                config,
                "%s '%s' has the fixed first size %d, so max_batch_size must be 0" % (way, port.name, shape[0]),
            )


def _unfit(config: ModelConfig, text: str) -> LoadError:
    return LoadError("unable to load model '%s', %s" % (config.name, text), "correct the model's config.pbtxt")
