"""Model repositories on real workers: backends, ensembles, batching, versions, and those that cannot be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import triton_models as repositories
from triton_client import BINARY, ask, ask_json, refusal, request
from tritonclient.http import InferenceServerClient
from worker_client import Worker

Start = Callable[..., Worker]
New = Callable[[], Path]


def test_an_onnx_model_without_a_configuration_answers_as_onnxruntime_does(start: Start, sockets: New) -> None:
    content = repositories.scaled(2.5)
    worker = start(repositories.write(sockets(), {"scaled/1/model.onnx": content}), "triton")
    rows = np.random.default_rng(0).random((4, 3), np.float32)
    found = ask(worker, {"x": rows}, ["y"]).as_numpy("y")
    np.testing.assert_array_equal(found, onnxruntime.InferenceSession(content).run(None, {"x": rows})[0])
    assert "read from the ONNX file" in worker.detail["note"]
    assert worker.detail["warmup"]
    assert "No SAGEMAKER_TRITON_DEFAULT_MODEL_NAME provided" in worker.detail["note"]
    body, _ = request({"x": np.zeros((5, 3), np.float32)}, None, False)
    assert "batch-size must be <= 4" in refusal(worker.invoke(body, "application/json"))


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "ROWS" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] }
ensemble_scheduling {
  step { model_name: "scaled" model_version: -1
         input_map { key: "x" value: "ROWS" } output_map { key: "y" value: "SCALED" } }
  step { model_name: "total" model_version: -1
         input_map { key: "IN" value: "SCALED" } input_map { key: "PLAIN" value: "ROWS" }
         output_map { key: "OUT" value: "TOTAL" } }
}
"""
SCALED = """
platform: "onnxruntime_onnx"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }
dynamic_batching { }
"""
TOTAL = """
import numpy as np
import triton_python_backend_utils as pb_utils
import side

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            plain = pb_utils.get_input_tensor_by_name(request, "PLAIN").as_numpy()
            if (plain < 0).any():
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero")))
                continue
            total = side.total(rows) - plain.sum(axis=1, keepdims=True)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total.astype(np.float32))]))
        return answers
"""
TOTAL_CONFIG = """
backend: "python"
max_batch_size: 16
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "PLAIN" data_type: TYPE_FP32 dims: [ 3 ] } ]
output { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { count: 2 kind: KIND_GPU }
"""
ENSEMBLE_FILES: dict[str, str | bytes] = {
    "whole/config.pbtxt": ENSEMBLE,
    "whole/1/.keep": "",
    "scaled/config.pbtxt": SCALED,
    "scaled/1/model.onnx": repositories.scaled(3.0),
    "total/config.pbtxt": TOTAL_CONFIG,
    "total/1/model.py": TOTAL,
    "total/1/side.py": "def total(rows):\n    return rows.sum(axis=1, keepdims=True)\n",
}


def test_an_ensemble_joins_backends(start: Start, sockets: New) -> None:
    folder = repositories.write(sockets(), ENSEMBLE_FILES)
    worker = start(folder, "triton", environ={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"})
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(20):  # both instances of the last step get their turns
        found = ask(worker, {"ROWS": rows}).as_numpy("TOTAL")
        np.testing.assert_allclose(found, rows.sum(axis=1, keepdims=True) * 2, rtol=1e-6)
    assert "KIND_GPU runs on the CPU here" in worker.detail["note"]
    body, _ = request({"ROWS": -rows}, None, False)
    assert refusal(worker.invoke(body, "application/json")) == "in ensemble 'whole', below zero"


CALLER = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    async def execute(self, requests):
        answers = []
        for request in requests:
            asked = pb_utils.InferenceRequest(
                model_name="scaled", requested_output_names=["y"],
                inputs=[pb_utils.Tensor("x", pb_utils.get_input_tensor_by_name(request, "IN").as_numpy())],
            )
            answer = await asked.async_exec()
            if answer.has_error():
                answers.append(pb_utils.InferenceResponse(error=answer.error()))
            else:
                found = pb_utils.get_output_tensor_by_name(answer, "y").as_numpy()
                answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", found)]))
        return answers

    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(4)
        config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [3]})
        return config
"""


def test_a_python_model_calls_another_and_completes_its_own_configuration(start: Start, sockets: New) -> None:
    files: dict[str, str | bytes] = {
        "caller/1/model.py": CALLER,
        "scaled/config.pbtxt": SCALED,
        "scaled/1/model.onnx": repositories.scaled(3.0),
        "broken/config.pbtxt": 'backend: "tensorrt"',
    }
    worker = start(
        repositories.write(sockets(), files), "triton", environ={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "caller"}
    )
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(ask(worker, {"IN": rows}).as_numpy("OUT"), rows * 3)
    assert "model 'broken' is not served: model 'broken': the backend 'tensorrt'" in worker.detail["note"]
    body, _ = request({"IN": np.zeros((1, 2), np.float32)}, None, False)
    assert "unexpected shape for input 'x' for model 'scaled'" in refusal(worker.invoke(body, "application/json"))


BROKEN: list[tuple[dict[str, str | bytes], dict[str, str], str]] = [
    ({"config.pbtxt": "", "1/model.py": ""}, {}, "Incorrect directory structure"),
    ({"readme.txt": ""}, {}, "No model found in model repository"),
    (
        {"a/config.pbtxt": "", "b/config.pbtxt": ""},
        {},
        "More than 1 model directory found in model repository. Either provide a single directory or set "
        "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME to run the ensemble backend. Directories found in model repository: a b",
    ),
    (
        {"a/config.pbtxt": ""},
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "c"},
        "Directory with provided SAGEMAKER_TRITON_DEFAULT_MODEL_NAME c does not exist",
    ),
    ({"a/config.pbtxt": "colour: 1"}, {}, '1:1: Message type "inference.ModelConfig" has no field named "colour".'),
    ({"a/config.pbtxt": 'name: "b" backend: "python"'}, {}, "directory name must equal model name"),
    ({"a/config.pbtxt": 'platform: "tensorflow_savedmodel"'}, {}, "the backend 'tensorflow' is not served here"),
    ({"a/config.pbtxt": 'backend: "openvino"', "a/1/model.xml": ""}, {}, "the backend 'openvino' needs the package"),
    ({"a/config.pbtxt": 'backend: "python"'}, {}, "at least one version must be available under the version policy"),
    ({"a/config.pbtxt": 'backend: "python"', "a/1/x": ""}, {}, "failed to stat file"),
    ({"a/1/model.pt": b"x"}, {}, "model 'a' has no config.pbtxt, and model.pt does not tell"),
    ({"a/config.pbtxt": 'backend: "python" sequence_batching { }'}, {}, "sequence_batching is not served here"),
    (
        {"a/config.pbtxt": 'backend: "python" model_transaction_policy { decoupled: true }'},
        {},
        "model_transaction_policy.decoupled is not served here",
    ),
    (
        {"a/config.pbtxt": repositories.echo_config("TYPE_FP32"), "a/1/model.py": "import nothing_of_that_name"},
        {},
        "No module named 'nothing_of_that_name'",
    ),
    (
        {"a/config.pbtxt": repositories.echo_config("TYPE_FP32"), "a/1/model.py": ""},
        {},
        "no attribute 'TritonPythonModel'",
    ),
    (
        {
            "a/config.pbtxt": repositories.echo_config("TYPE_FP32"),
            "a/1/model.py": repositories.ECHO
            + "    def initialize(self, args):\n        raise OSError('no weights')\n",
        },
        {},
        "failed to load 'a' version 1: Internal: OSError: no weights",
    ),
    ({"a/1/model.onnx": b"not an onnx file"}, {}, "failed to load 'a' version 1: onnx runtime error"),
    (
        {
            "scaled/config.pbtxt": SCALED.replace("TYPE_FP32", "TYPE_INT64"),
            "scaled/1/model.onnx": repositories.scaled(1),
        },
        {},
        "configuration expects datatype INT64 for input 'x', model provides FP32",
    ),
    (
        {
            "scaled/config.pbtxt": SCALED.replace("dims: [ 3 ]", "dims: [ 4 ]"),
            "scaled/1/model.onnx": repositories.scaled(1),
        },
        {},
        "the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 2 dimensions",
    ),
    (
        {"scaled/config.pbtxt": SCALED, "scaled/1/model.onnx": repositories.scaled(1, first=2)},
        {},
        "has the fixed first size 2, so max_batch_size must be 0",
    ),
    (
        {name: content for name, content in ENSEMBLE_FILES.items() if not name.startswith("total")},
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"},
        "ensemble 'whole' depends on 'total' which has no folder",
    ),
    (
        {**ENSEMBLE_FILES, "whole/config.pbtxt": ENSEMBLE.replace('value: "SCALED" } }', 'value: "OTHER" } }', 1)},
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"},
        "no step can begin: nobody writes the tensors SCALED",
    ),
    (
        {**ENSEMBLE_FILES, "whole/config.pbtxt": ENSEMBLE.replace('model_name: "total"', 'model_name: "whole"')},
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"},
        "circular dependency between ensembles: whole -> whole",
    ),
    (
        {**ENSEMBLE_FILES, "whole/config.pbtxt": ENSEMBLE.replace("max_batch_size: 8", "max_batch_size: 9")},
        {"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"},
        "ensemble allows maximum batch size 9, but it contains model scaled which "
        "only allows maximum batch size to be 8",
    ),
]


@pytest.mark.parametrize(("files", "environ", "words"), BROKEN, ids=[words[:40] for _, _, words in BROKEN])
def test_a_broken_repository_fails_with_its_reason(
    start: Start, sockets: New, files: dict[str, str | bytes], environ: dict[str, str], words: str
) -> None:
    worker = start(repositories.write(sockets(), files), "triton", environ=environ)
    assert words in worker.failure["reason"]
    assert worker.failure["hint"]


def test_the_models_are_finalized_when_the_worker_leaves(start: Start, sockets: New) -> None:
    files: dict[str, str | bytes] = {
        "add_sub/config.pbtxt": repositories.ADD_SUB_CONFIG,
        "add_sub/1/model.py": repositories.ADD_SUB,
    }
    worker = start(repositories.write(sockets(), files), "triton")
    assert worker.request("GET", "/ping").status == 200
    assert worker.stop() == 0
    assert "initialized add_sub 1 CPU" in worker.log
    assert "finalized add_sub" in worker.log


def test_a_step_that_writes_into_its_input_spoils_no_other_steps(start: Start, sockets: New) -> None:
    spoils = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            rows[:] = 0
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", rows)]))
        return answers
"""
    ensemble = """
max_batch_size: 4
input { name: "IN" data_type: TYPE_FP32 dims: [ 3 ] }
output [ { name: "ZERO" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "SAME" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling { step [
  { model_name: "scaled" input_map { key: "x" value: "IN" } output_map { key: "y" value: "mid" } },
  { model_name: "spoils" input_map { key: "IN" value: "mid" } output_map { key: "OUT" value: "ZERO" } },
  { model_name: "again" input_map { key: "x" value: "mid" } output_map { key: "y" value: "SAME" } }
] }
"""
    files: dict[str, str | bytes] = {
        "whole/config.pbtxt": ensemble,
        "whole/1/.keep": "",
        "spoils/config.pbtxt": repositories.echo_config("TYPE_FP32"),
        "spoils/1/model.py": spoils,
        "scaled/config.pbtxt": SCALED,
        "scaled/1/model.onnx": repositories.scaled(2.0),
        "again/config.pbtxt": SCALED,
        "again/1/model.onnx": repositories.scaled(1.0),
    }
    worker = start(
        repositories.write(sockets(), files), "triton", environ={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "whole"}
    )
    rows = np.ones((2, 3), np.float32)
    found = ask(worker, {"IN": rows})
    np.testing.assert_array_equal(found.as_numpy("SAME"), rows * 2)
    np.testing.assert_array_equal(found.as_numpy("ZERO"), rows * 0)


def test_torchscript_is_served_by_index(start: Start, sockets: New) -> None:
    torch: Any = pytest.importorskip(
        "torch", reason="torch is not installed beside the tests; tests/e2e/test_pytorch.py has one of its own"
    )

    class Weighted(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2 - y, x

    folder = sockets()
    text = """
platform: "pytorch_libtorch"
max_batch_size: 8
input [ { name: "I__1" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "I__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "O__1" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "O__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
    repositories.write(folder, {"weighted/config.pbtxt": text, "weighted/1/.keep": ""})
    torch.jit.script(Weighted()).save(str(folder / "weighted" / "1" / "model.pt"))
    worker = start(folder, "triton-pytorch")
    first, second = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    found = ask(worker, {"I__0": first, "I__1": second})
    np.testing.assert_array_equal(found.as_numpy("O__0"), first * 2 - second)
    np.testing.assert_array_equal(found.as_numpy("O__1"), first)


@pytest.mark.parametrize(("setting", "most"), [("auto", 8), ("off", 1)])
def test_callers_at_once_share_executions_unless_batching_is_off(
    start: Start, sockets: New, setting: str, most: int
) -> None:
    text = repositories.echo_config(
        "TYPE_FP32", "dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 60000000 }"
    )
    text = text.replace("max_batch_size: 4", "max_batch_size: 8")
    files: dict[str, str | bytes] = {"echo/config.pbtxt": text, "echo/1/model.py": repositories.ECHO}
    worker = start(repositories.write(sockets(), files), "triton", batching=setting)
    connections = [worker.connect() for _ in range(8)]
    for place, connection in enumerate(connections):
        body, size = request({"IN": np.full((1, 2), place, np.float32)}, ["OUT"], True)
        connection.request("POST", "/invocations", body, {"Content-Type": f"{BINARY}{size}"})
    for place, connection in enumerate(connections):
        answer = connection.getresponse()
        length = int(str(answer.headers["content-type"]).removeprefix(BINARY))
        found = InferenceServerClient.parse_response_body(answer.read(), header_length=length)
        assert found.as_numpy("OUT").tolist() == [[place, place]]
        connection.close()
    sizes = [int(line.split()[-1]) for line in worker.log.splitlines() if line.startswith("batch of")]
    assert sum(sizes) == 8
    assert max(sizes) == most  # the eighth call completes the preferred size; nobody waits for the minute to pass


def test_a_multi_model_endpoint_of_repositories_is_refused_by_name(start: Start, sockets: New) -> None:
    worker = start(sockets(), "triton", multi_model=True)
    assert "Mode MultiModel" in worker.failure["reason"]


def test_versions_are_served_as_the_policy_says(start: Start, sockets: New) -> None:
    for policy, version, factor in (("", 10, 3.0), ("version_policy { specific { versions: [ 2 ] } }", 2, 2.0)):
        files: dict[str, str | bytes] = {
            "scaled/config.pbtxt": SCALED + policy,
            "scaled/2/model.onnx": repositories.scaled(2.0),
            "scaled/10/model.onnx": repositories.scaled(3.0),
            "scaled/notes/readme": "not a version",
        }
        worker = start(repositories.write(sockets(), files), "triton")
        found = ask(worker, {"x": np.ones((1, 3), np.float32)})
        assert found.get_response()["model_version"] == str(version)
        np.testing.assert_array_equal(found.as_numpy("y"), np.full((1, 3), factor, np.float32))


def test_optional_inputs_may_be_left_out_and_values_reshaped(start: Start, sockets: New) -> None:
    model = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            assert rows.ndim == 1, rows.shape
            plus = pb_utils.get_input_tensor_by_name(request, "PLUS")
            total = rows if plus is None else rows + plus.as_numpy()[:, 0]
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", total.astype(np.int32))]))
        return answers
"""
    text = """
backend: "python"
max_batch_size: 8
input [
  { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] reshape { shape: [ ] } },
  { name: "PLUS" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
]
output { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] reshape { shape: [ ] } }
"""
    worker = start(repositories.write(sockets(), {"sum/config.pbtxt": text, "sum/1/model.py": model}), "triton")
    rows = np.array([[1], [2]], np.int32)
    np.testing.assert_array_equal(ask(worker, {"IN": rows}).as_numpy("OUT"), rows)
    np.testing.assert_array_equal(ask(worker, {"IN": rows, "PLUS": rows}).as_numpy("OUT"), rows * 2)
    told = refusal(ask_json(worker, {"inputs": []}))
    assert told.endswith(
        "expected number of inputs between 1 and 2 but got 0 inputs for model 'sum'. Got input(s) [], but missing "
        "required input(s) ['IN']. Please provide all required input(s)."
    )
