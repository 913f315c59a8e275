"""Forests are sped up without a changed bit, and only when that was proven."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)

from clary_worker import forest

IRIS = load_iris(return_X_y=True)
DIGITS = load_digits(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)
CASES = [
    (RandomForestClassifier(30, random_state=1), IRIS),
    (RandomForestClassifier(30, random_state=1, class_weight="balanced", max_depth=3), IRIS),
    (ExtraTreesClassifier(20, random_state=2), DIGITS),
    (RandomForestRegressor(30, random_state=3), DIABETES),
    (ExtraTreesRegressor(10, random_state=4, bootstrap=True), DIABETES),
    (RandomForestRegressor(1, max_depth=1, random_state=5), DIABETES),
]


@pytest.mark.parametrize(("estimator", "data"), CASES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("count", [1, 2, 16, 17, 200])
def test_a_sped_up_forest_answers_the_same_bits(estimator: Any, data: Any, count: int) -> None:
    x, y = data
    own = copy.deepcopy(estimator).fit(x, y)
    fast = copy.deepcopy(own)
    assert forest.speed_up(fast)
    generator = np.random.default_rng(count)
    rows = x[generator.integers(0, len(x), count)] + generator.normal(0, 0.05, (count, x.shape[1]))
    for given in (rows, rows.astype(np.float32), np.round(rows).astype(int)):
        assert np.array_equal(fast.predict(given), own.predict(given))
        if hasattr(own, "predict_proba"):
            assert np.array_equal(fast.predict_proba(given), own.predict_proba(given))


def test_a_large_forest_builds_its_table_when_small_requests_keep_coming() -> None:
    x, y = DIABETES
    own = RandomForestRegressor(60, random_state=0).fit(x, y)
    fast = copy.deepcopy(own)
    table = forest.Forest([tree.tree_ for tree in own.estimators_])
    assert table.nodes > 20_000
    assert not table.tabled
    assert forest.speed_up(fast)
    for row in range(40):
        assert fast.predict(x[row : row + 1]) == own.predict(x[row : row + 1])
        table.mean(np.float32(x[row : row + 1]))
    assert table.tabled


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0, 3.0]], "expecting 4 features"),
        ([[1.0, 2.0, 3.0, np.inf]], "infinity"),
        ([[1.0, 2.0, 3.0, 1e300]], "infinity"),
        ([["a", 2.0, 3.0, 4.0]], "could not convert string"),
    ],
)
def test_wrong_rows_fail_as_in_the_library(rows: list[list[Any]], words: str) -> None:
    fast = RandomForestClassifier(5, random_state=0).fit(*IRIS)
    assert forest.speed_up(fast)
    with pytest.raises(ValueError, match=words):
        fast.predict(np.array(rows, dtype=object if isinstance(rows[0][0], str) else float))


def test_missing_values_go_the_librarys_way() -> None:
    x, y = IRIS
    holes = x.copy()
    holes[::3, 2] = np.nan
    own = RandomForestClassifier(10, random_state=0).fit(holes, y)
    fast = copy.deepcopy(own)
    assert forest.speed_up(fast)
    assert np.array_equal(fast.predict_proba(holes), own.predict_proba(holes))


class Shifted(RandomForestRegressor):
    """A forest of somebody else's, whose predict is not the mean."""

    def predict(self, X: Any) -> Any:
        return super().predict(X) + 1


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        (GradientBoostingClassifier(n_estimators=3), IRIS),
        (Shifted(3), DIABETES),
        (RandomForestRegressor(3), (DIABETES[0], np.column_stack([DIABETES[1], DIABETES[1]]))),
    ],
    ids=["boosting", "subclass", "two outputs"],
)
def test_what_is_no_plain_forest_is_left_alone(estimator: Any, data: Any) -> None:
    fitted = estimator.fit(*data)
    assert not forest.speed_up(fitted)
    assert "predict" not in vars(fitted)


def test_a_forest_that_fails_its_proof_is_left_alone() -> None:
    fitted = RandomForestRegressor(3, random_state=0).fit(*DIABETES)
    fitted.estimators_.append(fitted.estimators_[0])
    fitted.n_outputs_ = 1
    wrong = fitted.predict
    fitted.predict = lambda X: wrong(X) + 1
    before = fitted.predict
    assert not forest.speed_up(fitted)
    assert fitted.predict is before
