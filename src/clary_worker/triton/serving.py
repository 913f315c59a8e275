"""A repository as the model server's handler: bodies to calls of the default model, its outputs to bodies.

Where other handlers stand behind a `Batcher`, this one is its own: each model has its queue, with the batching that its
configuration asks for. Every failure of a request is {"error": ...} with status 400, as Triton's SageMaker front
answers.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, List, Tuple

from ..batching import Slot
from ..contract import JSON, LoadError, Request, Response
from ..spec import WorkerSpec
from . import protocol
from .calls import Meta, Result
from .errors import InferError
from .repository import Repository, default_model
from .tensors import DTYPES, count

_WARM_UP_ELEMENTS = 1 << 24  # of all inputs together; a configuration may promise more than fits into memory


class Serving:
    """The default model of a repository, loaded."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Raises: LoadError."""
        if spec.multi_model:
            raise LoadError(
                "several Triton repositories behind one endpoint (Mode MultiModel) are not served yet",
                "deploy one archive an endpoint; it may hold several models",
            )
        name, note = default_model(spec.model_dir, spec.environ)
        if note:
            print("WARNING: " + note, file=sys.stderr)
        self._repository = Repository(spec.model_dir, spec.threads, spec.batching == "auto")
        self._model = self._repository.load(name)
        config = self._model.config
        self.loader = "triton %s (%s)" % (name, self._model.loader)
        self.warmed, told = _warmed(self._model) if spec.warm_up else (False, "")
        self.note = "; ".join(part for part in (*self._repository.notes, note, told) if part)
        self.batchable = bool(config.batching is not None and config.max_batch_size > 1)

    def open(self, loop: Any) -> None:
        """Begins to take calls."""
        self._repository.open(loop)

    def close(self) -> None:
        """Finalizes the models; nothing is submitted afterwards."""
        self._repository.close()

    def submit(self, slot: Slot) -> None:
        """Answers the slot in this turn of the loop or in a later one."""
        config = self._model.config
        request = slot.request
        try:
            asked = protocol.read(request.body, request.content_type, config.name)
        except InferError as error:
            slot.answer(_refused(error.text))
            return
        except Exception as error:  # the worker's border: a body that nobody thought of
            traceback.print_exc(file=sys.stderr)
            slot.answer(_refused("%s: %s" % (type(error).__name__, error)))
            return

        def done(result: Result) -> None:
            slot.answer(self._answer(asked, result))

        self._model.submit(asked.tensors, protocol.names(asked.outputs), asked.meta, done, lambda: slot.cancelled)

    def invoke(self, request: Request) -> Response:
        """One request with no loop running."""
        config = self._model.config
        try:
            asked = protocol.read(request.body, request.content_type, config.name)
            return self._answer(asked, self._model.infer(asked.tensors, protocol.names(asked.outputs), asked.meta))
        except InferError as error:
            return _refused(error.text)

    def invoke_many(self, requests: List[Request]) -> List[Response]:
        return [self.invoke(request) for request in requests]

    def _answer(self, asked: protocol.InferRequest, result: Result) -> Response:
        if isinstance(result, InferError):
            return _refused(result.text)
        try:
            body, kind = protocol.written(self._model.config.name, self._model.version, asked, result)
        except InferError as error:
            return _refused(error.text)
        return Response(body, kind)


def _warmed(model: Any) -> Tuple[bool, str]:
    """(whether one prediction was made, a note): only of an ONNX model whose inputs' sizes are told.

    A Python model's code may act on what it is given, so neither it nor an ensemble is tried.
    """
    import numpy as np

    config = model.config
    known = all(port.datatype != "BYTES" and -1 not in port.dims for port in config.inputs)
    small = known and sum(count(port.dims) for port in config.inputs) <= _WARM_UP_ELEMENTS
    if model.loader != "onnxruntime" or not small:
        return False, "ready means loaded: the model is not tried"
    lead = (1,) if config.max_batch_size else ()
    tensors = {port.name: np.zeros(lead + port.dims, DTYPES[port.datatype]) for port in config.inputs}
    try:
        model.infer(tensors, None, Meta())
    except InferError as error:  # a row of zeros may be nonsense to this model
        return False, "the warm-up prediction failed: %s" % error.text
    return True, ""


def _refused(text: str) -> Response:
    return Response(protocol.error_body(text), JSON, 400)
