"""`triton_python_backend_utils`: what a Python model imports, with Triton's names and behaviour.

Models run in the server's own process, so tensors are plain numpy arrays and nothing is copied between processes. What
is not served (decoupled responses, custom metrics, GPU tensors) raises TritonModelException with its name.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from .calls import Meta
from .errors import InferError
from .tensors import CONFIG_TYPES, DTYPES, as_bytes, config_name, datatype_of, objects, protocol_name

MODULE = "triton_python_backend_utils"
TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_GPU = 0, 2
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 1, 2

# Computes on another model of the repository: (name, version or -1, tensors, output names, meta) -> outputs.
Infer = Callable[[str, int, Dict[str, Any], Optional[Sequence[str]], Meta], Dict[str, Any]]


class Place(NamedTuple):
    """Whose code runs: the version's folder, and how it reaches the other models of its repository."""

    model_dir: str
    infer: Infer


_here = threading.local()
_latest: List[Place] = []  # for threads that a model starts by itself


def install() -> None:
    """Answers for the module's names from now on. Twice is once."""
    sys.modules[MODULE] = sys.modules[__name__]
    sys.modules.setdefault("c_python_backend_utils", sys.modules[__name__])


def enter(place: Place) -> None:
    """Tells what is asked for on this thread from now on where it is."""
    _here.place = place
    _latest[:] = [place]


def _place() -> Place:
    found = getattr(_here, "place", None) or (_latest[0] if _latest else None)
    if found is None:
        raise TritonModelException("no model is running")
    return found


class TritonModelException(Exception):
    """Raised by models, and by what is not served here."""


class TritonError:
    """An error as a response's content."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = 1) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, numpy_array: Any) -> None:
        import numpy as np

        if not isinstance(numpy_array, np.ndarray):
            raise TritonModelException("Tensor '%s' takes a numpy array, not %s" % (name, type(numpy_array).__name__))
        self._name = name
        if numpy_array.dtype.kind == "U":
            numpy_array = objects([as_bytes(value) for value in numpy_array.ravel()], numpy_array.shape)
        self._array = numpy_array
        try:
            self._datatype = datatype_of(numpy_array)
        except InferError as error:
            raise TritonModelException("Tensor '%s': %s" % (name, error.text)) from error

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        """The array; a request's own is made writable first, as models change it in place."""
        if not self._array.flags.writeable:
            self._array = self._array.copy()
        return self._array

    def triton_dtype(self) -> int:
        return CONFIG_TYPES.index(config_name(self._datatype))

    def shape(self) -> Any:
        return self._array.shape

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self) -> Any:
        return self.as_numpy().__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        return self.as_numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    @classmethod
    def from_dlpack(cls, name: str, tensor: Any) -> Tensor:
        import numpy as np

        if hasattr(tensor, "__dlpack__"):
            return cls(name, np.from_dlpack(tensor))
        try:
            from torch.utils import dlpack  # only torch reads a bare capsule
        except ModuleNotFoundError as error:
            raise TritonModelException("a bare DLPack capsule needs torch, which is not here") from error
        return cls(name, dlpack.from_dlpack(tensor).cpu().numpy())


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: Optional[TritonError] = None) -> None:
        self._tensors = list(output_tensors)
        self._error = error

    def output_tensors(self) -> List[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> Optional[TritonError]:
        return self._error


class InferenceRequest:
    """A request that a model is given, or one that it makes of another model (`exec`)."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: Any = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: Any = None,
        trace: Any = None,
        parameters: Optional[Dict[str, Any]] = None,
    ) -> None:
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._parameters = dict(parameters or {})

    def inputs(self) -> List[Tensor]:
        return self._inputs

    def requested_output_names(self) -> List[str]:
        return self._outputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> Any:
        return self._correlation_id

    def model_name(self) -> str:
        return self._model_name

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        return json.dumps(self._parameters)

    def is_cancelled(self) -> bool:
        return False

    def get_response_sender(self) -> Any:
        raise TritonModelException("decoupled responses (get_response_sender) are not served here")

    def exec(self, decoupled: bool = False) -> InferenceResponse:
        """Another model's answer; an error of its is in the response, as with Triton."""
        if decoupled:
            raise TritonModelException("decoupled requests are not served here")
        tensors = {tensor.name(): tensor.as_numpy() for tensor in self._inputs}
        meta = Meta(self._request_id, self._parameters, self._correlation_id)
        place = _place()
        try:
            found = place.infer(self._model_name, self._model_version, tensors, self._outputs or None, meta)
        except InferError as error:
            return InferenceResponse(error=TritonError(error.text))
        finally:
            enter(place)
        return InferenceResponse([Tensor(name, array) for name, array in found.items()])

    async def async_exec(self, decoupled: bool = False) -> InferenceResponse:
        return self.exec(decoupled)


class Logger:
    """Lines in the endpoint's log."""

    INFO, WARNING, ERROR, VERBOSE = range(4)

    @classmethod
    def log(cls, message: str, level: int = 0) -> None:
        print("%s %s" % ("IWEV"[level], message), file=sys.stderr)

    @classmethod
    def log_info(cls, message: str) -> None:
        cls.log(message, cls.INFO)

    @classmethod
    def log_warn(cls, message: str) -> None:
        cls.log(message, cls.WARNING)

    @classmethod
    def log_error(cls, message: str) -> None:
        cls.log(message, cls.ERROR)

    @classmethod
    def log_verbose(cls, message: str) -> None:
        cls.log(message, cls.VERBOSE)


class ModelConfig:
    """What `auto_complete_config` of a model fills in; `as_dict` is the whole configuration."""

    def __init__(self, values: Dict[str, Any]) -> None:
        self._values = values

    def as_dict(self) -> Dict[str, Any]:
        return self._values

    def set_max_batch_size(self, size: int) -> None:
        if self._values.get("max_batch_size", 0) > size:
            raise ValueError("configuration specified max_batch_size %d, but the model has %d"
                             % (self._values["max_batch_size"], size))  # fmt: skip
        self._values["max_batch_size"] = size

    def set_dynamic_batching(self) -> None:
        self._values.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy: Dict[str, Any]) -> None:
        self._values["model_transaction_policy"] = policy

    def add_input(self, port: Dict[str, Any]) -> None:
        self._add("input", port)

    def add_output(self, port: Dict[str, Any]) -> None:
        self._add("output", port)

    def _add(self, way: str, port: Dict[str, Any]) -> None:
        for word in ("name", "data_type", "dims"):
            if word not in port:
                raise ValueError("%s must have %s" % (way, word))
        there = self._values.setdefault(way, [])
        for one in there:
            if one["name"] == port["name"]:
                if list(one["dims"]) != list(port["dims"]) or one["data_type"] != port["data_type"]:
                    raise ValueError("%s '%s' is in config.pbtxt already, with other values" % (way, port["name"]))
                return
        there.append(dict(port))


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Optional[Tensor]:
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Optional[Tensor]:
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    return next((one for one in model_config.get("input", ()) if one["name"] == name), None)


def get_output_config_by_name(model_config: Dict[str, Any], name: str) -> Optional[Dict[str, Any]]:
    return next((one for one in model_config.get("output", ()) if one["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Dict[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled"))


def get_model_dir() -> str:
    """The folder of the version whose code is running."""
    return _place().model_dir


def triton_to_numpy_type(data_type: int) -> Any:
    """11 -> numpy.float32, by the numbers of model_config.proto."""
    return _numpy_type(CONFIG_TYPES[data_type])


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """ "TYPE_FP32" -> numpy.float32; TYPE_STRING is numpy.object_."""
    return _numpy_type(triton_type_string)


def _numpy_type(config_type: str) -> Any:
    import numpy as np

    dtype = DTYPES.get(protocol_name(config_type))
    if dtype is None:
        raise TritonModelException("%s has no type in numpy" % config_type)
    return np.dtype(dtype).type


def numpy_to_triton_type(data_type: Any) -> int:
    import numpy as np

    return CONFIG_TYPES.index(config_name(datatype_of(np.empty(0, dtype=data_type))))


def serialize_byte_tensor(input_tensor: Any) -> Any:
    """A BYTES array as an array of one `bytes`: each element with its length before it."""
    import numpy as np

    pieces = []
    for value in input_tensor.ravel():
        one = as_bytes(value)
        pieces.append(struct.pack("<I", len(one)) + one)
    return np.asarray(b"".join(pieces), dtype=object) if pieces else np.empty([0], dtype=object)


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Any:
    """The flat array that `serialize_byte_tensor` was given."""
    found, place = [], 0
    while place < len(encoded_tensor):
        length = struct.unpack_from("<I", encoded_tensor, place)[0]
        found.append(bytes(encoded_tensor[place + 4 : place + 4 + length]))
        place += 4 + length
    return objects(found, [len(found)])


def __getattr__(name: str) -> Any:
    """What Triton's module has and ours has not is refused by name; other names are simply absent."""
    if name in ("MetricFamily", "PreferredMemory", "ModelLoadStatus", "load_model", "unload_model", "is_model_ready"):
        raise TritonModelException("triton_python_backend_utils.%s is not served here" % name)
    raise AttributeError("module %r has no attribute %r" % (MODULE, name))
