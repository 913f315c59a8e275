"""Event patterns of EventBridge: which events a rule takes. Pure.

A pattern mirrors the event: of every field that it names, at least one condition has to hold for at least one value.
Source: EventBridge user guide, "Creating event patterns" (comparison operators).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clary.domain.errors import Invalid, Unsupported

OPERATORS = ("prefix", "suffix", "anything-but", "numeric", "exists", "equals-ignore-case")
INSIDE_PREFIX = ("equals-ignore-case",)
INSIDE_ANYTHING_BUT = ("prefix", "suffix", "equals-ignore-case")
NOT_SERVED = ("wildcard", "cidr", "$or")
SIGNS = ("=", "<", "<=", ">", ">=")
MAX_CHARS = 4096  # EventBridge quotas, "Event pattern size" is 2048 by default and may be raised


def check(text: str) -> dict[str, Any]:
    """The pattern. Raises: Invalid (rule InvalidEventPatternException), Unsupported."""
    if len(text) > MAX_CHARS:
        raise _wrong(f"it is longer than {MAX_CHARS} characters")
    try:
        pattern = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is not JSON: {error}") from error
    if not isinstance(pattern, dict):
        raise _wrong("Filter is not an object")
    _check_fields(pattern, "")
    return pattern


def _check_fields(pattern: Mapping[str, Any], path: str) -> None:
    if not pattern:
        raise _wrong(f"Empty objects are not allowed{f' at {path}' if path else ''}")
    for name, wanted in pattern.items():
        here = f"{path}.{name}" if path else name
        if name in NOT_SERVED:
            raise Unsupported(f'"{name}" in an event pattern', f"served are {', '.join(OPERATORS)}")
        if isinstance(wanted, dict):
            _check_fields(wanted, here)
        elif isinstance(wanted, list) and wanted:
            for condition in wanted:
                _check_condition(condition, here)
        else:
            raise _wrong(f'"{here}" must be an object or a non-empty array')


def _check_condition(condition: Any, path: str) -> None:
    if isinstance(condition, list):
        raise _wrong(f'"{path}": a condition is a value or an object, not an array')
    if not isinstance(condition, dict):
        return
    if len(condition) != 1:
        raise _wrong(f'"{path}": a condition object has exactly one operator')
    ((operator, operand),) = condition.items()
    if operator in NOT_SERVED:
        raise Unsupported(f'"{operator}" in an event pattern', f"served are {', '.join(OPERATORS)}")
    match operator:
        case "prefix" | "suffix":
            good = isinstance(operand, str) or _only(operand, INSIDE_PREFIX)
        case "equals-ignore-case":
            good = isinstance(operand, str)
        case "exists":
            good = isinstance(operand, bool)
        case "numeric":
            good = _is_numeric(operand)
        case "anything-but":
            good = _is_anything_but(operand)
        case _:
            raise _wrong(f'"{path}": Unrecognized match type {operator}')
    if not good:
        raise _wrong(f'"{path}": {json.dumps(operand)} is nothing that {operator} takes')


def _only(operand: Any, operators: tuple[str, ...]) -> bool:
    return (
        isinstance(operand, dict)
        and len(operand) == 1
        and next(iter(operand)) in operators
        and isinstance(next(iter(operand.values())), str)
    )


def _is_numeric(operand: Any) -> bool:
    if not isinstance(operand, list) or not operand or len(operand) % 2:
        return False
    pairs = zip(operand[::2], operand[1::2], strict=True)
    return all(sign in SIGNS and isinstance(value, (int, float)) for sign, value in pairs)


def _is_anything_but(operand: Any) -> bool:
    if isinstance(operand, dict):
        if len(operand) != 1 or next(iter(operand)) not in INSIDE_ANYTHING_BUT:
            return False
        inner = next(iter(operand.values()))
        return isinstance(inner, str) or (isinstance(inner, list) and all(isinstance(one, str) for one in inner))
    values = operand if isinstance(operand, list) else [operand]
    return bool(values) and all(isinstance(one, (str, int, float)) for one in values)


def matches(pattern: Mapping[str, Any], event: Any) -> bool:
    """Whether an event satisfies a pattern that `check` has let pass."""
    return all(_field(wanted, _values(event, name)) for name, wanted in pattern.items())


def _field(wanted: Any, values: list[Any]) -> bool:
    if isinstance(wanted, dict):
        inside = [value for value in values if isinstance(value, dict)]
        if inside:
            return any(matches(wanted, value) for value in inside)
        return matches(wanted, {})  # what is absent may be asked for: {"exists": false}
    leaves = [value for value in values if not isinstance(value, dict)]
    return any(_holds(condition, leaves) for condition in wanted)


def _values(event: Any, name: str) -> list[Any]:
    """What a field holds: the items of an array, or the one value; nothing where it is absent."""
    if not isinstance(event, dict) or name not in event:
        return []
    value = event[name]
    return list(value) if isinstance(value, list) else [value]


def _holds(condition: Any, values: list[Any]) -> bool:
    if isinstance(condition, dict) and "exists" in condition:
        return bool(values) is bool(condition["exists"])
    return any(_value_holds(condition, value) for value in values)


def _value_holds(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        return _same(condition, value)
    ((operator, operand),) = condition.items()
    match operator:
        case "anything-but":
            return not _excluded(operand, value)
        case "numeric":
            return isinstance(value, (int, float)) and not isinstance(value, bool) and _within(operand, value)
        case _:
            return isinstance(value, str) and _text_holds(operator, operand, value)


def _text_holds(operator: str, operand: Any, value: str) -> bool:
    if isinstance(operand, dict):
        operand, value = next(iter(operand.values())).lower(), value.lower()
    match operator:
        case "prefix":
            return value.startswith(str(operand))
        case "suffix":
            return value.endswith(str(operand))
        case _:
            return value.lower() == str(operand).lower()


def _excluded(operand: Any, value: Any) -> bool:
    if isinstance(operand, dict):
        ((operator, inner),) = operand.items()
        words = inner if isinstance(inner, list) else [inner]
        return isinstance(value, str) and any(_text_holds(operator, word, value) for word in words)
    words = operand if isinstance(operand, list) else [operand]
    return any(_same(word, value) for word in words)


def _same(wanted: Any, value: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return (type(wanted) is type(value) and wanted == value) or (_plain(wanted) and _plain(value) and wanted == value)


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(terms: list[Any], value: float) -> bool:
    """["=", 1], [">", 0, "<=", 5]. Floats, because an int does not compare itself with one by its methods."""
    number = float(value)
    checks = {"=": number.__eq__, "<": number.__lt__, "<=": number.__le__, ">": number.__gt__, ">=": number.__ge__}
    return all(checks[sign](float(bound)) is True for sign, bound in zip(terms[::2], terms[1::2], strict=True))


def _wrong(why: str) -> Invalid:
    return Invalid("EventPattern", f"Event pattern is not valid. Reason: {why}", rule="InvalidEventPatternException")
