"""Arithmetic over metrics."""

from __future__ import annotations

import pytest

from clary.domain.errors import Invalid, Unsupported
from clary.domain.metric_math import evaluate, names

A = {0: 10.0, 60: 20.0, 120: 0.0}
B = {60: 5.0, 120: 0.0, 180: 1.0}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", A),
        ("a + b", {60: 25.0, 120: 0.0}),
        ("a / b", {60: 4.0}),
        ("100 * a", {0: 1000.0, 60: 2000.0, 120: 0.0}),
        ("(a - b) * 2", {60: 30.0, 120: 0.0}),
        ("-a + 1 / 2", {0: -9.5, 60: -19.5, 120: 0.5}),
    ],
)
def test_arithmetic(expression: str, expected: dict[int, float]) -> None:
    assert evaluate(expression, {"a": A, "b": B}) == expected


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("SUM(METRICS())", Unsupported),
        ("a ** 2", Unsupported),
        ("a > b", Unsupported),
        ("SELECT AVG(x) FROM y", Invalid),
        ("c + 1", Invalid),
        ("1 + 1", Invalid),
        ("1 / 0", Invalid),
        ("a +", Invalid),
        ("__import__('os')", Unsupported),
        ("'text' + a", Unsupported),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        evaluate(expression, {"a": A, "b": B})


def test_names_of_an_expression() -> None:
    assert names("(m1 + m2) / e1 * 100") == {"m1", "m2", "e1"}
