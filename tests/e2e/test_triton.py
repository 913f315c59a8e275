"""Model repositories made for Triton, deployed with its image by boto3 and asked with NVIDIA's own client."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from botocore.exceptions import ClientError
from conftest import Clary, Trained, instance, serverless
from skl2onnx import to_onnx
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

IMAGE = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:22.09-py3"
BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="
FOREST = """
name: "forest"
platform: "onnxruntime_onnx"
max_batch_size: 64
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [
  { name: "label" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } },
  { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] }
]
instance_group [ { count: 1 kind: KIND_GPU } ]
dynamic_batching { max_queue_delay_microseconds: 1000 }
"""


def ask(clary: Clary, endpoint: str, tensors: dict[str, Any], outputs: list[str], binary: bool = True) -> Any:
    """What the client's reader makes of the endpoint's answer."""
    inputs = []
    for name, array in tensors.items():
        one = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in outputs]
    body, size = InferenceServerClient.generate_request_body(inputs, outputs=wanted)
    answer = clary.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint, Body=body, ContentType="application/json" if size is None else f"{BINARY}{size}"
    )
    kind = answer["ContentType"]
    length = int(kind.removeprefix(BINARY)) if kind.startswith(BINARY) else None
    assert (length is not None) == binary
    return InferenceServerClient.parse_response_body(answer["Body"].read(), header_length=length)


def deploy(clary: Clary, files: dict[str, Any], environment: dict[str, str] | None = None, wait: bool = True) -> str:
    model = clary.model(clary.upload(files), IMAGE, environment)
    return clary.endpoint(clary.config(instance(model)), wait)


def onnx_forest(forest: Trained) -> bytes:
    options = {"zipmap": False}
    return bytes(to_onnx(forest.estimator, forest.rows[:1].astype(np.float32), options=options).SerializeToString())


def test_an_onnx_repository_answers_as_onnxruntime_does(clary: Clary, forest: Trained) -> None:
    content = onnx_forest(forest)
    name = deploy(clary, {"forest/config.pbtxt": FOREST, "forest/1/model.onnx": content})
    rows = forest.rows[:40].astype(np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["label", "probabilities"], {"X": rows})
    for binary in (True, False):
        found = ask(clary, name, {"X": rows}, ["label", "probabilities"], binary)
        assert found.as_numpy("label").tolist() == labels.reshape(-1, 1).tolist()
        np.testing.assert_allclose(found.as_numpy("probabilities"), probabilities, rtol=1e-6)
    described = clary.client("sagemaker").describe_endpoint(EndpointName=name)
    deployed = described["ProductionVariants"][0]["DeployedImages"][0]
    assert deployed["SpecifiedImage"] == IMAGE
    assert deployed["ResolvedImage"].startswith("clary/triton:")

    # Many callers at once: joined or not, each gets its own rows' answer.
    gate = threading.Barrier(16)

    def one(place: int) -> list[list[int]]:
        gate.wait(30)
        return ask(clary, name, {"X": rows[place : place + 2]}, ["label"]).as_numpy("label").tolist()  # type: ignore[no-any-return]

    with ThreadPoolExecutor(16) as threads:
        for place, got in enumerate(threads.map(one, range(16))):
            assert got == labels[place : place + 2].reshape(-1, 1).tolist()

    with pytest.raises(ClientError) as caught:
        ask(clary, name, {"X": rows[:, :3]}, ["label"])
    assert caught.value.response["Error"]["Code"] == "ModelError"
    assert caught.value.response["OriginalStatusCode"] == 400
    told = json.loads(caught.value.response["OriginalMessage"])["error"]
    assert told.startswith(
        "[request id: <id_unknown>] unexpected shape for input 'X' for model 'forest'. Expected [-1,4], got [40,3]"
    )
    clary.delete(name)


TOKENIZE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        folder = pb_utils.get_model_dir()
        self.words = open(folder + "/words.txt").read().split()

    def execute(self, requests):
        answers = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            rows = [[text.decode().split().count(word) for word in self.words] for text in texts.ravel()]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("COUNTS", np.array(rows, np.float32))]))
        return answers
"""
NAMES = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            labels = pb_utils.get_input_tensor_by_name(request, "LABEL").as_numpy()
            names = np.array([["class %d" % label] for label in labels.ravel()], dtype=object)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("NAME", names)]))
        return answers
"""
ENSEMBLE: dict[str, str] = {
    "whole/config.pbtxt": """
platform: "ensemble"
max_batch_size: 64
input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
output [ { name: "NAME" data_type: TYPE_STRING dims: [ 1 ] }, { name: "SURE" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling { step [
  { model_name: "tokenize" model_version: -1 input_map { key: "TEXT" value: "TEXT" }
    output_map { key: "COUNTS" value: "counts" } },
  { model_name: "forest" model_version: -1 input_map { key: "X" value: "counts" }
    output_map { key: "label" value: "label" } output_map { key: "probabilities" value: "SURE" } },
  { model_name: "names" model_version: -1 input_map { key: "LABEL" value: "label" }
    output_map { key: "NAME" value: "NAME" } }
] }
""",
    "whole/1/.keep": "",
    "tokenize/config.pbtxt": """
backend: "python"
max_batch_size: 64
input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "COUNTS" data_type: TYPE_FP32 dims: [ 4 ] }
dynamic_batching { }
""",
    "tokenize/1/model.py": TOKENIZE,
    "tokenize/1/words.txt": "sepal petal wide long",
    "names/config.pbtxt": """
backend: "python"
max_batch_size: 64
input { name: "LABEL" data_type: TYPE_INT64 dims: [ 1 ] }
output { name: "NAME" data_type: TYPE_STRING dims: [ 1 ] }
instance_group { count: 2 kind: KIND_CPU }
""",
    "names/1/model.py": NAMES,
    "forest/config.pbtxt": FOREST,
}


def test_an_ensemble_tokenizes_predicts_and_names(clary: Clary, forest: Trained) -> None:
    content = onnx_forest(forest)
    variables = {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"}
    model = clary.model(clary.upload({**ENSEMBLE, "forest/1/model.onnx": content}), IMAGE, variables)
    name = clary.endpoint(clary.config(serverless(model)))
    texts = ["petal petal long long", "wide sepal", "long " * 6 + "petal " * 7]
    counts = np.array(
        [[text.split().count(w) for w in ["sepal", "petal", "wide", "long"]] for text in texts], np.float32
    )
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["label", "probabilities"], {"X": counts})
    tensors = {"TEXT": np.array([[text] for text in texts], dtype=object)}
    for binary in (True, False):
        found = ask(clary, name, tensors, ["NAME", "SURE"], binary)
        got = [value.decode() if isinstance(value, bytes) else value for value in found.as_numpy("NAME").ravel()]
        assert got == [f"class {label}" for label in labels]
        np.testing.assert_allclose(found.as_numpy("SURE"), probabilities, rtol=1e-6)
    clary.delete(name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.pbtxt": FOREST, "1/model.onnx": "x"}, "Incorrect directory structure"),
        ({"a/config.pbtxt": "", "b/config.pbtxt": ""}, "More than 1 model directory found in model repository"),
        (
            {"a/config.pbtxt": 'platform: "tensorrt_plan"', "a/1/model.plan": "x"},
            "the backend 'tensorrt' is not served",
        ),
        ({"forest/config.pbtxt": FOREST + "colour: 1", "forest/1/model.onnx": "x"}, 'has no field named "colour"'),
    ],
    ids=["top", "several", "tensorrt", "field"],
)
def test_a_broken_repository_ends_failed_with_its_reason(clary: Clary, files: dict[str, str], words: str) -> None:
    name = deploy(clary, files, wait=False)
    state = clary.settled(name, 60)
    assert state["EndpointStatus"] == "Failed"
    assert words in state["FailureReason"]
    assert state["FailureReason"].count("Hint:") == 1
    clary.delete(name)


TORCH = """
platform: "pytorch_libtorch"
max_batch_size: 8
input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "INPUT__1" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
dynamic_batching { }
"""


def test_a_torchscript_repository_gets_torch_where_a_wheel_of_it_is_at_hand(clary: Clary, tmp_path: Path) -> None:
    torch: Any = pytest.importorskip(
        "torch", reason="two inputs by name need a model made with torch beside the tests; one: test_pytorch.py"
    )

    class Weighted(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x * 2 - y

    path = tmp_path / "model.pt"
    torch.jit.script(Weighted()).save(str(path))
    name = deploy(clary, {"weighted/config.pbtxt": TORCH, "weighted/1/model.pt": path.read_bytes()})
    first, second = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    found = ask(clary, name, {"INPUT__1": second, "INPUT__0": first}, ["OUTPUT__0"]).as_numpy("OUTPUT__0")
    np.testing.assert_array_equal(found, first * 2 - second)
    clary.delete(name)
