"""TorchScript and the serving contract of AWS's PyTorch containers, in an environment with a real torch.

The model and torch's own answers to its rows lie in tests/data/pytorch. Nothing here needs torch beside the tests: the
environment is built by the recipe, with the user's package settings. Where the recipe itself refuses, because no CPU
build of torch can be had, all of this is skipped in the recipe's words.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from conftest import Clary, instance, serverless, wait_for
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

DATA = Path(__file__).parents[1] / "data" / "pytorch"
AWS = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312-ubuntu22.04-sagemaker"
TRITON = "785573368785.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tritonserver:22.09-py3"
NPY = "application/x-npy"
# How the recipe tells that there is no torch for this machine; what else fails, fails the test.
NO_TORCH = re.compile(r"with CUDA libraries|no release of torch has wheels")
# First of all environments here: a wheel of 200 MB is unpacked, copied and compiled.
BUILD_LIMIT_S = 280


def npy(rows: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(rows, np.float32))
    return out.getvalue()


def close(wanted: Any) -> Any:
    """What is equal to numbers within a float's error of `wanted`, in its shape."""
    return pytest.approx(np.asarray(wanted), rel=1e-5, abs=1e-7)


@pytest.fixture(scope="module")
def iris() -> dict[str, Any]:
    """rows (15, 4) and answers (15, 3), as torch gave them."""
    found: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
    return found


@pytest.fixture(scope="module")
def bare(clary: Clary) -> str:
    """The TorchScript model on an endpoint, without code."""
    model = clary.model(clary.upload({"model.pt": (DATA / "model.pt").read_bytes()}), "clary/pytorch")
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    state = clary.settled(name, BUILD_LIMIT_S)
    if NO_TORCH.search(state.get("FailureReason", "")):
        pytest.skip("NO TORCH, so PyTorch is NOT tested here: " + state["FailureReason"])
    assert state["EndpointStatus"] == "InService", state.get("FailureReason", state)
    return name


def deploy(clary: Clary, files: dict[str, Any], image: str = AWS, **options: Any) -> str:
    return clary.endpoint(clary.config(instance(clary.model(clary.upload(files), image, **options))))


def test_torchscript_needs_no_code(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    assert json.loads(clary.invoke(bare, json.dumps(iris["rows"]), "application/json")) == close(iris["answers"])
    assert np.load(io.BytesIO(clary.invoke(bare, npy(iris["rows"]), NPY))) == close(iris["answers"])
    assert np.load(io.BytesIO(clary.invoke(bare, npy(iris["rows"]), NPY, Accept=NPY))) == close(iris["answers"])
    csv = "\n".join(",".join(map(repr, row)) for row in iris["rows"])
    found = [[float(word) for word in line.split(",")] for line in clary.invoke(bare, csv).decode().split()]
    assert found == close(iris["answers"])


def test_many_callers_get_their_own_rows(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        rows = iris["rows"][number : number + 2]
        client = clary._client("sagemaker-runtime", "us-east-1")
        answer = client.invoke_endpoint(EndpointName=bare, Body=npy(rows), ContentType=NPY, Accept="application/json")
        found[number] = json.loads(answer["Body"].read())

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(13)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    for number in range(13):
        assert found[number] == close(iris["answers"][number : number + 2])


def test_rows_that_do_not_fit_are_the_models_error(clary: Clary, bare: str) -> None:
    with pytest.raises(ClientError, match=r"mat1 and mat2 shapes cannot be multiplied") as caught:
        clary.invoke(bare, "[[1, 2, 3]]", "application/json")
    assert caught.value.response["Error"]["Code"] == "ModelError"
    with pytest.raises(ClientError, match=r"Row 1, column 1 is not a number: 'a'"):
        clary.invoke(bare, '[["a", "b", "c", "d"]]', "application/json")


def test_awss_image_is_the_same_environment(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    name = deploy(clary, {"model.pt": (DATA / "model.pt").read_bytes()})
    assert json.loads(clary.invoke(name, json.dumps(iris["rows"]), "application/json")) == close(iris["answers"])
    told = [
        clary.client("sagemaker").describe_endpoint(EndpointName=one)["ProductionVariants"][0]["DeployedImages"][0]
        for one in (name, bare)
    ]
    assert told[0]["SpecifiedImage"] == AWS
    assert told[0]["ResolvedImage"].startswith("clary/pytorch:2.")
    if "2.6.0-py" not in told[0]["ResolvedImage"]:
        # The folder of wheels has one torch: what stands in for 2.6.0 is the newest that the other image got.
        assert told[0]["ResolvedImage"] == told[1]["ResolvedImage"]
        assert "substituted  2.6.0 -> 2." in clary.run("image", "explain", AWS).stdout
    clary.delete(name)


def test_a_sleeping_endpoint_wakes_with_its_model(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    model = clary.model(clary.upload({"model.pt": (DATA / "model.pt").read_bytes()}), AWS)
    name = clary.endpoint(clary.config(serverless(model)), tags={"clary:keep-alive-s": "0.1"})
    for _ in range(2):
        wait_for(lambda: not clary.workers(name), 60, "the endpoint to sleep")
        assert json.loads(clary.invoke(name, json.dumps(iris["rows"]), "application/json")) == close(iris["answers"])
    clary.delete(name)


SCRIPT = """
import io, json, os
import numpy as np
import torch

class Iris(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(4, 16)
        self.out = torch.nn.Linear(16, 3)
    def forward(self, rows):
        return torch.softmax(self.out(torch.relu(self.hidden(rows))), 1)

def model_fn(model_dir):
    model = Iris()
    model.load_state_dict(torch.load(os.path.join(model_dir, "state.pth"), weights_only=True))
    return model.eval()
"""
OWN = """
def input_fn(request_body, content_type):
    assert content_type == "application/json" and isinstance(request_body, str), (content_type, type(request_body))
    return torch.tensor(json.loads(request_body)["flowers"])

def predict_fn(input_object, model):
    with torch.no_grad():
        return model(input_object).argmax(1)

def output_fn(prediction, accept):
    assert accept == "application/json", accept
    return json.dumps({"species": prediction.tolist()}), accept
"""


def test_script_mode_loads_a_state_dict_and_calls_the_users_functions(
    clary: Clary, bare: str, iris: dict[str, Any]
) -> None:
    files = {"state.pth": (DATA / "state.pth").read_bytes(), "code/inference.py": SCRIPT + OWN}
    name = deploy(clary, files)
    answer = json.loads(clary.invoke(name, json.dumps({"flowers": iris["rows"]}), "application/json"))
    assert answer == {"species": np.argmax(iris["answers"], axis=1).tolist()}
    clary.delete(name)


# Given beside model_fn: what the defaults of AWS's container then do with the rest.
PARTS = {
    "nothing": "",
    "input_fn": """
def input_fn(request_body, content_type):
    return torch.from_numpy(np.load(io.BytesIO(request_body)) if content_type == "application/x-npy"
                            else np.array(json.loads(request_body), np.float32))
""",
    "predict_fn": """
def predict_fn(data, model):
    assert isinstance(data, torch.Tensor) and data.dtype == torch.float32, data
    return model(data)
""",
    "output_fn": """
def output_fn(prediction, accept):
    assert isinstance(prediction, torch.Tensor) and not prediction.requires_grad
    if accept == "application/x-npy":
        out = io.BytesIO()
        np.save(out, prediction.numpy())
        return out.getvalue()
    return json.dumps(prediction.tolist())
""",
}


@pytest.mark.parametrize("given", PARTS)
def test_what_a_script_leaves_out_is_done_as_by_awss_container(
    clary: Clary, bare: str, iris: dict[str, Any], given: str
) -> None:
    files = {"state.pth": (DATA / "state.pth").read_bytes(), "code/inference.py": SCRIPT + PARTS[given]}
    name = deploy(clary, files)
    # The toolkit answers JSON where no type is asked for, whatever came in.
    assert json.loads(clary.invoke(name, json.dumps(iris["rows"]), "application/json")) == close(iris["answers"])
    assert np.load(io.BytesIO(clary.invoke(name, npy(iris["rows"]), NPY, Accept=NPY))) == close(iris["answers"])
    clary.delete(name)


def test_a_scripts_torch_has_the_threads_of_its_instance(clary: Clary, bare: str) -> None:
    script = """
import os
import torch

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    return "%d of %s" % (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]), "text/plain"
"""
    model = clary.model(
        clary.upload({"code/inference.py": script}), AWS, environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "1"}
    )
    name = clary.endpoint(clary.config(instance(model)))
    count = min(2, os.cpu_count() or 1)  # an ml.m5.large has two
    assert clary.invoke(name, b"x", "text/plain").decode() == f"{count} of {count}"
    clary.delete(name)


def test_a_script_without_a_model_fn_gets_the_archives_one_module(
    clary: Clary, bare: str, iris: dict[str, Any]
) -> None:
    script = "import torch\n\ndef predict_fn(data, model):\n    return torch.log(model(data))\n"
    name = deploy(clary, {"net.pt": (DATA / "model.pt").read_bytes(), "code/inference.py": script})
    found = json.loads(clary.invoke(name, json.dumps(iris["rows"]), "application/json"))
    assert np.exp(found) == close(iris["answers"])
    clary.delete(name)


def test_a_state_dict_without_code_is_refused_with_what_to_do(clary: Clary, bare: str) -> None:
    uri = clary.upload({"state.pth": (DATA / "state.pth").read_bytes()})
    name = clary.endpoint(clary.config(instance(clary.model(uri, AWS))), wait=False)
    state = clary.settled(name)
    assert state["EndpointStatus"] == "Failed"
    assert "state.pth is no TorchScript archive" in state["FailureReason"]
    assert "add code/inference.py with model_fn" in state["FailureReason"]
    clary.delete(name)


def test_a_generator_streams_tensors_as_they_are_made(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    script = (
        SCRIPT
        + """
def predict_fn(data, model):
    with torch.no_grad():
        for row in data:
            yield json.dumps(model(row[None])[0].tolist()) + "\\n"
"""
    )
    name = deploy(clary, {"state.pth": (DATA / "state.pth").read_bytes(), "code/inference.py": script})
    answer = clary.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=name, Body=json.dumps(iris["rows"]), ContentType="application/json"
    )
    events = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert len(events) > 1
    assert [json.loads(line) for line in b"".join(events).splitlines()] == close(iris["answers"])
    clary.delete(name)


CONFIG = """
platform: "pytorch_libtorch"
max_batch_size: 32
input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
dynamic_batching { }
"""


def test_a_triton_repository_serves_the_same_module(clary: Clary, bare: str, iris: dict[str, Any]) -> None:
    name = deploy(
        clary, {"iris/config.pbtxt": CONFIG, "iris/1/model.pt": (DATA / "model.pt").read_bytes()}, image=TRITON
    )
    rows = np.asarray(iris["rows"], np.float32)
    sent = InferInput("INPUT__0", list(rows.shape), "FP32")
    sent.set_data_from_numpy(rows, binary_data=False)
    body, _ = InferenceServerClient.generate_request_body(
        [sent], outputs=[InferRequestedOutput("OUTPUT__0", binary_data=False)]
    )
    answer = clary.invoke(name, body, "application/json")
    assert InferenceServerClient.parse_response_body(answer).as_numpy("OUTPUT__0") == close(iris["answers"])
    clary.delete(name)
