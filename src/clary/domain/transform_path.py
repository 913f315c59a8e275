"""The JSONPath subset of InputFilter and OutputFilter (guide, "Associate prediction results with input records").

    path  = "$" step*
    step  = "." name | "." "*" | "[" inside "]"
    inside = "*" | number ("," number)* | 'name' ("," 'name')* | [start] ":" [end]

A slice's end is exclusive, as an array slice's. A list of names keeps an object, a list of numbers an array. CSV rows
are arrays of texts. What a path names and a record lacks is an error, never a silent null.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from clary.domain.errors import Invalid

_NAME = re.compile(r"\.(\*|[A-Za-z_][A-Za-z0-9_\-]*)")
_WILD = re.compile(r"\[\s*\*\s*\]")
_NUMBERS = re.compile(r"\[\s*(-?\d+(?:\s*,\s*-?\d+)*)\s*\]")
_NAMES = re.compile(r"""\[\s*((?:'[^']*'|"[^"]*")(?:\s*,\s*(?:'[^']*'|"[^"]*"))*)\s*\]""")
_SLICE = re.compile(r"\[\s*(-?\d*)\s*:\s*(-?\d*)\s*\]")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


class NoMatch(Exception):
    """A record does not have what the path names."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: exactly one member is set, or none for a wildcard."""

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    bounds: tuple[int | None, int | None] | None = None


@cache
def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path; none for "$". Raises: Invalid naming the place that is not understood."""
    if not path.startswith("$"):
        raise Invalid("JSONPath", f"{path!r} must begin with $")
    at, steps = 1, []
    while at < len(path):
        step, at = _step(path, at)
        steps.append(step)
    return tuple(steps)


def _step(path: str, at: int) -> tuple[Step, int]:
    if found := _NAME.match(path, at):
        return (Step() if found[1] == "*" else Step(names=(found[1],))), found.end()
    if found := _WILD.match(path, at):
        return Step(), found.end()
    if found := _NUMBERS.match(path, at):
        return Step(numbers=tuple(int(word) for word in found[1].split(","))), found.end()
    if found := _NAMES.match(path, at):
        return Step(names=tuple(one or other for one, other in _QUOTED.findall(found[1]))), found.end()
    if found := _SLICE.match(path, at):
        start, end = (int(word) if word else None for word in found.groups())
        return Step(bounds=(start, end)), found.end()
    raise Invalid("JSONPath", f"{path!r} is not understood from {path[at:]!r} on; see the supported operators")


def only_positions(steps: tuple[Step, ...]) -> bool:
    """Whether a CSV row can be asked: at most one step, by number, slice or wildcard."""
    return len(steps) <= 1 and not any(step.names for step in steps)


def select(steps: tuple[Step, ...], value: Any) -> Any:
    """What the path names in `value`. Raises: NoMatch saying what is missing."""
    for step in steps:
        value = _take(step, value)
    return value


def _take(step: Step, value: Any) -> Any:
    if step.names:
        if not isinstance(value, dict):
            raise NoMatch(f"{step.names[0]!r} is asked of what is no object")
        missing = [name for name in step.names if name not in value]
        if missing:
            raise NoMatch(f"there is no {missing[0]!r}")
        if len(step.names) == 1:
            return value[step.names[0]]
        return {name: value[name] for name in step.names}
    if not step.numbers and step.bounds is None and isinstance(value, dict):
        return list(value.values())
    if not isinstance(value, list):
        raise NoMatch("positions are asked of what is no array")
    if step.bounds is not None:
        return value[step.bounds[0] : step.bounds[1]]
    if not step.numbers:
        return value
    for number in step.numbers:
        if not -len(value) <= number < len(value):
            raise NoMatch(f"there is no position {number} among {len(value)}")
    if len(step.numbers) == 1:
        return value[step.numbers[0]]
    return [value[number] for number in step.numbers]
