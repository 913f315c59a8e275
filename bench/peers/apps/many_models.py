"""Small models by the number, each a folder of its own: the logistic regression with its intercept moved a little."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import joblib
import models


def write(store: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of each of BENCH_MANY models, model.joblib written."""
    trained = joblib.load(models.folder() / "logistic.joblib")
    for number in range(int(os.environ["BENCH_MANY"])):
        folder = store / f"m{number}"
        folder.mkdir(parents=True)
        one = copy.deepcopy(trained)
        one.intercept_ = one.intercept_ + number / 1000
        joblib.dump(one, folder / "model.joblib")
        yield folder.name, folder
