"""Arithmetic over metrics: numbers, query ids, + - * / and parentheses; everything else is refused by its name.

A series is a value per time. Both sides must have a value at a time for the result to have one; dividing by zero leaves
none.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from clary.domain.errors import Invalid, Unsupported

Points = Mapping[int, float]
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def names(expression: str) -> set[str]:
    """The query ids in an expression. Raises: Invalid, Unsupported."""
    return {node.id for node in ast.walk(_parsed(expression)) if isinstance(node, ast.Name)}


def evaluate(expression: str, series: Mapping[str, Points]) -> Points:
    """Raises: Invalid for what is no expression or names no series, Unsupported for what is no arithmetic."""
    value = _value(_parsed(expression).body, expression, series)
    if isinstance(value, float):
        raise Invalid("Expression", f"{expression!r} names no query: a number alone has no times")
    return value


def _parsed(expression: str) -> ast.Expression:
    try:
        return ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        raise Invalid("Expression", f"{expression!r} is no arithmetic of query ids and numbers") from None


def _value(node: ast.expr, expression: str, series: Mapping[str, Points]) -> Points | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name):
            if name not in series:
                raise Invalid("Expression", f"{expression!r} names {name!r}, which is no query of this request")
            return series[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _joined(operator.mul, -1.0, _value(operand, expression, series))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _joined(_OPERATORS[type(op)], _value(left, expression, series), _value(right, expression, series))
        case ast.Call(func=ast.Name(id=name)):
            raise Unsupported(f"the metric math function {name}", "numbers, ids, + - * / and parentheses are")
        case _:
            raise Unsupported(f"{expression!r}", "numbers, query ids, + - * / and parentheses are")


def _joined(work: Callable[[float, float], float], left: Points | float, right: Points | float) -> Points | float:
    if isinstance(left, float) and isinstance(right, float):
        if work is operator.truediv and right == 0:
            raise Invalid("Expression", "it divides by the number 0")
        return work(left, right)
    times = set(left) if not isinstance(left, float) else set(right)  # type: ignore[arg-type]
    if not isinstance(left, float) and not isinstance(right, float):
        times &= set(right)
    found = {}
    for at_s in times:
        one = left if isinstance(left, float) else left[at_s]
        other = right if isinstance(right, float) else right[at_s]
        if not (work is operator.truediv and other == 0):
            found[at_s] = work(one, other)
    return found
