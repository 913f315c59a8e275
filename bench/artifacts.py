"""The models that are served: small, real, trained here on scikit-learn's own breast cancer set (30 columns).

Trained in this process for clary, and by `peers/apps/models.py` inside each peer's environment, from the same data with
the same seeds, so that no server has to open a pickle of another library version.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from environments import Environments

RAW_ECHO = """
def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    return body, content_type
"""

JSON_ECHO = """
import json

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    return json.dumps({"predictions": json.loads(body)["inputs"]}), "application/json"
"""

TORCH_MODELS = {
    "torch": (
        "PyTorch, small CNN",
        """
import sys, torch
torch.manual_seed(7)
net = torch.nn.Sequential(
    torch.nn.Unflatten(1, (1, 28, 28)), torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Flatten(), torch.nn.Linear(8 * 13 * 13, 10),
).eval()
torch.jit.script(net).save(sys.argv[1])
""",
    ),
    "torch100": (
        "PyTorch, 100 MB of weights",
        """
import sys, torch
torch.manual_seed(7)
net = torch.nn.Sequential(
    torch.nn.Linear(784, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 5120), torch.nn.ReLU(), torch.nn.Linear(5120, 10)
).eval()
assert 95e6 < sum(4 * p.numel() for p in net.parameters()) < 105e6, sum(4 * p.numel() for p in net.parameters())
torch.jit.script(net).save(sys.argv[1])
""",
    ),
}
TORCH_VERSION = "2.13.0"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model.tar.gz, the image that serves it, and a request of one row that it answers with 200."""

    kind: str
    title: str
    image: str
    files: dict[str, bytes]
    body: bytes
    content_type: str

    def archive(self) -> bytes:
        """The files as a model.tar.gz."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as out:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                out.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


@functools.cache
def rows() -> list[list[float]]:
    """The set's rows, as lists."""
    from sklearn.datasets import load_breast_cancer

    found: list[list[float]] = load_breast_cancer(return_X_y=True)[0].tolist()
    return found


def csv(count: int) -> bytes:
    return "\n".join(",".join(map(repr, row)) for row in rows()[:count]).encode()


def as_json(count: int) -> bytes:
    return json.dumps({"instances": rows()[:count]}).encode()


def raw_echo() -> Artifact:
    files = {"code/inference.py": RAW_ECHO.encode()}
    return Artifact("raw echo", "echo script", "clary/onnxruntime", files, b"1.0,2.0,3.0", "text/csv")


def json_echo() -> Artifact:
    body = json.dumps({"inputs": [[1.0, 2.0, 3.0]]}).encode()
    files = {"code/inference.py": JSON_ECHO.encode()}
    return Artifact("echo", "echo JSON", "clary/onnxruntime", files, body, "application/json")


@functools.cache
def _trained(kind: str) -> bytes:
    import joblib
    import sklearn.datasets
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.pipeline
    import sklearn.preprocessing

    data, labels = sklearn.datasets.load_breast_cancer(return_X_y=True)
    if kind == "forest":
        model = sklearn.ensemble.RandomForestClassifier(100, random_state=7, n_jobs=1).fit(data, labels)
    else:
        model = sklearn.linear_model.LogisticRegression(max_iter=5000, random_state=7).fit(data, labels)
    file = io.BytesIO()
    joblib.dump(model, file)
    return file.getvalue()


def sklearn_model(kind: str) -> Artifact:
    """`kind` is forest (100 trees) or logistic."""
    import sklearn

    title = "random forest of 100" if kind == "forest" else "logistic regression"
    files = {"model.joblib": _trained(kind)}
    return Artifact(kind, title, f"clary/sklearn:{sklearn.__version__}", files, as_json(1), "application/json")


def xgboost_model(count: int) -> Artifact:
    """60 trees; requests of `count` rows."""
    import sklearn.datasets
    import xgboost

    data, labels = sklearn.datasets.load_breast_cancer(return_X_y=True)
    options = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": 7}
    booster = xgboost.train(options, xgboost.DMatrix(data, labels), num_boost_round=60)
    files = {"xgboost-model": bytes(booster.save_raw("ubj"))}
    return Artifact(
        "xgboost", "XGBoost, 60 trees", f"clary/xgboost:{xgboost.__version__}", files, csv(count), "text/csv"
    )


def onnx_model() -> Artifact:
    """The logistic regression, converted."""
    import joblib
    import numpy
    import onnxruntime
    import skl2onnx

    model = joblib.load(io.BytesIO(_trained("logistic")))
    converted = skl2onnx.to_onnx(model, numpy.zeros((1, 30), numpy.float32), options={"zipmap": False})
    files = {"model.onnx": converted.SerializeToString()}
    image = f"clary/onnxruntime:{onnxruntime.__version__}"
    return Artifact("onnx", "ONNX, logistic regression", image, files, csv(1), "text/csv")


TRITON_FOREST = """
import os

import joblib
import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.model = joblib.load(os.path.join(pb_utils.get_model_dir(), "model.joblib"))

    def execute(self, requests):
        sent = [pb_utils.get_input_tensor_by_name(request, "inputs").as_numpy() for request in requests]
        answers = self.model.predict(numpy.concatenate(sent).astype(numpy.float64)).astype(numpy.float32).reshape(-1, 1)
        found, start = [], 0
        for rows in sent:
            part = answers[start : start + len(rows)]
            start += len(rows)
            found.append(pb_utils.InferenceResponse([pb_utils.Tensor("predictions", part)]))
        return found
"""
TRITON_CONFIG = """
backend: "%s"
max_batch_size: 128
input { name: "inputs" data_type: TYPE_FP32 dims: [ 30 ] }
output { name: "%s" data_type: %s dims: [ 1 ] %s }
%s
"""


def triton_forest(backend: str, batching: bool) -> Artifact:
    """The forest as a Triton repository: `backend` is python (scikit-learn in model.py) or onnxruntime (converted)."""
    # What the Triton beside it is configured to wait; see peers/apps/triton_app.py.
    more = "dynamic_batching { max_queue_delay_microseconds: 5000 }" if batching else ""
    data = [value for row in rows()[:1] for value in row]
    sent = {"inputs": [{"name": "inputs", "shape": [1, 30], "datatype": "FP32", "data": data}]}
    if backend == "python":
        import sklearn

        needs = f"scikit-learn=={sklearn.__version__}\njoblib\n"
        files = {
            "code/requirements.txt": needs.encode(),
            "forest/config.pbtxt": (TRITON_CONFIG % ("python", "predictions", "TYPE_FP32", "", more)).encode(),
            "forest/1/model.py": TRITON_FOREST.encode(),
            "forest/1/model.joblib": _trained("forest"),
        }
    else:
        label = (TRITON_CONFIG % ("onnxruntime", "label", "TYPE_INT64", "reshape { shape: [ ] }", more)).encode()
        files = {"forest/config.pbtxt": label, "forest/1/model.onnx": _converted_forest()}
    title = f"random forest of 100, Triton repository, {backend}"
    body = json.dumps(sent).encode()
    return Artifact("forest", title, "sagemaker-tritonserver:25.09-py3", files, body, "application/json")


@functools.cache
def _converted_forest() -> bytes:
    import joblib
    import skl2onnx

    model = joblib.load(io.BytesIO(_trained("forest")))
    first = [("inputs", skl2onnx.common.data_types.FloatTensorType([None, 30]))]
    converted = skl2onnx.to_onnx(model, initial_types=first, options={"zipmap": False})
    return bytes(converted.SerializeToString())


def torch_wheel() -> Path | None:
    """A CPU wheel of the torch release in the folders that uv or pip are told to look in."""
    folders = f"{os.environ.get('UV_FIND_LINKS', '')} {os.environ.get('PIP_FIND_LINKS', '')}".replace(",", " ").split()
    found = [path for folder in folders for path in Path(folder).glob(f"torch-{TORCH_VERSION}+cpu-*.whl")]
    return found[0] if found else None


def torch_model(kind: str, environments: Environments) -> Artifact:
    """A net as TorchScript, made in an environment of its own: `kind` is torch (a small convolutional one) or torch100
    (100 MB of weights). Raises: Unavailable."""
    title, source = TORCH_MODELS[kind]
    python = environments.build("torch", (str(torch_wheel()), "numpy"))
    file = environments.cache / f"{kind}.pt"
    subprocess.run([python, "-c", source, str(file)], check=True, capture_output=True, timeout=120)
    body = json.dumps({"instances": [[0.5] * 784]}).encode()
    image = f"clary/pytorch:{TORCH_VERSION}"
    files = {"model.pt": file.read_bytes()}
    return Artifact(kind, title, image, files, body, "application/json")
