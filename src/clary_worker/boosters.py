"""XGBoost and LightGBM boosters, saved by the library or pickled.

XGBoost predicts in place (no DMatrix is built: 130 against 200 us for a row) where the booster allows it; a linear
booster does not, and goes through DMatrix. Values are the library's own either way, all rounds used, but for XGBoost
before 2.0, where AWS's container stops at the best round that early stopping found, and so do we.
"""

from __future__ import annotations

from typing import Any, Optional

from . import rows
from .codecs import Style
from .contract import Table
from .selectable import Selection
from .tabular import Tabular


class XGBoostModel(Tabular):
    style = Style(csv_one_line=True, scores=True)

    def __init__(self, booster: Any, loader: str, threads: int = 1, selected: str = "") -> None:
        """`selected`: SAGEMAKER_INFERENCE_OUTPUT's keys, "" for the plain prediction. Raises: LoadError."""
        import xgboost

        self.loader = loader
        self._selection = Selection(selected, booster.save_config()) if selected else None
        if selected:
            self.style = Style(records=True)
        self.booster = booster
        self._matrix = xgboost.DMatrix
        booster.set_param({"nthread": threads})
        self.features: Optional[int] = int(booster.num_features()) or None
        # The container's own rule (algorithm mode, serve_utils.predict): absent from XGBoost 2.0 on.
        limit = int(getattr(booster, "best_ntree_limit", 0) or 0)
        self._range = (0, limit)
        self._in_place = True

    def shape(self, table: Table) -> Any:
        if hasattr(table.rows, "tocsr"):
            # No shift here: XGBoost counts from 0, and a file that counts from 1 trained a booster of n + 1 columns.
            data = table.rows.tocsr()
            return data if self.features is None else _widened(data, self.features)
        data = rows.numeric(rows.ranked(table, self.features, self.booster.feature_names))
        if self.features is None:
            return data
        if data.shape[1] == self.features - 1 and table.form in ("csv", "recordio"):
            # A booster trained on libsvm rows 1..n has n + 1 columns; AWS's container takes CSV rows of n.
            import numpy as np

            data = np.column_stack([data, np.full(data.shape[0], np.nan)])
        return rows.checked(data, self.features)

    def predict(self, data: Any) -> Any:
        found = self._predict(data)
        return found if self._selection is None else self._selection.records(found)

    def _predict(self, data: Any) -> Any:
        if self._in_place:
            return self.booster.inplace_predict(data, iteration_range=self._range, validate_features=False)
        return self.booster.predict(self._matrix(data), iteration_range=self._range, validate_features=False)

    def warm(self) -> str:
        import numpy as np
        from xgboost.core import XGBoostError

        if self.features is None:
            return "the booster does not tell its column count"
        row = np.zeros((1, self.features))
        try:
            self.predict(row)
        except XGBoostError:
            self._in_place = False
            self.predict(row)
        return ""


def _widened(data: Any, features: int) -> Any:
    from scipy.sparse import csr_matrix

    rows.checked_indices(data, features)
    return csr_matrix((data.data, data.indices, data.indptr), shape=(data.shape[0], features))


class LightGBMModel(Tabular):
    style = Style(csv_one_line=False, scores=True)

    def __init__(self, booster: Any, loader: str, threads: int = 1) -> None:
        self.loader = loader
        self.booster = booster
        self._threads = threads
        self.features: Optional[int] = int(booster.num_feature())
        self._names = list(booster.feature_name())

    def shape(self, table: Table) -> Any:
        data = rows.numeric(rows.matrix(table, self.features, self._names))
        return data.toarray() if hasattr(data, "toarray") else data

    def predict(self, data: Any) -> Any:
        return self.booster.predict(data, num_threads=self._threads)

    def warm(self) -> str:
        import numpy as np

        self.predict(np.zeros((1, self.features or 1)))
        return ""
