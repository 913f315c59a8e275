"""MLServer's custom runtime for one of many models: model.joblib beside its settings."""

import joblib
import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class Runtime(MLModel):
    """One model."""

    async def load(self) -> bool:
        self.model = joblib.load(await get_model_uri(self.settings))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = numpy.asarray(self.model.predict(NumpyCodec.decode_input(payload.inputs[0])))
        outputs = [NumpyCodec.encode_output("predictions", answer.reshape(-1, 1))]
        return InferenceResponse(model_name=self.name, outputs=outputs)
