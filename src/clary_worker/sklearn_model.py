"""scikit-learn estimators, and whatever else was pickled and has a `predict`.

`predict` by default; the Environment's CLARY_SKLEARN_METHOD chooses predict_proba, decision_function,
predict_log_proba, score_samples or transform instead. An estimator with only `transform` (the first container of an
inference pipeline) is used by it. Text cells stay text for pipelines that encode them.

Estimators run under one thread (n_jobs=1 wherever it was more): a worker is one process of several, and joblib's
pools cost more than a small predict does.
"""

from __future__ import annotations

import warnings
from typing import Any, Iterator, List, Optional, Tuple

from . import forest, rows
from .contract import BadRequest, LoadError, Table
from .tabular import Tabular

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
_DOCUMENT_STEPS = frozenset(("CountVectorizer", "TfidfVectorizer", "HashingVectorizer"))
# Packages whose estimators work row by row; a class of anybody else's may look at the whole batch.
_ROW_WISE = frozenset(("sklearn", "xgboost", "lightgbm", "catboost", "imblearn"))


def steps(estimator: Any) -> Iterator[Any]:
    """The estimator and those inside it (pipelines, column transformers, searches, calibrated and stacked ones)."""
    yield estimator
    inner: List[Any] = [part[1] for part in getattr(estimator, "steps", None) or ()]
    inner += [part[1] for part in getattr(estimator, "transformers_", None) or ()]
    inner += [part[1] for part in getattr(estimator, "transformer_list", None) or ()]
    best = getattr(estimator, "best_estimator_", None)
    if best is not None:
        inner.append(best)
    for part in inner:
        if not isinstance(part, str) and part is not None:
            yield from steps(part)


class SklearnModel(Tabular):
    """An estimator behind the Predictor port. Raises: LoadError when it has no method that predicts."""

    def __init__(self, estimator: Any, loader: str, method: str = "", proven: Tuple[bool, ...] = ()) -> None:
        self.loader = loader
        self.estimator = estimator
        if method and method not in METHODS:
            raise LoadError(
                "CLARY_SKLEARN_METHOD=%s is not a method to predict with" % method,
                "set it to one of: %s" % ", ".join(METHODS),
            )
        chosen = method or next((name for name in ("predict", "transform") if hasattr(estimator, name)), "")
        if not chosen or not hasattr(estimator, chosen):
            raise LoadError(
                "%s has no method %s" % (_told(estimator), chosen or "predict"),
                "save a fitted estimator, or add code/inference.py with model_fn and predict_fn",
            )
        self.method = chosen
        parts = list(steps(estimator))
        features = getattr(estimator, "n_features_in_", None)
        self.features = int(features) if features is not None else None
        names = getattr(estimator, "feature_names_in_", None)
        self.names: Optional[List[str]] = [str(name) for name in names] if names is not None else None
        self.documents = _first(estimator).__class__.__name__ in _DOCUMENT_STEPS
        self._frame = self.names is not None and any(_by_name(part) for part in parts)
        self.batchable = all(type(part).__module__.partition(".")[0] in _ROW_WISE for part in parts)
        known = proven if len(proven) == len(parts) else (False,) * len(parts)
        found = []
        for part, is_proven in zip(parts, known):
            if getattr(part, "n_jobs", None) not in (None, 1) and hasattr(part, "set_params"):
                part.set_params(n_jobs=1)
            found.append(forest.speed_up(part, proven=is_proven))
        self.proven = tuple(found)
        self._call = getattr(estimator, chosen)
        # A model fitted on a data frame warns at each array; the columns are checked by count and name here.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")

    def shape(self, table: Table) -> Any:
        if self.documents:
            return _texts(table)
        data = rows.matrix(table, self.features, self.names)
        if hasattr(data, "toarray"):
            return data.toarray()
        return data

    def predict(self, data: Any) -> Any:
        given = self._framed(data) if self._frame else data
        try:
            found = self._call(given)
        except (ValueError, TypeError) as error:
            if data.dtype.kind == "O" and not self.documents:
                # Texts that the pipeline cannot take are the caller's, not the model's.
                raise BadRequest(
                    "The model does not take these values: %s: %s" % (type(error).__name__, error)
                ) from error
            raise
        return found.toarray() if hasattr(found, "toarray") else found

    def warm(self) -> str:
        import numpy as np

        if self.documents:
            self.predict(np.array(["a"], dtype=object))
            return ""
        if self.features is None:
            return "the estimator does not tell its column count"
        self.predict(np.zeros((1, self.features)))
        return ""

    def _framed(self, data: Any) -> Any:
        import pandas

        return pandas.DataFrame(data, columns=self.names).infer_objects()


def _first(estimator: Any) -> Any:
    inner = getattr(estimator, "steps", None)
    return _first(inner[0][1]) if inner else estimator


def _by_name(part: Any) -> bool:
    """Whether a column transformer picks its columns by name, which only a data frame can answer."""
    for _, _, columns in getattr(part, "transformers_", None) or ():
        if isinstance(columns, str) or (isinstance(columns, list) and any(isinstance(name, str) for name in columns)):
            return True
    return False


def _texts(table: Table) -> Any:
    import numpy as np

    found = table.rows if table.inputs is None else next(iter(table.inputs.values()))
    if hasattr(found, "tocsr"):
        raise BadRequest("The model takes texts, one a row; sparse rows were sent.")
    if found.ndim == 2 and found.shape[1] != 1:
        raise BadRequest("The model takes one text a row, the rows sent have %d columns." % found.shape[1])
    return np.array([str(item) for item in found.reshape(-1)], dtype=object)


def _told(value: Any) -> str:
    return "%s.%s" % (type(value).__module__, type(value).__name__)
