"""The pytorch backend: model.pt, a TorchScript archive. Its tensors are found by Triton's rules, all or none:

    by name      every input is named like an argument of forward
    by index     every input is named NAME__0, NAME__1, ...; likewise the outputs
    by order     else: as config.pbtxt lists them

TorchScript tells neither types nor shapes, so a configuration is needed. All instances share one module.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Sequence, Tuple

from ..contract import LoadError
from ..torch_model import load_module
from .config import ModelConfig, Port
from .errors import InferError
from .model import Tensors
from .tensors import DTYPES

_INDEX = re.compile(r"__([0-9]+)$")


class TorchInstance(Tensors):
    def __init__(self, module: Any, config: ModelConfig, order: List[str], outputs: Dict[str, int]) -> None:
        import torch

        self._torch = torch
        self._module = module
        self._name = config.name
        self._order = order
        self._outputs = outputs
        self._datatypes = {port.name: port.datatype for port in config.outputs}

    def infer(self, inputs: Dict[str, Any], outputs: Sequence[str]) -> Dict[str, Any]:
        arguments = [self._tensor(inputs[name]) for name in self._order if name in inputs]
        with self._torch.inference_mode():
            found = self._module(*arguments)
        if isinstance(found, self._torch.Tensor):
            found = (found,)
        elif isinstance(found, dict):
            found = tuple(found.values())
        if not isinstance(found, (tuple, list)):
            raise InferError("model '%s' answers a %s, not tensors" % (self._name, type(found).__name__))
        return {name: self._array(name, found) for name in outputs}

    def _tensor(self, array: Any) -> Any:
        return self._torch.from_numpy(array if array.flags.writeable else array.copy())

    def _array(self, name: str, found: Sequence[Any]) -> Any:
        place = self._outputs[name]
        if place >= len(found):
            raise InferError(
                "The output %s in the model configuration refers to an output index which doesn't exist. "
                "This model has %d outputs" % (name, len(found))
            )
        array = found[place].detach().cpu().numpy()
        if array.dtype.name != DTYPES[self._datatypes[name]]:
            raise InferError(
                "configuration expects datatype %s for output '%s', model '%s' provides %s"
                % (self._datatypes[name], name, self._name, array.dtype.name)
            )
        return array


def load(config: ModelConfig, folder: str, threads: int) -> Tuple[ModelConfig, List[Any], str]:
    """(the configuration, instances, what loaded it). Raises: LoadError."""
    name = config.filename or "model.pt"
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise LoadError(
            "failed to stat file %s of model '%s'" % (path, config.name), "put %s into the version's folder" % name
        )
    if not config.inputs or not config.outputs:
        raise LoadError(
            "model '%s' must specify its inputs and outputs: a TorchScript archive tells neither their types nor their "
            "shapes" % config.name,
            "write them into config.pbtxt",
        )
    texts = [port.name for port in (*config.inputs, *config.outputs) if port.datatype == "BYTES"]
    if texts:
        raise LoadError(
            "model '%s': TYPE_STRING of '%s' is not served by the pytorch backend here" % (config.name, texts[0]),
            "turn texts into numbers in a Python model before it",
        )
    try:
        module = load_module(path, threads)
    except ModuleNotFoundError as error:
        raise LoadError(
            "model '%s' needs torch, which this environment lacks" % config.name,
            "name image clary/triton-pytorch, or keep the file's name model.pt, by which that is chosen",
        ) from error
    order = input_order([argument.name for argument in _arguments(module)], config.inputs)
    outputs = output_places(config.outputs)
    return config, [TorchInstance(module, config, order, outputs) for _ in range(config.instances)], "torchscript"


def _arguments(module: Any) -> List[Any]:
    found: List[Any] = module.forward.schema.arguments[1:]  # without self
    return found


def input_order(arguments: Sequence[str], inputs: Sequence[Port]) -> List[str]:
    """The inputs' names in the order of forward's arguments."""
    names = [port.name for port in inputs]
    if all(name in arguments for name in names):
        return sorted(names, key=list(arguments).index)
    places = _places(names)
    return sorted(names, key=lambda name: places[name]) if places else names


def output_places(outputs: Sequence[Port]) -> Dict[str, int]:
    """Where in the module's answer each output stands."""
    names = [port.name for port in outputs]
    return _places(names) or {name: place for place, name in enumerate(names)}


def _places(names: Sequence[str]) -> Dict[str, int]:
    """{name: its index} when all are named NAME__index with different indexes, else nothing."""
    found = {name: _INDEX.search(name) for name in names}
    places = {name: int(match.group(1)) for name, match in found.items() if match is not None}
    whole = len(places) == len(names) == len(set(places.values()))
    return places if whole else {}
