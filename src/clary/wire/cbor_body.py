"""CBOR bodies of smithy rpc-v2-cbor: bytes <-> Python values, led by a shape.

The same tree walk as JSON; only the leaves differ: blobs are byte strings, timestamps are tag 1, NaN is a number.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import cbor2

from clary.wire import timestamps
from clary.wire.errors import malformed
from clary.wire.json_body import MAX_DEPTH, TreeReader, TreeWriter, unexpected
from clary.wire.model import Shape


def loads(body: bytes) -> Any:
    """The document in a body. Raises: WireError (SerializationException)."""
    try:
        return cbor2.loads(body, max_depth=MAX_DEPTH, strict_hashable_types=True, semantic_decoders=_REFUSED)
    except (cbor2.CBORDecodeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise malformed(f"The request body is not valid CBOR: {error}") from error


def _refuse(*_ignored: object) -> Any:
    raise ValueError("it holds a tagged value that no AWS protocol uses")


# Tags that cbor2 would act on and no AWS protocol uses; shared references (28, 29) could tie a document into a knot.
_REFUSED: Final = dict.fromkeys(
    (4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000), _refuse
)


class _Reader(TreeReader):
    def read_timestamp(self, value: Any, path: str) -> Any:
        if isinstance(value, datetime):
            return timestamps.aware(value)
        return super().read_timestamp(value, path)

    def read_blob(self, value: Any, path: str) -> bytes:
        if not isinstance(value, bytes):
            raise unexpected(value, "a Blob", path)
        return value


class _Writer(TreeWriter):
    def write_timestamp(self, shape: Shape, value: Any) -> Any:
        return cbor2.CBORTag(1, timestamps.epoch(value))

    def write_blob(self, value: Any) -> Any:
        return value.encode() if isinstance(value, str) else bytes(value)

    def write_float(self, shape: Shape, value: Any) -> Any:
        return float(value)


READER: Final = _Reader()
WRITER: Final = _Writer()


def dumps(document: Any) -> bytes:
    return cbor2.dumps(document)
