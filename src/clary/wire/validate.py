"""Request validation in AWS's own words.

Clients check types and required members themselves, but no patterns and few lengths, so the server has to. Every
breach is reported at once, each with its value and its place:

    2 validation errors detected: Value '..' at 'productionVariants.1.member.variantName' failed to satisfy constraint:
    Member must ...; Value ...

Constraints on the items of lists and maps of scalars are reported on the container, as AWS does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.model import Operation, Shape
from clary.wire.patterns import matcher

MAX_SHOWN_CHARACTERS: Final = 1024  # of a value in a message: an oversized body must not come back whole
REDACTED: Final = "***Sensitive Data Redacted***"
MAX_ERRORS: Final = 20  # of one request; more would only bury the first

_SCALARS: Final = frozenset({
    "string", "character", "integer", "long", "short", "byte", "float", "double", "boolean", "timestamp", "blob",
    "bigInteger", "bigDecimal",
})  # fmt: skip
_NUMBERS: Final = frozenset({"integer", "long", "short", "byte", "float", "double", "bigInteger", "bigDecimal"})
# Bounds that a type has of itself.
_BITS: Final = {"integer": 31, "long": 63, "short": 15, "byte": 7}


def validate(shape: Shape, params: Mapping[str, Any]) -> list[str]:
    """What is wrong with the parameters of an operation, one sentence each; empty when all is well."""
    errors: list[str] = []
    _structure(shape, params, "", errors)
    return errors


def check(call: Call, params: Mapping[str, Any], code: str | None = None) -> None:
    """Raises: WireError with every breach. `code`: the error code, where the model names another than AWS sends."""
    shape = call.operation.input_shape
    if shape is None:
        errors = [_unknown(name, "", call.operation.name) for name in params]
    else:
        errors = validate(shape, params)
    if errors:
        count = f"{len(errors)} validation error{'s' if len(errors) > 1 else ''} detected: "
        message = count + "; ".join(errors[:MAX_ERRORS])
        raise WireError(code or error_code(call), 400, message, protocol=call.protocol)


# Names that services give to "your parameters are wrong", the most telling first.
_CODES: Final = ("ValidationException", "ValidationError", "InvalidParameterException", "InvalidRequestException",
                 "InvalidInputException")  # fmt: skip


def error_code(call: Call) -> str:
    """The code for a breached constraint: what the operation's model lists, else what the protocol is used to."""
    service = call.operation.service
    if {"query", "ec2"} & set(service.protocols):
        return "ValidationError"
    if call.protocol == "rest-xml":
        return "InvalidArgument"
    listed = {shape.error_code for shape in _errors(call.operation)}
    return next((code for code in _CODES if code in listed), "ValidationException")


def _errors(operation: Operation) -> list[Shape]:
    return operation.error_shapes


def _at(path: str, name: str) -> str:
    """The place in AWS's spelling: members begin in lower case."""
    name = name[:1].lower() + name[1:]
    return f"{path}.{name}" if path else name


def _breach(shape: Shape | None, value: Any, path: str, constraint: str) -> str:
    if value is None:
        return f"Value null at '{path}' failed to satisfy constraint: {constraint}"
    text = REDACTED if shape is not None and is_sensitive(shape) else shown(value)
    return f"Value '{text}' at '{path}' failed to satisfy constraint: {constraint}"


def _unknown(name: str, path: str, owner: str) -> str:
    return (
        f"Unknown member '{_at(path, name)}': the service model has no member {name} in {owner}; "
        "remove it, or upgrade botocore on the server if AWS has it by now"
    )


def is_sensitive(shape: Shape) -> bool:
    """The shape, or what a list or map of it holds, is marked sensitive."""
    if shape.metadata.get("sensitive"):
        return True
    match shape.type_name:
        case "list":
            return is_sensitive(shape.member)
        case "map":
            return is_sensitive(shape.key) or is_sensitive(shape.value)
    return False


def shown(value: Any) -> str:
    """A value as AWS prints it in a message: lists in brackets, maps as {k=v}, long ones cut."""
    text = _shown(value, 0)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def _shown(value: Any, depth: int) -> str:
    if depth > 4:
        return "..."
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return value[: MAX_SHOWN_CHARACTERS + 1]
        case bytes() | bytearray() | memoryview():
            return f"{len(value)} bytes"
        case datetime():
            return value.isoformat()
        case list():
            return f"[{', '.join(_shown(item, depth + 1) for item in value[:50])}]"
        case dict():
            pairs = list(value.items())[:50]
            return f"{{{', '.join(f'{key}={_shown(item, depth + 1)}' for key, item in pairs)}}}"
    return str(value)


def _structure(shape: Shape, value: Any, path: str, errors: list[str]) -> None:
    if shape.is_document_type or not isinstance(value, Mapping):
        return
    members = shape.members
    for name in shape.required_members:
        if value.get(name) is None:
            errors.append(_breach(members.get(name), None, _at(path, name), "Member must not be null"))
    for name, item in value.items():
        member = members.get(name)
        if member is None:
            errors.append(_unknown(name, path, shape.name))
        elif item is not None:
            _value(member, item, _at(path, name), errors)
    if shape.is_tagged_union:
        given = [name for name in members if value.get(name) is not None]
        if len(given) != 1:
            errors.append(_breach(shape, value, path, f"Exactly one member must be set of: [{', '.join(members)}]"))


def _value(shape: Shape, value: Any, path: str, errors: list[str]) -> None:
    match shape.type_name:
        case "structure":
            _structure(shape, value, path, errors)
        case "list":
            errors.extend(_breach(shape, value, path, text) for text in _length(shape, len(value)))
            if shape.member.type_name in _SCALARS:
                breaches = _distinct(text for item in value for text in _scalar_or_null(shape.member, item))
                if breaches:
                    constraint = f"Member must satisfy constraint: [{', '.join(breaches)}]"
                    errors.append(_breach(shape, value, path, constraint))
            else:
                for number, item in enumerate(value, 1):
                    _item(shape.member, item, f"{path}.{number}.member", errors)
        case "map":
            errors.extend(_breach(shape, value, path, text) for text in _length(shape, len(value)))
            keys = _distinct(text for key in value for text in _scalar(shape.key, key))
            if keys:
                errors.append(_breach(shape, value, path, f"Map keys must satisfy constraint: [{', '.join(keys)}]"))
            if shape.value.type_name in _SCALARS:
                values = _distinct(text for item in value.values() for text in _scalar_or_null(shape.value, item))
                if values:
                    constraint = f"Map value must satisfy constraint: [{', '.join(values)}]"
                    errors.append(_breach(shape, value, path, constraint))
            else:
                for key, item in value.items():
                    _item(shape.value, item, f"{path}.{key}.member", errors)
        case _:
            errors.extend(_breach(shape, value, path, text) for text in _scalar(shape, value))


def _item(shape: Shape, item: Any, path: str, errors: list[str]) -> None:
    if item is None:
        errors.append(_breach(shape, None, path, "Member must not be null"))
    else:
        _value(shape, item, path, errors)


def _distinct(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))


def _length(shape: Shape, length: int) -> list[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    found: list[str] = []
    if most is not None and length > most:
        found.append(f"Member must have length less than or equal to {most}")
    if least is not None and length < least:
        found.append(f"Member must have length greater than or equal to {least}")
    return found


def _scalar_or_null(shape: Shape, value: Any) -> list[str]:
    return ["Member must not be null"] if value is None else _scalar(shape, value)


def _scalar(shape: Shape, value: Any) -> list[str]:
    """The constraints that a scalar breaks."""
    kind = shape.type_name
    if kind in ("string", "character"):
        return _string(shape, value)
    if kind in _NUMBERS:
        return _range(shape, value)
    if kind == "blob" and isinstance(value, (bytes, bytearray)):
        return _length(shape, len(value))
    return []


def _string(shape: Shape, value: Any) -> list[str]:
    if not isinstance(value, str):
        return []  # a header that carries JSON: any value
    if shape.enum:
        return [] if value in shape.enum else [f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"]
    found = _length(shape, len(value))
    pattern = shape.metadata.get("pattern")
    too_long = len(value) > shape.metadata.get("max", len(value))
    # A value that is already too long is not matched as well: backtracking grows with length.
    if pattern is not None and not too_long and not matcher(pattern)(value):
        found.append(f"Member must satisfy regular expression pattern: {pattern}")
    return found


def _range(shape: Shape, value: Any) -> list[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    bits = _BITS.get(shape.type_name)
    if bits is not None:
        most = 2**bits - 1 if most is None else most
        least = -(2**bits) if least is None else least
    found: list[str] = []
    if most is not None and value > most:
        found.append(f"Member must have value less than or equal to {most}")
    if least is not None and value < least:
        found.append(f"Member must have value greater than or equal to {least}")
    return found
