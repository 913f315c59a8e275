"""MLServer's custom runtime; `mlserver_start.py` writes its settings. Batching is its adaptive batching."""

import models
import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """One model."""

    async def load(self) -> bool:
        self.call = models.load(self.settings.parameters.extra["kind"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        answer = numpy.asarray(self.call(rows.tolist()))
        if answer.ndim == 1:
            answer = answer.reshape(-1, 1)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("predictions", answer)])
