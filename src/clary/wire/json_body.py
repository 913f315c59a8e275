"""JSON bodies: bytes <-> Python values, led by a shape (json 1.0, json 1.1, rest-json).

Reading is strict about types (a string where an integer belongs is a SerializationException, as on AWS) and lenient
about nothing but null, which means "absent". Members that the shape lacks are kept, so that validation can name them.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from clary.wire import timestamps
from clary.wire.errors import WireError, malformed
from clary.wire.model import Shape

MAX_DEPTH: Final = 64  # levels of nesting that a request may have; the deepest SageMaker input has 12

_SPECIAL_FLOATS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# The words in which AWS's deserialiser names what it found.
_FOUND: Final = {str: "STRING_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE", dict: "START_OBJECT",
                 list: "START_ARRAY", bytes: "BYTES_VALUE"}  # fmt: skip


def loads(body: bytes) -> Any:
    """The document in a body. Raises: WireError (SerializationException) when it is no JSON or nested too deeply."""
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(f"The request body is not valid JSON: {error}") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        check_depth(document)
    if b"\\ud" in body or b"\\uD" in body:
        _refuse_half_characters(document)
    return document


def _refuse_half_characters(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise malformed("The request body has half of a surrogate pair, which is no character.") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is no JSON number; send it as the string "{name}"')


def check_depth(document: Any) -> None:
    """Raises: WireError when a document is nested deeper than MAX_DEPTH."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = [item for item in below if isinstance(item, (dict, list))]
        if not level:
            return
    raise malformed(f"The request body is nested deeper than {MAX_DEPTH} levels.")


def unexpected(value: Any, wanted: str, path: str) -> WireError:
    """The error for a value of the wrong type, in AWS's words, with the place added."""
    found = (
        "TRUE_VALUE" if value is True else "FALSE_VALUE" if value is False else _FOUND.get(type(value), "NULL_VALUE")
    )
    return malformed(f"{found} can not be converted to {wanted}" + (f" at '{path}'" if path else ""))


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class TreeReader:
    """Reads a tree of plain values (dict, list, str, numbers) as a shape. CBOR differs in a few leaves only."""

    def read(self, shape: Shape, value: Any, path: str = "") -> Any:
        """The value with botocore's member names and Python types. Raises: WireError for a wrong type."""
        match shape.type_name:
            case "structure":
                return self.read_structure(shape, value, path)
            case "list":
                if not isinstance(value, list):
                    raise unexpected(value, "a List", path)
                item_path = joined(path, "member")
                return [None if item is None else self.read(shape.member, item, item_path) for item in value]
            case "map":
                if not isinstance(value, dict):
                    raise unexpected(value, "a Map", path)
                return {
                    self.read(shape.key, key, path): None
                    if item is None
                    else self.read(shape.value, item, joined(path, str(key)))
                    for key, item in value.items()
                }
            case "string" | "character":
                if not isinstance(value, str):
                    raise unexpected(value, "a String", path)
                return value
            case "integer" | "long" | "short" | "byte" | "bigInteger":
                return self.read_integer(value, path)
            case "float" | "double" | "bigDecimal":
                return self.read_float(value, path)
            case "boolean":
                if not isinstance(value, bool):
                    raise unexpected(value, "a Boolean", path)
                return value
            case "timestamp":
                return self.read_timestamp(value, path)
            case "blob":
                return self.read_blob(value, path)
        raise malformed(f"The service model has a type that is not known here: {shape.type_name} at '{path}'")

    def read_structure(self, shape: Shape, value: Any, path: str) -> Any:
        if shape.is_document_type:
            return value
        if not isinstance(value, dict):
            raise unexpected(value, "a Structure", path)
        known = shape.members_by_wire_name
        result: dict[str, Any] = {}
        for wire_name, item in value.items():
            bound = known.get(wire_name)
            if bound is None:
                if wire_name == "__type":  # some clients tag structures with their type
                    continue
                if wire_name in shape.members:
                    name = shape.members[wire_name].serialization["name"]
                    raise malformed(f"{wire_name} at '{path}' is written {name} on the wire; send {name}.")
                result[str(wire_name)] = item
            elif item is not None:
                name, member = bound
                result[name] = self.read(member, item, joined(path, name))
        return result

    def read_integer(self, value: Any, path: str) -> int:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise unexpected(value, "an Integer", path)
        return value

    def read_float(self, value: Any, path: str) -> float:
        if isinstance(value, str) and value in _SPECIAL_FLOATS:
            return _SPECIAL_FLOATS[value]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise unexpected(value, "a Float", path)
        try:
            return float(value)
        except OverflowError as error:
            raise unexpected(value, "a Float", path) from error

    def read_timestamp(self, value: Any, path: str) -> Any:
        try:
            return timestamps.parse(value)
        except ValueError as error:
            raise unexpected(value, "a Timestamp", path) from error

    def read_blob(self, value: Any, path: str) -> bytes:
        if not isinstance(value, str):
            raise unexpected(value, "a Blob", path)
        return decode_base64(value, path)


def decode_base64(text: str, path: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise malformed(f"'{path}' is not valid base64: {error}") from error


def encode_base64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode("ascii")


def special_float(value: float) -> str | None:
    """NaN and the infinities as AWS spells them; None for every other number."""
    if math.isfinite(value):
        return None
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class TreeWriter:
    """Writes Python values as a tree of plain values. Members that are None or that the shape lacks are left out."""

    def write(self, shape: Shape, value: Any) -> Any:
        match shape.type_name:
            case "structure":
                if shape.is_document_type:
                    return value
                return self.write_structure(shape, value)
            case "list":
                return [None if item is None else self.write(shape.member, item) for item in value]
            case "map":
                return {key: None if item is None else self.write(shape.value, item) for key, item in value.items()}
            case "timestamp":
                return self.write_timestamp(shape, value)
            case "blob":
                return self.write_blob(value)
            case "float" | "double" | "bigDecimal":
                return self.write_float(shape, value)
        return value

    def write_structure(self, shape: Shape, value: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, member in shape.members.items():
            item = value.get(name)
            if item is not None:
                result[member.serialization.get("name", name)] = self.write(member, item)
        return result

    def write_timestamp(self, shape: Shape, value: Any) -> Any:
        return timestamps.render(value, shape.serialization.get("timestampFormat", "unixTimestamp"))

    def write_blob(self, value: Any) -> Any:
        return encode_base64(value)

    def write_float(self, shape: Shape, value: Any) -> Any:
        return special_float(float(value)) or value


READER: Final = TreeReader()
WRITER: Final = TreeWriter()


def dumps(document: Any) -> bytes:
    """The bytes of a document, compact, UTF-8."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )
