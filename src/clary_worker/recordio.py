"""application/x-recordio-protobuf, both ways, without a protobuf library.

A body is a run of frames: magic, length, a serialized aialgs `Record`, zero bytes to a multiple of four. A Record maps
feature names to tensors; rows are in "values", dense, or sparse when it has keys. Only these fields matter here:

    Record.features = 1, .label = 2      maps: entry {key = 1: string, value = 2: Value}
    Value.float32_tensor = 2, .float64_tensor = 3, .int32_tensor = 7
    tensor.values = 1, .keys = 2 (uint64), .shape = 3 (uint64), packed or not

Source: the record schema of Amazon's built-in algorithms (common data formats for training, SageMaker developer
guide) and MXNet's RecordIO framing. Every length is checked before a byte of it is read.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, Iterator, List, Tuple

from .contract import BadRequest

MAGIC = 0xCED7230A
_LENGTH_MASK = (1 << 29) - 1  # the top three bits say how a record is cut into parts; ours are whole
_FLOAT32, _FLOAT64, _INT32 = 2, 3, 7
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_WIDTH = 1 << 31


def parse(body: bytes) -> Any:
    """The rows of "values": a float64/float32/int32 array when all records are dense, else a CSR matrix.

    Raises: BadRequest naming the record that is cut short, has no "values", or differs in width.
    """
    tensors = []
    for number, payload in enumerate(frames(body), 1):
        try:
            tensors.append(_values(payload))
        except (ValueError, IndexError, struct.error) as error:
            raise BadRequest("Record %d of the RecordIO body cannot be read: %s." % (number, error)) from None
    if not tensors:
        raise BadRequest("The RecordIO body holds no record.")
    if any(keys is not None for _, keys, _ in tensors):
        return _sparse(tensors)
    import numpy as np

    width = len(tensors[0][0])
    for number, (values, _, _) in enumerate(tensors, 1):
        if len(values) != width:
            raise BadRequest("Record %d has %d values, record 1 has %d." % (number, len(values), width))
    return np.vstack([values for values, _, _ in tensors])


def frames(body: bytes) -> Iterator[bytes]:
    """The payload of each frame. Raises: BadRequest when the framing is wrong."""
    at = 0
    while at < len(body):
        if len(body) - at < 8:
            raise BadRequest("The RecordIO body ends inside a frame's head at byte %d." % at)
        magic, length = struct.unpack_from("<II", body, at)
        if magic != MAGIC:
            raise BadRequest("The RecordIO body has no frame at byte %d: the magic number is missing." % at)
        length &= _LENGTH_MASK
        at += 8
        if len(body) - at < length:
            raise BadRequest("The RecordIO body ends inside a record at byte %d." % at)
        yield body[at : at + length]
        at += length + (-length) % 4


def encode(rows: Any, name: str = "score") -> bytes:
    """One record a row, the row as a float32 tensor under label `name` (as AWS's XGBoost container answers)."""
    import numpy as np

    return b"".join([encode_record({name: row}) for row in np.asarray(rows).reshape(len(rows), -1)])


def encode_record(record: Dict[str, Any]) -> bytes:
    """One record with a float32 tensor under each label."""
    import numpy as np

    entries = []
    for name, value in record.items():
        tensor = _field(1, np.asarray(value, dtype="<f4").tobytes())
        entries.append(_field(2, _field(1, name.encode()) + _field(2, _field(_FLOAT32, tensor))))
    return frame(b"".join(entries))


def encode_features(rows: Any) -> bytes:
    """Dense rows as request records: what a client sends."""
    import numpy as np

    out = []
    for row in np.asarray(rows, dtype=np.float32):
        tensor = _field(1, row.astype("<f4").tobytes())
        out.append(frame(_field(1, _field(1, b"values") + _field(2, _field(_FLOAT32, tensor)))))
    return b"".join(out)


def frame(payload: bytes) -> bytes:
    return struct.pack("<II", MAGIC, len(payload)) + payload + b"\0" * (-len(payload) % 4)


def _field(number: int, payload: bytes) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(len(payload)) + payload


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(data: bytes, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _fields(data: bytes) -> Iterator[Tuple[int, int, Any]]:
    """(field number, wire type, value) for each field; bytes for length-delimited ones."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire == _FIXED64:
            size = 8
        elif wire == _FIXED32:
            size = 4
        else:
            raise ValueError("wire type %d is not known" % wire)
        if len(data) - at < size:
            raise ValueError("a field is cut short")
        yield number, wire, data[at : at + size]
        at += size


def _values(payload: bytes) -> Tuple[Any, Any, int]:
    features: Dict[bytes, bytes] = {}
    for number, wire, entry in _fields(payload):
        if number == 1 and wire == _BYTES:
            key, value = b"", b""
            for place, kind, content in _fields(entry):
                if kind == _BYTES and place in (1, 2):
                    key, value = (content, value) if place == 1 else (key, content)
            features[key] = value
    if b"values" not in features:
        raise ValueError('it has no feature "values"')
    for number, wire, tensor in _fields(features[b"values"]):
        if wire == _BYTES and number in (_FLOAT32, _FLOAT64, _INT32):
            return _tensor(tensor, number)
    raise ValueError('"values" is neither a float32, a float64 nor an int32 tensor')


def _tensor(data: bytes, kind: int) -> Tuple[Any, Any, int]:
    """(values, keys or None, declared width or 0)."""
    import numpy as np

    chunks: List[bytes] = []
    integers: List[int] = []
    keys: List[int] = []
    shape: List[int] = []
    for number, wire, value in _fields(data):
        if number == 1 and kind != _INT32 and wire in (_BYTES, _FIXED32, _FIXED64):
            chunks.append(value)
        elif number in (1, 2, 3):
            target = {1: integers, 2: keys, 3: shape}[number]
            target.extend([value] if wire == _VARINT else _packed(value))
    if kind == _INT32:
        values = np.array([_signed(item) for item in integers], dtype=np.int32)
    else:
        values = np.frombuffer(b"".join(chunks), dtype="<f4" if kind == _FLOAT32 else "<f8")
    if keys and len(keys) != len(values):
        raise ValueError("it has %d keys for %d values" % (len(keys), len(values)))
    width = shape[-1] if shape else 0
    if width > _MAX_WIDTH or (keys and max(keys) >= _MAX_WIDTH):
        raise ValueError("a width over %d is not taken" % _MAX_WIDTH)
    # A sparse row may hold no value at all: its shape, with nothing in it, tells.
    sparse = bool(keys) or bool(width and not len(values))
    return values, np.array(keys, dtype=np.int64) if sparse else None, width


def _packed(data: bytes) -> List[int]:
    out = []
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        out.append(value)
    return out


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _sparse(tensors: List[Tuple[Any, Any, int]]) -> Any:
    import numpy as np
    from scipy.sparse import csr_matrix

    indices, values, ends, width = [], [], [0], 1
    for row, keys, declared in tensors:
        places = keys if keys is not None else np.arange(len(row))
        indices.append(places)
        values.append(row)
        ends.append(ends[-1] + len(row))
        width = max(width, declared, int(places.max()) + 1 if len(places) else 0)
    matrix = csr_matrix((np.concatenate(values), np.concatenate(indices), np.array(ends)), shape=(len(tensors), width))
    matrix.sort_indices()
    return matrix
