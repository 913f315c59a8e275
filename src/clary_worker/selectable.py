"""SAGEMAKER_INFERENCE_OUTPUT: named parts of an XGBoost prediction, as the built-in algorithm answers them.

The Environment lists keys ("predicted_label,probability"); each row becomes a record of them. A key that the objective
does not have answers nan, as on AWS. Source: sagemaker-xgboost-container, algorithm_mode/serve_utils.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List

from .contract import LoadError

KEYS = ("predicted_label", "labels", "probability", "probabilities", "raw_score", "raw_scores", "predicted_score")
_LABELS = frozenset(("predicted_label", "labels", "raw_score", "raw_scores"))
_CHANCES = _LABELS | {"probability", "probabilities"}
_SCORE = frozenset(("predicted_score",))
_OF_OBJECTIVE = {
    "reg:squarederror": _SCORE,
    "reg:logistic": _SCORE,
    "reg:gamma": _SCORE,
    "reg:tweedie": _SCORE,
    "binary:logistic": _CHANCES,
    "binary:logitraw": _LABELS,
    "binary:hinge": _LABELS,
    "multi:softmax": _LABELS,
    "multi:softprob": _CHANCES,
}


class Selection:
    """The asked-for keys for one booster. Raises: LoadError for an unknown key or an objective without records."""

    def __init__(self, wanted: str, config: str) -> None:
        learner = json.loads(config)["learner"]
        self._objective = str(learner["objective"]["name"])
        self._classes = int(learner["learner_model_param"].get("num_class", "0") or 0)
        self.keys = [key for key in wanted.replace(" ", "").lower().split(",") if key]
        unknown = [key for key in self.keys if key not in KEYS]
        if unknown or not self.keys:
            raise LoadError(
                "SAGEMAKER_INFERENCE_OUTPUT=%s names no output of XGBoost's" % wanted,
                "list any of: %s" % ", ".join(KEYS),
            )
        if self._objective not in _OF_OBJECTIVE:
            raise LoadError(
                "SAGEMAKER_INFERENCE_OUTPUT is not known for the objective %s" % self._objective,
                "remove it from the Environment, or train with one of: %s" % ", ".join(_OF_OBJECTIVE),
            )
        absent = [key for key in self.keys if key not in _OF_OBJECTIVE[self._objective]]
        if absent:
            print("clary: %s has no %s; nan is answered" % (self._objective, ", ".join(absent)), file=sys.stderr)

    def records(self, prediction: Any) -> List[Dict[str, Any]]:
        """One record a row, its keys in the order asked for."""
        return [self._record(row) for row in prediction]

    def _record(self, row: Any) -> Dict[str, Any]:
        having = _OF_OBJECTIVE[self._objective]
        return {key: self._value(key, row) if key in having else float("nan") for key in self.keys}

    def _value(self, key: str, row: Any) -> Any:
        several = self._objective == "multi:softprob"
        if key == "predicted_score":
            return row.item()
        if key == "predicted_label":
            return self._label(row)
        if key == "labels":
            return [0, 1] if self._objective.startswith("binary:") else list(range(self._classes))
        if key in ("probability", "raw_score"):
            return row.max().item() if several else row.item()
        return row.tolist() if several else [1.0 - row.item(), row.item()]

    def _label(self, row: Any) -> Any:
        if self._objective == "multi:softprob":
            return int(row.argmax())
        if self._objective == "binary:logistic":
            return int(row > 0.5)
        if self._objective == "binary:logitraw":
            return int(row > 0)
        return row.item()
