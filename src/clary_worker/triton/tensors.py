"""Tensors on the wire and in memory: datatypes, raw bytes, JSON values. Arrays are numpy's, in the machine's order.

A datatype has two spellings: the protocol's (FP32, BYTES) and the configuration's (TYPE_FP32, TYPE_STRING); we keep
the protocol's. BYTES is an array of objects, each a `bytes`; on the wire each has its length in four bytes before it.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Sequence, Tuple

from .errors import InferError

# Datatype -> numpy's name of it, all little-endian as on the wire. BF16 has none and is refused by name.
DTYPES: Dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
# The configuration's numbers of the same (model_config.proto, enum DataType); TYPE_INVALID is 0.
CONFIG_TYPES: Tuple[str, ...] = (
    "TYPE_INVALID",
    "TYPE_BOOL",
    "TYPE_UINT8",
    "TYPE_UINT16",
    "TYPE_UINT32",
    "TYPE_UINT64",
    "TYPE_INT8",
    "TYPE_INT16",
    "TYPE_INT32",
    "TYPE_INT64",
    "TYPE_FP16",
    "TYPE_FP32",
    "TYPE_FP64",
    "TYPE_STRING",
    "TYPE_BF16",
)
MAX_RANK = 32  # numpy 1's own limit
# numpy's kind and bytes of an element -> datatype; asking a dtype for its name takes ten times as long.
_OF_KIND = {("b", 1): "BOOL", ("f", 2): "FP16", ("f", 4): "FP32", ("f", 8): "FP64"}
_OF_KIND.update({("u", size): "UINT%d" % (8 * size) for size in (1, 2, 4, 8)})
_OF_KIND.update({("i", size): "INT%d" % (8 * size) for size in (1, 2, 4, 8)})


def _range(datatype: str) -> Tuple[int, int]:
    """The least and the greatest integer of it."""
    bits = int(datatype.lstrip("UINT"))
    return (0, (1 << bits) - 1) if datatype[0] == "U" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


_RANGES = {name: _range(name) for name in DTYPES if "INT" in name}


def protocol_name(config_type: str) -> str:
    """TYPE_STRING -> BYTES, TYPE_FP32 -> FP32."""
    return "BYTES" if config_type == "TYPE_STRING" else config_type[len("TYPE_") :]


def config_name(datatype: str) -> str:
    """BYTES -> TYPE_STRING, FP32 -> TYPE_FP32."""
    return "TYPE_STRING" if datatype == "BYTES" else "TYPE_" + datatype


def datatype_of(array: Any) -> str:
    """The datatype of an array; texts count as BYTES. Raises: InferError for one that the protocol lacks."""
    dtype = array.dtype
    if dtype.kind in "OSU":
        return "BYTES"
    found = _OF_KIND.get((dtype.kind, dtype.itemsize))
    if found is None:
        raise InferError("an array of %s is no tensor of the protocol" % array.dtype.name)
    return found


def listed(dims: Sequence[int]) -> str:
    """[-1,16]."""
    return "[%s]" % ",".join(str(size) for size in dims)


def count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


# -- raw bytes


def from_raw(name: str, model: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Any:
    """The array in `raw`, not copied where it has fixed-size elements. Raises: InferError."""
    import numpy as np

    if datatype == "BYTES":
        return _strings(name, shape, raw)
    dtype = np.dtype(DTYPES[datatype])
    expected = count(shape) * dtype.itemsize
    if expected != len(raw):
        raise InferError(
            "input byte size mismatch for input '%s' for model '%s'. Expected %d, got %d"
            % (name, model, expected, len(raw))
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _strings(name: str, shape: Sequence[int], raw: memoryview) -> Any:
    expected = count(shape)
    found: List[bytes] = []
    place, size = 0, len(raw)
    while place < size:
        if len(found) == expected:
            raise InferError(
                "unexpected number of string elements %d for inference input '%s', expecting %d"
                % (expected + 1, name, expected)
            )
        if place + 4 > size:
            raise InferError(
                "incomplete string length indicator for inference input '%s', expecting 4 bytes but only %d bytes "
                "available. Please make sure the string length indicator is in one contiguous chunk."
                % (name, size - place)
            )
        length = struct.unpack_from("<I", raw, place)[0]
        place += 4
        if place + length > size:
            raise InferError(
                "incomplete string data for inference input '%s', expecting string of length %d but only %d bytes "
                "available" % (name, length, size - place)
            )
        found.append(bytes(raw[place : place + length]))
        place += length
    if len(found) != expected:
        raise InferError("expected %d strings for inference input '%s', got %d" % (expected, name, len(found)))
    return objects(found, shape)


def objects(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """An array of objects, whatever the values are (numpy would look inside sequences)."""
    import numpy as np

    array: Any = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def to_raw(array: Any) -> bytes:
    """The array's bytes in row-major order, strings with their lengths."""
    import numpy as np

    if array.dtype.kind not in "OSU":
        raw: bytes = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        return raw
    pieces: List[bytes] = []
    for value in array.ravel():
        one = as_bytes(value)
        pieces.append(struct.pack("<I", len(one)))
        pieces.append(one)
    return b"".join(pieces)


def as_bytes(value: Any) -> bytes:
    """One element of a BYTES tensor, as its bytes."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8")


# -- JSON


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Any:
    """The array in a JSON value, nested or flat. Raises: InferError."""
    import numpy as np

    if datatype == "FP16":
        raise InferError(
            "receiving FP16 data via JSON is not supported. Please use the binary data format for input %s" % name
        )
    expected = count(shape)
    if datatype == "BYTES":
        flat: List[bytes] = []
        _flatten(name, data, flat, 0)
        _check_count(name, len(flat), expected)
        return objects(flat, shape)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):
        raise _unfit(name, "Shape does not match true shape of 'data' field") from None
    if array.size == 0 and expected == 0:
        return np.empty(shape, dtype=DTYPES[datatype])
    _check_count(name, array.size, expected)
    kind = array.dtype.kind
    if datatype == "BOOL":
        if kind != "b":
            raise _unfit(name, "attempt to access JSON non-boolean as boolean")
    elif "INT" in datatype:
        if kind in "fO":  # numpy takes 0 beside 2**64 - 1 for a float
            array = np.asarray(data, dtype=object)
            kind = "i" if all(type(value) is int for value in array.ravel()) else "O"
        if kind not in "iu":
            sign = "unsigned-integer" if datatype[0] == "U" else "signed-integer"
            raise _unfit(name, "attempt to access JSON non-%s as %s" % (sign, sign))
        low, high = _RANGES[datatype]
        if int(array.min()) < low or int(array.max()) > high:
            raise _unfit(name, "a value is out of the range of %s" % datatype)
    elif kind not in "iuf":
        raise _unfit(name, "attempt to access JSON non-number as number")
    return np.ascontiguousarray(array, dtype=DTYPES[datatype]).reshape(shape)


def _flatten(name: str, data: Any, flat: List[bytes], depth: int) -> None:
    if depth > MAX_RANK:
        raise _unfit(name, "the data is nested too deeply")
    for value in data:
        if isinstance(value, list):
            _flatten(name, value, flat, depth + 1)
        elif isinstance(value, str):
            flat.append(value.encode("utf-8", "surrogatepass"))
        else:
            raise _unfit(name, "attempt to access JSON non-string as string")


def _check_count(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise _unfit(name, "Shape does not match true shape of 'data' field")


def _unfit(name: str, text: str) -> InferError:
    return InferError("Unable to parse 'data': %s (input '%s')" % (text, name))


def to_json(name: str, array: Any) -> Any:
    """The array as a flat list of JSON values. Raises: InferError for what JSON cannot carry."""
    if array.dtype.kind in "OSU":
        try:
            return [as_bytes(value).decode("utf-8") for value in array.ravel()]
        except UnicodeDecodeError:
            raise InferError(
                "output '%s' holds bytes that are no UTF-8. Please use the binary data format for output" % name
            ) from None
    if array.dtype.itemsize == 2 and array.dtype.kind == "f":
        raise InferError(
            "sending FP16 data via JSON is not supported. Please use the binary data format for output %s" % name
        )
    return array.ravel().tolist()
