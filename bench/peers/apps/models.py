"""The four models of the comparison, trained and called inside a peer's own environment, the same for every peer.

`load(kind)` gives a function from rows (lists of floats) to a list of answers. Nothing of a server is in here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("echo", "logistic", "forest", "xgboost")
Predict = Callable[[list[list[float]]], list[Any]]


def folder() -> Path:
    return Path(os.environ["BENCH_MODELS"])


def train() -> None:
    """Writes the three trained models; the echo has none."""
    import joblib
    import xgboost
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    data, labels = load_breast_cancer(return_X_y=True)
    folder().mkdir(parents=True, exist_ok=True)
    joblib.dump(LogisticRegression(max_iter=5000, random_state=7).fit(data, labels), folder() / "logistic.joblib")
    forest = RandomForestClassifier(100, random_state=7, n_jobs=1).fit(data, labels)
    joblib.dump(forest, folder() / "forest.joblib")
    options = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": 7}
    booster = xgboost.train(options, xgboost.DMatrix(data, labels), num_boost_round=60)
    booster.save_model(folder() / "xgboost.ubj")


def load(kind: str) -> Predict:
    """The model as a function of rows."""
    if kind == "echo":
        return list
    import numpy

    if kind == "xgboost":
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(folder() / "xgboost.ubj")
        return lambda rows: booster.inplace_predict(numpy.asarray(rows, numpy.float32)).tolist()
    import joblib

    estimator = joblib.load(folder() / f"{kind}.joblib")
    return lambda rows: estimator.predict(numpy.asarray(rows, numpy.float64)).tolist()


if __name__ == "__main__":
    sys.exit(train())
