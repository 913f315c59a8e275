"""One invocation from body to body: decode, predict, encode; the border at which every failure becomes an answer.

`PredictorHandler` serves a loaded model without a script. Requests that arrived together are decoded one by one,
joined where the predictor says that they may be, predicted in one call, and encoded one by one: what differs between
them (content type, Accept, form) costs nothing. When a joined call fails, each request is predicted alone, so that a
bad row fails its own request only.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, Dict, List, Optional, Tuple

from . import codecs
from .contract import TEXT, Request, RequestError, Response
from .spec import WorkerSpec


def failure(error: BaseException) -> Response:
    """The answer to a request that failed: the status that the error carries, else 500 with its type and message.

    A model's own error leaves its traceback on stderr, the endpoint's log.
    """
    if isinstance(error, RequestError):
        return Response((error.text + "\n").encode(), TEXT, error.status)
    # Errors of the inference toolkits (and of frameworks that follow them) carry the status they want.
    status = getattr(error, "status_code", 500)
    if not isinstance(status, int) or not 400 <= status <= 599:
        status = 500
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    return Response(("%s: %s\n" % (type(error).__name__, error)).encode("utf-8", "replace"), TEXT, status)


class PredictorHandler:
    """Serves a predictor with the default codecs."""

    def __init__(self, predictor: Any, spec: WorkerSpec, note: str = "") -> None:
        self._predictor = predictor
        self._default_accept = spec.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "")
        self._transform = spec.transform
        self.loader: str = predictor.loader
        self.note = note
        self.warmed = False

    @property
    def batchable(self) -> bool:
        return bool(self._predictor.batchable)

    def warm(self) -> None:
        """One prediction before the first request; what went wrong with it is told in the note, and is not fatal."""
        try:
            reason = self._predictor.warm()
        except Exception as error:  # the worker's border: a row of zeros may be nonsense to this model
            reason = "the warm-up prediction failed: %s: %s" % (type(error).__name__, error)
        self.warmed = not reason
        if reason:
            self.note = "; ".join(part for part in (self.note, reason) if part)

    def invoke(self, request: Request) -> Response:
        try:
            kind, form, data = self._read(request)
            return self._answer(self._predictor.predict(data), kind, form)
        except Exception as error:  # the worker's border
            return failure(error)

    def invoke_many(self, requests: List[Request]) -> List[Response]:
        answers: List[Optional[Response]] = [None] * len(requests)
        groups: Dict[Any, List[Tuple[int, str, str, Any]]] = {}
        for place, request in enumerate(requests):
            try:
                kind, form, data = self._read(request)
                signature = self._predictor.signature(data)
            except Exception as error:  # the worker's border
                answers[place] = failure(error)
                continue
            groups.setdefault(place if signature is None else (signature,), []).append((place, kind, form, data))
        for group in groups.values():
            joined = self._together(group) if len(group) > 1 else None
            for place, kind, form, data in group:
                try:
                    found = joined[place] if joined is not None else self._predictor.predict(data)
                    answers[place] = self._answer(found, kind, form)
                except Exception as error:  # the worker's border
                    answers[place] = failure(error)
        return [answer for answer in answers if answer is not None]

    def _together(self, group: List[Tuple[int, str, str, Any]]) -> Optional[Dict[int, Any]]:
        """Each request's part of one prediction over all; None when that fails, and each must go alone."""
        try:
            data, sizes = self._predictor.join([item[3] for item in group])
            found = self._predictor.predict(data)
        except Exception:  # the worker's border: whoever caused it is found when each goes alone
            return None
        total = sum(sizes)
        outputs = found.values() if isinstance(found, dict) else (found,)
        if any(len(output) != total for output in outputs):
            print("clary: the model does not answer one item a row; requests now go one by one", file=sys.stderr)
            self._predictor.batchable = False
            return None
        parts: Dict[int, Any] = {}
        start = 0
        for place, size in enumerate(sizes):
            end = start + size
            if isinstance(found, dict):
                parts[group[place][0]] = {name: output[start:end] for name, output in found.items()}
            else:
                parts[group[place][0]] = found[start:end]
            start = end
        return parts

    def _read(self, request: Request) -> Tuple[str, str, Any]:
        kind = codecs.answer_type(request.accept, request.content_type, self._default_accept)
        table = codecs.decode(request.body, request.content_type)
        return kind, table.form, self._predictor.shape(table)

    def _answer(self, prediction: Any, kind: str, form: str) -> Response:
        return Response(codecs.encode(prediction, kind, form, self._predictor.style, self._transform), kind)
