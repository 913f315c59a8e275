"""The KServe v2 inference protocol as Triton speaks it on SageMaker: a body to a request, outputs to a body.

    JSON      {"id", "parameters", "inputs": [{"name", "shape", "datatype", "data"}], "outputs": [{"name"}]}
    binary    such a JSON of N bytes, then the raw tensors in the order of the inputs that have a binary_data_size;
              content type application/vnd.sagemaker-triton.binary+json;json-header-size=N

A response is binary when any of its outputs is: by the request's binary_data_output, or an output's own binary_data.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..contract import JSON
from .calls import Meta
from .errors import InferError
from .tensors import DTYPES, MAX_RANK, count, datatype_of, from_json, from_raw, to_json, to_raw


def _orjson() -> Any:
    """None where the environment lacks it; the standard library then reads and writes."""
    try:
        import orjson
    except ModuleNotFoundError:
        return None
    return orjson


_fast = _orjson()
BINARY_TYPE = "application/vnd.sagemaker-triton.binary+json;json-header-size="
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
_OF_TRITON = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output")


class InferRequest(NamedTuple):
    """`outputs`: (name, binary) of those asked for, None for all; `binary`: how those not named go back."""

    tensors: Dict[str, Any]
    outputs: Optional[List[Tuple[str, bool]]]
    binary: bool
    meta: Meta


def read(body: bytes, content_type: str, model: str) -> InferRequest:
    """The request in a body. Raises: InferError."""
    size = _header_size(content_type, len(body))
    head = _loaded(body[:size] if size != len(body) else body)
    if not isinstance(head, dict):
        raise InferError("Unable to parse 'inputs': attempt to access JSON non-object as object")
    request_id = head.get("id", "")
    if not isinstance(request_id, str):
        raise InferError("Unable to parse 'id': attempt to access JSON non-string as string")
    parameters = _parameters(head, "request")
    tensors = _inputs(head, memoryview(body)[size:], model)
    extra = {name: value for name, value in parameters.items() if name not in _OF_TRITON}
    meta = Meta(request_id, extra, parameters.get("sequence_id", 0))
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise InferError("Unable to parse 'binary_data_output': attempt to access JSON non-boolean as boolean")
    return InferRequest(tensors, _outputs(head, binary), binary, meta)


def written(model: str, version: int, request: InferRequest, found: Dict[str, Any]) -> Tuple[bytes, str]:
    """(body, content type) of a response. Raises: InferError for what JSON cannot carry."""
    import numpy as np

    binary = dict(request.outputs) if request.outputs is not None else {}
    outputs: List[Dict[str, Any]] = []
    raws: List[bytes] = []
    finite = True
    for name, array in found.items():
        one: Dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if binary.get(name, request.binary):
            raw = to_raw(array)
            one["parameters"] = {"binary_data_size": len(raw)}
            raws.append(raw)
        else:
            one["data"] = to_json(name, array)
            finite = finite and (array.dtype.kind != "f" or bool(np.isfinite(array).all()))
        outputs.append(one)
    head: Dict[str, Any] = {"id": request.meta.request_id} if request.meta.request_id else {}
    head.update(model_name=model, model_version=str(version), outputs=outputs)
    if _fast is not None and finite:
        text: bytes = _fast.dumps(head)
    else:  # NaN and Infinity stay what they are, as in Triton's own bodies; orjson would write null
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    has_binary = bool(raws) or any("parameters" in one for one in outputs)
    return (b"".join([text, *raws]), BINARY_TYPE + str(len(text))) if has_binary else (text, JSON)


def error_body(text: str) -> bytes:
    return json.dumps({"error": text}, ensure_ascii=False).encode("utf-8", "replace")


def _header_size(content_type: str, length: int) -> int:
    """Bytes of the JSON at the body's beginning; all of them unless the content type tells."""
    place = content_type.find(BINARY_TYPE)
    if place < 0:
        return length
    if place:
        raise InferError("expect MIME type for binary data starts with '%s', got: %s" % (BINARY_TYPE, content_type))
    told = content_type[len(BINARY_TYPE) :]
    digits = told.partition(";")[0].strip()
    if not digits.isascii() or not digits.isdigit():
        raise InferError("Unable to parse inference header size, got: %s" % told)
    size = int(digits[:20])
    if size > length:
        raise InferError("inference header size should be in range (0, %d), got: %s" % (length, told))
    return size


def _loaded(text: bytes) -> Any:
    try:
        try:
            return _fast.loads(text) if _fast is not None else json.loads(text)
        except ValueError:  # NaN and Infinity, which the client writes and orjson does not take
            return json.loads(text)
    except ValueError as error:
        raise InferError("failed to parse the request JSON buffer: %s" % error) from None
    except RecursionError:
        raise InferError("failed to parse the request JSON buffer: it is nested too deeply") from None


def _parameters(value: Dict[str, Any], whose: str) -> Dict[str, Any]:
    found = value.get("parameters", {})
    if not isinstance(found, dict):
        raise InferError("failed to get %s params.: attempt to access JSON non-object as object" % whose)
    for name in found:
        if name.startswith("triton_"):
            raise InferError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
    return found


def _named(value: Any, what: str) -> str:
    if not isinstance(value, dict):
        raise InferError("Unable to parse '%s': attempt to access JSON non-object as object" % what)
    name = value.get("name")
    if not isinstance(name, str):
        raise InferError("Unable to parse 'name': attempt to access JSON non-string as string")
    return name


def _no_shared_memory(name: str, parameters: Dict[str, Any]) -> None:
    if any(word in parameters for word in _SHARED_MEMORY):
        raise InferError("shared memory of '%s' is not served here; send the tensor in the body" % name)


def _inputs(head: Dict[str, Any], raw: memoryview, model: str) -> Dict[str, Any]:
    given = head.get("inputs")
    if not isinstance(given, list):
        raise InferError("Unable to parse 'inputs': attempt to access JSON non-array as array")
    tensors: Dict[str, Any] = {}
    place = 0
    for one in given:
        name = _named(one, "inputs")
        if name in tensors:
            raise InferError("input '%s' already exists in request" % name)
        parameters = _parameters(one, "input")
        _no_shared_memory(name, parameters)
        shape, datatype = _shape(name, one.get("shape")), _datatype(name, one.get("datatype"))
        size = parameters.get("binary_data_size")
        if size is None:
            data = one.get("data")
            if not isinstance(data, list):
                raise InferError("must specify 'data' as an array for input '%s'" % name)
            tensors[name] = from_json(name, datatype, shape, data)
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InferError("Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-integer")
        if place + size > len(raw):
            raise InferError("unexpected end of input data for input '%s' of model '%s'" % (name, model))
        tensors[name] = from_raw(name, model, datatype, shape, raw[place : place + size])
        place += size
    if place != len(raw):
        raise InferError("unexpected additional input data for model '%s'" % model)
    return tensors


def _shape(name: str, shape: Any) -> List[int]:
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise InferError("Unable to parse 'shape': input '%s' needs an array of at most %d sizes" % (name, MAX_RANK))
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InferError("Unable to parse 'shape': %r of input '%s' is no size" % (size, name))
    if count([size or 1 for size in shape]) >= 1 << 40:  # elements; no body holds as many, and 0 hides no size
        raise InferError("Unable to parse 'shape': input '%s' is larger than can be" % name)
    return shape


def _datatype(name: str, datatype: Any) -> str:
    if not isinstance(datatype, str):
        raise InferError("Unable to parse 'datatype': attempt to access JSON non-string as string")
    if datatype not in DTYPES:
        raise InferError("invalid datatype for input %s: '%s' is not served" % (name, datatype))
    return datatype


def _outputs(head: Dict[str, Any], binary: bool) -> Optional[List[Tuple[str, bool]]]:
    given = head.get("outputs")
    if given is None:
        return None
    if not isinstance(given, list):
        raise InferError("Unable to parse 'outputs': attempt to access JSON non-array as array")
    found: List[Tuple[str, bool]] = []
    for one in given:
        name = _named(one, "outputs")
        parameters = _parameters(one, "output")
        _no_shared_memory(name, parameters)
        if parameters.get("classification", 0) != 0:
            raise InferError("'classification' of output '%s' is not served here; ask for the tensor itself" % name)
        own = parameters.get("binary_data", False)
        if not isinstance(own, bool):
            raise InferError("Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean")
        found.append((name, own))
    # An empty list asks for everything, as none does.
    return found or None


def names(outputs: Optional[Sequence[Tuple[str, bool]]]) -> Optional[List[str]]:
    """The names alone, each once."""
    return None if outputs is None else list(dict.fromkeys(name for name, _ in outputs))
