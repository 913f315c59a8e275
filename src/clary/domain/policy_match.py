"""How policies compare: patterns with `*` and `?`, ARNs, policy variables, condition operators. Pure.

Patterns are matched in time that no pattern can blow up. A variable's value is taken literally, whatever signs it
holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

# Key in lower case -> value, or values where a key has several (aws:TagKeys).
Context = Mapping[str, str | Sequence[str]]
# (value in the request, value in the policy, the latter as a pattern) -> match; None when it makes no sense.
Match = Callable[[str, str, Sequence[str]], bool | None]

# Keys that callers put into the context wherever they apply, so that their absence means what it means on AWS. A key
# ending in "/" stands for all that begin with it. Any other key is one that we do not know.
KNOWN_KEYS = frozenset(
    {
        *("aws:currenttime", "aws:epochtime", "aws:principalaccount", "aws:principalarn", "aws:principaltag/"),
        *("aws:principaltype", "aws:requestedregion", "aws:requesttag/", "aws:resourceaccount", "aws:resourcetag/"),
        *("aws:securetransport", "aws:sourceip", "aws:tagkeys", "aws:useragent", "aws:userid", "aws:username"),
        *("iam:passedtoservice", "iam:resourcetag/", "s3:delimiter", "s3:max-keys", "s3:prefix"),
        *("sagemaker:resourcetag/", "sagemaker:targetmodel"),
    }
)


class _Wild(StrEnum):
    MANY = "*"
    ONE = "?"


def like(value: str, pattern: str) -> bool:
    """Whether `value` fits a pattern of `*` and `?`, in time that no pattern can blow up."""
    return _fits(value, tuple(_WILD.get(char, char) for char in pattern))


_WILD = {"*": _Wild.MANY, "?": _Wild.ONE}
# "${aws:username}", "${aws:username, 'default'}"; "${*}", "${?}" and "${$}" stand for the bare signs.
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def tokens(pattern: str, context: Context | None) -> tuple[str, ...] | None:
    """The pattern with variables filled in (literally, whatever they hold); None when one has no value.

    Without a context, `${...}` is plain text.
    """
    found: list[str] = []
    at = 0
    for match in _VARIABLE.finditer(pattern) if context is not None else ():
        found.extend(_WILD.get(char, char) for char in pattern[at : match.start()])
        value = _variable(match[1], context or {})
        if value is None:
            return None
        found.extend(str(char) for char in value)
        at = match.end()
    found.extend(_WILD.get(char, char) for char in pattern[at:])
    return tuple(found)


def _variable(text: str, context: Context) -> str | None:
    if text in ("*", "?", "$"):
        return text
    name, comma, default = text.partition(",")
    value = context.get(name.strip().lower())
    if isinstance(value, str):
        return value
    default = default.strip()
    return default[1:-1] if comma and len(default) >= 2 and default[0] == default[-1] == "'" else None


def _fits(value: str, pattern: Sequence[str]) -> bool:
    """Two fingers: on a mismatch the last `*` takes one character more. At most len(value) * len(pattern) steps."""
    at = token = 0
    star, mark = -1, 0
    while at < len(value):
        current = pattern[token] if token < len(pattern) else None
        if current is _Wild.MANY:
            star, mark = token, at
            token += 1
        elif current is _Wild.ONE or (current == value[at] and not isinstance(current, _Wild)):
            at += 1
            token += 1
        elif star >= 0:
            mark += 1
            at, token = mark, star + 1
        else:
            return False
    return all(one is _Wild.MANY for one in pattern[token:])


def arn_like(resource: str, pattern: Sequence[str], *, widely: bool) -> bool:
    """Each of an ARN's six parts fits on its own; `widely` also lets a `*` reach over the colons.

    IAM does not let it reach over them (user guide, "IAM JSON policy elements: Resource"); where matching less would
    open a door, both ways count.
    """
    if len(pattern) == 1 and pattern[0] is _Wild.MANY:
        return True
    if widely and _fits(resource, pattern):
        return True
    parts: list[list[str]] = [[]]
    for one in pattern:
        if one == ":" and len(parts) < 6:
            parts.append([])
        else:
            parts[-1].append(one)
    values = resource.split(":", 5)
    return len(parts) == len(values) and all(_fits(value, part) for value, part in zip(values, parts, strict=True))


# Conditions


@dataclass(frozen=True, slots=True)
class _Operator:
    """`match` answers None when the policy's value makes no sense for it."""

    match: Match
    negated: bool = False


def holds(
    operator_text: str, key: str, wanted_values: Sequence[str], context: Context, variables: bool, unsure: bool
) -> bool:
    """Whether one condition is met; `unsure` is the answer when that cannot be told.

    Any wanted value may match, none for the negated operators. The context's keys are in lower case.
    """
    quantifier, name, if_exists = split_operator(operator_text)
    key = key.lower()
    family, slash, _ = key.partition("/")
    known = key in context or key in KNOWN_KEYS or (bool(slash) and f"{family}/" in KNOWN_KEYS)
    if not known:
        return unsure
    present = context.get(key)
    values = () if present is None else (present,) if isinstance(present, str) else tuple(present)
    if name == "Null":
        wanted = {value.lower() for value in wanted_values}
        return unsure if wanted - {"true", "false"} else ("true" if not values else "false") in wanted
    operator = OPERATORS.get(name)
    if operator is None:
        return unsure
    filled = [tokens(value, context if variables else None) for value in wanted_values]
    if any(one is None for one in filled):
        return unsure
    if not values:
        return if_exists or quantifier == "ForAllValues" or (operator.negated and quantifier == "")
    patterns = [one for one in filled if one is not None]
    results: list[bool] = []
    for value in values:
        matches = [operator.match(value, "".join(one), one) for one in patterns]
        if any(found is None for found in matches):
            return unsure
        results.append(any(matches) != operator.negated)
    return any(results) if quantifier == "ForAnyValue" or (not quantifier and not operator.negated) else all(results)


def split_operator(text: str) -> tuple[str, str, bool]:
    """("ForAllValues", "ForAnyValue" or "", the operator, whether IfExists stood behind it)."""
    quantifier, colon, name = text.rpartition(":")
    stem = name.removesuffix("IfExists")
    return (quantifier if colon else ""), stem, stem != name


def _string(compare: Callable[[str, str], bool]) -> Match:
    return lambda value, wanted, _tokens: compare(value, wanted)


def _pattern(value: str, _wanted: str, tokens: Sequence[str]) -> bool | None:
    return _fits(value, tokens)


def _arn(value: str, _wanted: str, pattern: Sequence[str]) -> bool | None:
    return arn_like(value, pattern, widely=False)


def _number(compare: Callable[[float, float], bool]) -> Match:
    def match(value: str, wanted: str, _tokens: Sequence[str]) -> bool | None:
        try:
            limit = float(wanted)
        except ValueError:
            return None
        try:
            return compare(float(value), limit)
        except ValueError:
            return None

    return match


def _date(compare: Callable[[float, float], bool]) -> Match:
    def match(value: str, wanted: str, _tokens: Sequence[str]) -> bool | None:
        have, limit = _epoch(value), _epoch(wanted)
        return None if have is None or limit is None else compare(have, limit)

    return match


def _epoch(text: str) -> float | None:
    """Seconds of an ISO 8601 time (UTC unless it says otherwise) or of a plain number of seconds."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _address(value: str, wanted: str, _tokens: Sequence[str]) -> bool | None:
    try:
        network = ipaddress.ip_network(wanted, strict=False)
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address) in network


def _bool(value: str, wanted: str, _tokens: Sequence[str]) -> bool | None:
    return None if wanted.lower() not in ("true", "false") else value.lower() == wanted.lower()


_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "Equals": lambda a, b: a == b,
    "LessThan": lambda a, b: a < b,
    "LessThanEquals": lambda a, b: a <= b,
    "GreaterThan": lambda a, b: a > b,
    "GreaterThanEquals": lambda a, b: a >= b,
}
# IAM user guide, "IAM JSON policy elements: Condition operators"; Null has no value to compare and stands apart.
OPERATORS: Mapping[str, _Operator] = {
    "StringEquals": _Operator(_string(lambda a, b: a == b)),
    "StringNotEquals": _Operator(_string(lambda a, b: a == b), negated=True),
    "StringEqualsIgnoreCase": _Operator(_string(lambda a, b: a.lower() == b.lower())),
    "StringNotEqualsIgnoreCase": _Operator(_string(lambda a, b: a.lower() == b.lower()), negated=True),
    "StringLike": _Operator(_pattern),
    "StringNotLike": _Operator(_pattern, negated=True),
    **{f"Numeric{name}": _Operator(_number(order)) for name, order in _ORDERS.items()},
    "NumericNotEquals": _Operator(_number(_ORDERS["Equals"]), negated=True),
    **{f"Date{name}": _Operator(_date(order)) for name, order in _ORDERS.items()},
    "DateNotEquals": _Operator(_date(_ORDERS["Equals"]), negated=True),
    "Bool": _Operator(_bool),
    "BinaryEquals": _Operator(_string(lambda a, b: a == b)),
    "IpAddress": _Operator(_address),
    "NotIpAddress": _Operator(_address, negated=True),
    "ArnEquals": _Operator(_arn),
    "ArnLike": _Operator(_arn),
    "ArnNotEquals": _Operator(_arn, negated=True),
    "ArnNotLike": _Operator(_arn, negated=True),
}
