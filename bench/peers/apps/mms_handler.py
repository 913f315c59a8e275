"""multi-model-server's handler of one model: JSON rows in, predictions out. A copy lies beside each model."""

import json
import os

import joblib
import numpy

loaded = {}


def handle(data, context):
    """Called without data when the model is loaded, then with a list of requests."""
    if "model" not in loaded:
        loaded["model"] = joblib.load(os.path.join(context.system_properties.get("model_dir"), "model.joblib"))
    if data is None:
        return None
    return [_answer(request.get("body")) for request in data]


def _answer(body):
    rows = numpy.asarray(json.loads(bytes(body))["inputs"], numpy.float64)
    return json.dumps({"predictions": loaded["model"].predict(rows).tolist()})
