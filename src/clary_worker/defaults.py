"""What stands in for the functions that a script does not define, per framework, as AWS's containers define them.

| framework | input_fn | predict_fn | output_fn |
| --- | --- | --- | --- |
| sklearn | array; float32 when the body is text | model.predict(data) | by Accept |
| xgboost | DMatrix | booster.predict(data, validate_features=False) | by Accept |
| pytorch | tensor; float32 when the body is text | model(data) without gradients | by Accept |
| others | array | the model's own call | by Accept |
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict, NamedTuple, Tuple, Union

from . import codecs, loader, media
from .contract import CSV, JSON, Table, UnsupportedMedia


class Kit(NamedTuple):
    input_fn: Callable[[Any, str], Any]
    predict_fn: Callable[..., Any]  # of data and model; with a third argument, of the context, too
    output_fn: Callable[[Any, str], Any]


def of(framework: str, threads: int) -> Kit:
    """The functions of the framework's container."""
    if framework == "xgboost":
        return Kit(to_dmatrix, _predict_xgboost, output)
    if framework == "pytorch":
        return Kit(to_tensor, _predict_torch, output)
    if framework == "sklearn":
        return Kit(to_array, _predict_sklearn, output)
    return Kit(to_rows, _Adopted(threads), output)


def bare(predictor: Any) -> Any:
    """The model object inside a predictor, which is what a script's functions expect."""
    for name in ("estimator", "booster", "session", "module"):
        found = getattr(predictor, name, None)
        if found is not None:
            return found
    return predictor


def read(body: Union[bytes, str], content_type: str) -> Table:
    return codecs.decode(body.encode() if isinstance(body, str) else body, content_type)


def to_rows(body: Union[bytes, str], content_type: str) -> Any:
    """The body's array as it was sent, or {name: array}."""
    table = read(body, content_type)
    return table.inputs if table.inputs is not None else table.rows


def to_array(body: Union[bytes, str], content_type: str) -> Any:
    rows = to_rows(body, content_type)
    textual = media.parse(content_type or CSV).known in (CSV, JSON)
    if textual and hasattr(rows, "dtype") and rows.dtype.kind in "fiub":
        return rows.astype("float32")
    return rows


def to_dmatrix(body: Union[bytes, str], content_type: str) -> Any:
    import xgboost

    rows = to_rows(body, content_type)
    if isinstance(rows, dict):
        raise UnsupportedMedia("A DMatrix is made of rows; named inputs were sent.")
    return xgboost.DMatrix(rows.reshape(1, -1) if rows.ndim == 1 else rows)


def to_tensor(body: Union[bytes, str], content_type: str) -> Any:
    import torch

    rows = to_array(body, content_type)
    if isinstance(rows, dict):
        return {name: torch.from_numpy(value) for name, value in rows.items()}
    return torch.from_numpy(rows)


def _predict_sklearn(data: Any, model: Any) -> Any:
    return model.predict(data)


def _predict_xgboost(data: Any, model: Any) -> Any:
    if type(model).__name__ == "Booster":
        return model.predict(data, validate_features=False)
    return model.predict(data)


def _predict_torch(data: Any, model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(data)


class _Adopted:
    """Predicts with whatever the script loaded, by the predictor that fits it; made at the first call."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._made: Dict[int, Any] = {}

    def __call__(self, data: Any, model: Any) -> Any:
        predictor = self._made.get(id(model))
        if predictor is None:
            predictor = self._made[id(model)] = loader.adopt(model, "script", self._threads)
        table = Table(None, "", inputs=data) if isinstance(data, dict) else Table(data, "array")
        return predictor.predict(predictor.shape(table))


def output(prediction: Any, accept: str) -> Tuple[bytes, str]:
    """(body, content type). Raises: NotAcceptable."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(prediction, torch.Tensor):
        prediction = prediction.detach().cpu().numpy()
    kind = codecs.answer_type(accept, JSON)
    return codecs.encode(prediction, kind), kind
