"""Model repositories on real workers, asked by the body maker and reader of NVIDIA's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import triton_models as repositories
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype
from worker_client import Answer, Worker

BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="
Start = Callable[..., Worker]
New = Callable[[], Path]


def ask(worker: Worker, tensors: dict[str, Any], outputs: list[str] | None = None, binary: bool = True) -> Any:
    """What the client's reader makes of the answer."""
    body, size = request(tensors, outputs, binary)
    kind = "application/json" if size is None else f"{BINARY}{size}"
    answer = worker.invoke(body, kind)
    assert answer.status == 200, answer.text
    length = answer.kind.removeprefix(BINARY) if answer.kind.startswith(BINARY) else None
    return InferenceServerClient.parse_response_body(answer.body, header_length=length and int(length))


def request(tensors: dict[str, Any], outputs: list[str] | None, binary: bool) -> tuple[bytes, int | None]:
    inputs = []
    for name, array in tensors.items():
        one = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    wanted = None if outputs is None else [InferRequestedOutput(name, binary_data=binary) for name in outputs]
    body, size = InferenceServerClient.generate_request_body(inputs, outputs=wanted, request_id="r7")
    return body, size


def ask_json(worker: Worker, value: Any) -> Answer:
    return worker.invoke(json.dumps(value), "application/json")


def refusal(answer: Answer) -> str:
    assert answer.status == 400, answer.text
    assert answer.kind == "application/json"
    assert set(answer.json) == {"error"}
    return str(answer.json["error"])


@pytest.fixture(scope="module")
def add_sub(start: Start, sockets: New) -> Worker:
    files: dict[str, str | bytes] = {
        "add_sub/config.pbtxt": repositories.ADD_SUB_CONFIG,
        "add_sub/1/model.py": repositories.ADD_SUB,
    }
    return start(repositories.write(sockets(), files), "triton")


ROWS = {"INPUT0": np.arange(8, dtype=np.float32).reshape(2, 4), "INPUT1": np.ones((2, 4), np.float32)}


def test_a_python_model_is_not_tried_before_its_first_request(add_sub: Worker) -> None:
    assert not add_sub.detail["warmup"]
    assert "ready means loaded" in add_sub.detail["note"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_python_model_answers_the_client(add_sub: Worker, binary: bool) -> None:
    found = ask(add_sub, ROWS, ["OUTPUT0", "OUTPUT1"], binary)
    np.testing.assert_array_equal(found.as_numpy("OUTPUT0"), ROWS["INPUT0"] + 1)
    np.testing.assert_array_equal(found.as_numpy("OUTPUT1"), ROWS["INPUT0"] - 1)
    head = found.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("r7", "add_sub", "1")


def test_no_outputs_named_means_all_of_them(add_sub: Worker) -> None:
    found = ask(add_sub, ROWS)  # the client then asks for binary outputs by a parameter
    assert [one["name"] for one in found.get_response()["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert "binary_data_size" in found.get_output("OUTPUT0")["parameters"]


def test_one_output_alone(add_sub: Worker) -> None:
    found = ask(add_sub, ROWS, ["OUTPUT1"])
    assert [one["name"] for one in found.get_response()["outputs"]] == ["OUTPUT1"]


def test_the_answer_of_a_json_request_is_json(add_sub: Worker) -> None:
    tensors = [
        {"name": name, "shape": [1, 4], "datatype": "FP32", "data": [[1, 2.5, 3, 4]]} for name in ("INPUT0", "INPUT1")
    ]
    answer = ask_json(add_sub, {"inputs": tensors})
    assert (answer.status, answer.kind) == (200, "application/json")
    assert answer.json == {
        "model_name": "add_sub",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 4], "data": [2.0, 5.0, 6.0, 8.0]},
            {"name": "OUTPUT1", "datatype": "FP32", "shape": [1, 4], "data": [0.0, 0.0, 0.0, 0.0]},
        ],
    }


def test_a_models_own_error_and_its_exception_are_told(add_sub: Worker) -> None:
    def with_first(value: float) -> bytes:
        return request({**ROWS, "INPUT0": np.full((2, 4), value, np.float32)}, None, False)[0]

    assert refusal(add_sub.invoke(with_first(13), "application/json")) == "13 is not added here"
    told = refusal(add_sub.invoke(with_first(14), "application/json"))
    assert told.startswith(
        "Failed to process the request(s) for model instance 'add_sub_0_0', message: ValueError: fourteen"
    )
    assert "model.py(" in told
    assert "fourteen" in add_sub.log


INPUT = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
OTHER = {**INPUT, "name": "INPUT1"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"inputs": [INPUT]},
            "[request id: <id_unknown>] expected 2 inputs but got 1 inputs for model 'add_sub'. Got input(s) "
            "['INPUT0'], but missing required input(s) ['INPUT1']. Please provide all required input(s).",
        ),
        (
            {"id": "q", "inputs": [INPUT, {**OTHER, "name": "X"}]},
            "[request id: q] unexpected inference input 'X' for model 'add_sub'",
        ),
        (
            {"inputs": [INPUT, OTHER], "outputs": [{"name": "Y"}]},
            "[request id: <id_unknown>] unexpected inference output 'Y' for model 'add_sub'",
        ),
        (
            {"inputs": [INPUT, {**OTHER, "datatype": "INT32"}]},
            "[request id: <id_unknown>] inference input 'INPUT1' data-type is 'INT32', but model 'add_sub' expects "
            "'FP32'",
        ),
        (
            {"inputs": [{**INPUT, "shape": [2, 2]}, {**OTHER, "shape": [2, 2]}]},
            "[request id: <id_unknown>] unexpected shape for input 'INPUT0' for model 'add_sub'. Expected [-1,4], got "
            "[2,2]. NOTE: Setting a non-zero max_batch_size",
        ),
        (
            {"inputs": [{**one, "shape": [9, 4], "data": [0] * 36} for one in (INPUT, OTHER)]},
            "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'add_sub'",
        ),
        (
            {"inputs": [INPUT, {**OTHER, "shape": [2, 4], "data": [0] * 8}]},
            "[request id: <id_unknown>] input 'INPUT1' batch size does not match other inputs for 'add_sub'",
        ),
        ({"inputs": [{**INPUT, "data": [1, 2]}, OTHER]}, "Shape does not match true shape of 'data' field"),
        ({"inputs": [{**INPUT, "data": ["1", "2", "3", "4"]}, OTHER]}, "attempt to access JSON non-number as number"),
        ({"inputs": [{**INPUT, "datatype": "FP16"}, OTHER]}, "receiving FP16 data via JSON is not supported"),
        ({"inputs": [{**INPUT, "datatype": "BF16"}, OTHER]}, "invalid datatype for input INPUT0: 'BF16'"),
        ({"inputs": [INPUT, INPUT]}, "input 'INPUT0' already exists in request"),
        ({"inputs": [{**INPUT, "shape": [-1, 4]}, OTHER]}, "-1 of input 'INPUT0' is no size"),
        ({"inputs": [{**INPUT, "shape": [1 << 40, 1 << 40]}, OTHER]}, "larger than can be"),
        ({"inputs": "x"}, "Unable to parse 'inputs'"),
        ([1], "Unable to parse 'inputs'"),
        (
            {"inputs": [INPUT, OTHER], "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2}}]},
            "'classification' of output 'OUTPUT0' is not served here",
        ),
        (
            {"inputs": [{**INPUT, "parameters": {"shared_memory_region": "r"}}, OTHER]},
            "shared memory of 'INPUT0' is not served here",
        ),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 16}}, OTHER]}, "unexpected end of input data"),
    ],
)
def test_a_bad_request_is_refused_in_tritons_words(add_sub: Worker, value: Any, words: str) -> None:
    assert words in refusal(ask_json(add_sub, value))


def test_a_bad_binary_body_is_refused(add_sub: Worker) -> None:
    body, size = request(ROWS, None, True)
    assert size is not None
    assert "unexpected additional input data" in refusal(add_sub.invoke(body + b"x", f"{BINARY}{size}"))
    assert "unexpected end of input data" in refusal(add_sub.invoke(body[:-1], f"{BINARY}{size}"))
    assert "inference header size should be in range" in refusal(add_sub.invoke(body, f"{BINARY}{len(body) + 1}"))
    assert "Unable to parse inference header size" in refusal(add_sub.invoke(body, f"{BINARY}x"))
    assert "failed to parse the request JSON buffer" in refusal(add_sub.invoke(body, f"{BINARY}{size - 1}"))
    assert "failed to parse the request JSON buffer" in refusal(add_sub.invoke(b"", "application/json"))


ARRAYS = [
    np.array([[True, False, True]]),
    np.array([[0, 255]], np.uint8),
    np.array([[0, 65535]], np.uint16),
    np.array([[0, 2**32 - 1]], np.uint32),
    np.array([[0, 2**64 - 1]], np.uint64),
    np.array([[-128, 127]], np.int8),
    np.array([[-(2**15), 2**15 - 1]], np.int16),
    np.array([[-(2**31), 2**31 - 1]], np.int32),
    np.array([[-(2**63), 2**63 - 1]], np.int64),
    np.array([[1.5, -2.0, np.inf]], np.float16),
    np.array([[1.5, -2.0, np.inf, np.nan]], np.float32),
    np.array([[1e300, -0.0]], np.float64),
    np.array([["a", "", "zwölf €"]], object),
    np.zeros((1, 0), np.float32),
    np.zeros((3, 100_000), np.float32),
]


@pytest.fixture(scope="module")
def echoes(start: Start, sockets: New) -> Callable[[str], Worker]:
    found: dict[str, Worker] = {}

    def of(config_type: str) -> Worker:
        if config_type not in found:
            files: dict[str, str | bytes] = {
                "echo/config.pbtxt": repositories.echo_config(config_type),
                "echo/1/model.py": repositories.ECHO,
            }
            found[config_type] = start(repositories.write(sockets(), files), "triton")
        return found[config_type]

    return of


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.name}-{array.size}")
def test_every_datatype_goes_there_and_back(echoes: Callable[[str], Worker], array: Any) -> None:
    datatype = np_to_triton_dtype(array.dtype)
    worker = echoes("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")
    for binary in (True, False):
        if not binary and datatype == "FP16":
            continue  # goes in no JSON at all
        found = ask(worker, {"IN": array}, ["OUT"], binary).as_numpy("OUT")
        if array.dtype == object:
            found = np.array([value.decode() if isinstance(value, bytes) else value for value in found.ravel()], object)
            found = found.reshape(array.shape)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_strings_that_lie_about_their_length_are_refused(echoes: Callable[[str], Worker]) -> None:
    worker = echoes("TYPE_STRING")
    cases = {
        b"\x09\0\0\0abc": "expecting string of length 9 but only 3 bytes available",
        b"\x01\0": "expecting 4 bytes but only 2 bytes available",
        b"\0\0\0\0\0\0\0\0": "unexpected number of string elements 2",
        b"": "expected 1 strings",
    }
    for raw, words in cases.items():
        tensor = {"name": "IN", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        assert words in refusal(worker.invoke(head + raw, f"{BINARY}{len(head)}"))


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
    torch: Any = pytest.importorskip("torch", reason="torch is not in this environment: its backend is NOT tested")

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
