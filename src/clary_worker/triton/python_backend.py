"""The python backend: a `TritonPythonModel` of 1/model.py, initialised once an instance, executed with whole batches.

With Triton each instance is a process; here all instances of a model share this one, so what their module holds at its
top level is shared, too. Modules that lie beside a model.py belong to that model: two models may both have a
`helpers.py`, as long as each imports it when it loads.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Dict, List, Tuple

from ..contract import LoadError
from . import python_interface as pb_utils
from .calls import Call, Result
from .config import ModelConfig, from_values
from .errors import InferError

_CLASS = "TritonPythonModel"


class PythonInstance:
    def __init__(self, model: Any, name: str, place: pb_utils.Place) -> None:
        self._model = model
        self._name = name
        self._place = place

    def execute(self, calls: List[Call]) -> List[Result]:
        pb_utils.enter(self._place)
        requests = [
            pb_utils.InferenceRequest(
                request_id=call.meta.request_id,
                correlation_id=call.meta.correlation_id,
                inputs=[pb_utils.Tensor(name, array) for name, array in call.inputs.items()],
                requested_output_names=list(call.outputs),
                parameters=call.meta.parameters,
            )
            for call in calls
        ]
        try:
            found = self._model.execute(requests)
            if inspect.iscoroutine(found):
                found = _completed(found, self._place)
            return self._results(found, calls)
        except Exception as error:  # the worker's border: the model's own code
            traceback.print_exc(file=sys.stderr)
            return [InferError(self._told(error))] * len(calls)

    def finalize(self) -> None:
        finalize = getattr(self._model, "finalize", None)
        if finalize is not None:
            pb_utils.enter(self._place)
            finalize()

    def _results(self, found: Any, calls: List[Call]) -> List[Result]:
        if not isinstance(found, (list, tuple)):
            raise pb_utils.TritonModelException(
                "Expected a list in the execute return. Found type '%s' in model '%s'."
                % (type(found).__name__, self._name)
            )
        if len(found) != len(calls):
            raise pb_utils.TritonModelException(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                "InferenceRequest(s) size is:%d, and InferenceResponse(s) size is:%d" % (len(calls), len(found))
            )
        results: List[Result] = []
        for response in found:
            if not isinstance(response, pb_utils.InferenceResponse):
                raise pb_utils.TritonModelException(
                    "Expected an 'InferenceResponse' object in the execute function return list, found type '%s'."
                    % type(response).__name__
                )
            error = response.error()
            if error is not None:
                results.append(InferError(error.message()))
            else:
                results.append({tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()})
        return results

    def _told(self, error: BaseException) -> str:
        folder = self._place.model_dir
        frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(folder)]
        at = "".join("\n  %s(%d): %s" % (os.path.basename(one.filename), one.lineno or 0, one.name) for one in frames)
        return "Failed to process the request(s) for model instance '%s', message: %s: %s%s" % (
            self._name,
            type(error).__name__,
            error,
            "\n\nAt:" + at if at else "",
        )


def _completed(coroutine: Any, place: pb_utils.Place) -> Any:
    """What an `async def execute` answers; on a thread of its own, as this one has a running loop."""

    def run() -> Any:
        pb_utils.enter(place)
        return asyncio.run(coroutine)

    with ThreadPoolExecutor(1, "execute") as thread:
        return thread.submit(run).result()


def load(
    config: ModelConfig, folder: str, version: int, known: List[str], infer: pb_utils.Infer
) -> Tuple[ModelConfig, List[Any], str]:
    """(the completed configuration, instances, what loaded it).

    `known`: folders of Python models that were loaded before; this one's is added. `infer` computes on other models of
    the repository. Raises: LoadError.
    """
    name = config.filename or "model.py"
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise LoadError(
            "failed to stat file %s of model '%s'" % (path, config.name), "put %s into the version's folder" % name
        )
    if "EXECUTION_ENV_PATH" in config.parameters:
        raise LoadError(
            "model '%s': the parameter EXECUTION_ENV_PATH is not served here" % config.name,
            "name its packages in code/requirements.txt of the archive",
        )
    place = pb_utils.Place(folder, infer)
    pb_utils.install()
    pb_utils.enter(place)
    made = _class(path, folder, config.name, known)
    config = _auto_completed(config, made)
    if not config.outputs:
        raise LoadError(
            "model '%s' must specify its inputs and outputs" % config.name,
            "write them into config.pbtxt, or add auto_complete_config to the model",
        )
    instances = []
    for number in range(config.instances):
        instance_name = "%s_0_%d" % (config.name, number)
        model = made()
        initialize = getattr(model, "initialize", None)
        if initialize is not None:
            _initialize(initialize, config, folder, version, instance_name)
        instances.append(PythonInstance(model, instance_name, place))
    return config, instances, "python"


def _initialize(initialize: Any, config: ModelConfig, folder: str, version: int, instance_name: str) -> None:
    arguments = {
        "model_config": json.dumps(as_json(config)),
        "model_instance_kind": "CPU",
        "model_instance_name": instance_name,
        "model_instance_device_id": "0",
        "model_repository": os.path.dirname(folder),
        "model_version": str(version),
        "model_name": config.name,
    }
    try:
        initialize(arguments)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise LoadError(
            "failed to load '%s' version %d: Internal: %s: %s" % (config.name, version, type(error).__name__, error),
            "read the traceback in the endpoint's log",
        ) from error


def _class(path: str, folder: str, name: str, known: List[str]) -> Any:
    """The model's class, its folder first on sys.path while it is imported and last afterwards."""
    for other in known:
        if other != folder:
            _part_from(other)
    known.append(folder)
    module_name = "clary_triton_model_%s" % "".join(c if c.isalnum() else "_" for c in name + "_" + folder)
    described = importlib.util.spec_from_file_location(module_name, path)
    if described is None or described.loader is None:
        raise LoadError("%s is no Python program" % path, "name a .py file in default_model_filename")
    module = importlib.util.module_from_spec(described)
    sys.modules[module_name] = module
    sys.path.insert(0, folder)
    try:
        described.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise LoadError(
            "failed to load '%s': Internal: ModuleNotFoundError: %s" % (name, error),
            "name the package in code/requirements.txt of the archive",
        ) from error
    finally:
        sys.path.remove(folder)
        sys.path.append(folder)
    made = getattr(module, _CLASS, None)
    if made is None:
        raise LoadError(
            "failed to load '%s': Internal: AttributeError: module 'model' has no attribute '%s'" % (name, _CLASS),
            "define class %s with execute(self, requests)" % _CLASS,
        )
    if not callable(getattr(made, "execute", None)):
        raise LoadError("model '%s': %s has no execute function" % (name, _CLASS), "define execute(self, requests)")
    return made


def _part_from(folder: str) -> None:
    """Takes another model's side modules out of the table, so that names of the next one's are looked up anew."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(folder + os.sep) and not name.startswith("clary_triton_model_"):
            del sys.modules[name]


def _auto_completed(config: ModelConfig, made: Any) -> ModelConfig:
    complete = getattr(made, "auto_complete_config", None)
    if complete is None or (config.inputs and config.outputs):
        return config
    given = pb_utils.ModelConfig({**config.raw, "name": config.name, "backend": "python"})
    try:
        found = complete(given)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        raise LoadError(
            "failed to load '%s': auto_complete_config: %s: %s" % (config.name, type(error).__name__, error),
            "read the traceback in the endpoint's log",
        ) from error
    values = (found if isinstance(found, pb_utils.ModelConfig) else given).as_dict()
    completed = from_values(values, config.name)
    return replace(completed, notes=(*config.notes, *completed.notes))


def as_json(config: ModelConfig) -> Dict[str, Any]:
    """The configuration as Triton hands it to a model: every field, with its default where it is not set."""
    raw = config.raw
    ports = {"format": "FORMAT_NONE", "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
    return {
        "name": config.name,
        "platform": raw.get("platform", ""),
        "backend": config.backend,
        "runtime": "",
        "version_policy": raw.get("version_policy", {"latest": {"num_versions": 1}}),
        "max_batch_size": config.max_batch_size,
        "input": [{**ports, **one} for one in raw.get("input", ())],
        "output": [{"label_filename": "", "is_shape_tensor": False, **one} for one in raw.get("output", ())],
        "batch_input": [],
        "batch_output": [],
        "optimization": {},
        "instance_group": [
            {"name": "%s_0" % config.name, "kind": "KIND_CPU", "count": config.instances, "gpus": [], "profile": []}
        ],
        "default_model_filename": config.filename or "model.py",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": raw.get("parameters", {}),
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
        **({"dynamic_batching": raw["dynamic_batching"]} if "dynamic_batching" in raw else {}),
    }
