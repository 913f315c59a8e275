"""The openvino backend: model.xml with model.bin beside it, served where the environment holds OpenVINO.

Our own environments do not: an archive's code/requirements.txt names it. Each instance has a request of its own.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Sequence, Tuple

from ..contract import LoadError
from .config import ModelConfig
from .model import Tensors


class OpenvinoInstance(Tensors):
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def infer(self, inputs: Dict[str, Any], outputs: Sequence[str]) -> Dict[str, Any]:
        self._request.infer(inputs)
        return {name: self._request.get_tensor(name).data.copy() for name in outputs}


def load(config: ModelConfig, folder: str, threads: int) -> Tuple[ModelConfig, List[Any], str]:
    """(the configuration, instances, what loaded it). Raises: LoadError."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise LoadError(
            "model '%s': the backend 'openvino' needs the package openvino, which this environment lacks" % config.name,
            "name openvino in code/requirements.txt of the archive, or export the model to ONNX",
        ) from error
    path = os.path.join(folder, config.filename or "model.xml")
    if not os.path.isfile(path):
        raise LoadError(
            "failed to stat file %s of model '%s'" % (path, config.name), "put model.xml and model.bin there"
        )
    if not config.inputs or not config.outputs:
        raise LoadError("model '%s' must specify its inputs and outputs" % config.name, "write them into config.pbtxt")
    try:
        core = openvino.Core()
        compiled = core.compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
    except Exception as error:  # its errors have no type of their own
        raise LoadError(
            "failed to load '%s': OpenVINO: %s" % (config.name, error),
            "see that model.xml and model.bin belong together",
        ) from error
    return config, [OpenvinoInstance(compiled) for _ in range(config.instances)], "openvino"
