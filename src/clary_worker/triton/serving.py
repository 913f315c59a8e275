"""A repository as the model server's handler: bodies to calls of the default model, its outputs to bodies.

Where other handlers stand behind a `Batcher`, this one is its own: each model has its queue, with the batching that its
configuration asks for. Every failure of a request is {"error": ...} with status 400, as Triton's SageMaker front
answers.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, List

from ..batching import Slot
from ..contract import JSON, LoadError, Request, Response
from ..spec import WorkerSpec
from . import protocol
from .calls import Result
from .errors import InferError
from .repository import Repository, default_model


class Serving:
    """The default model of a repository, loaded."""

    warmed = False

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
        self.note = "; ".join(part for part in (*self._repository.notes, note) if part)
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


def _refused(text: str) -> Response:
    return Response(protocol.error_body(text), JSON, 400)
