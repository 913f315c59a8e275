"""The protocol on real workers: JSON and binary, every datatype, and what is refused in Triton's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_models as repositories
from triton_client import BINARY, ask, ask_json, refusal, request
from tritonclient.utils import np_to_triton_dtype
from worker_client import Worker

Start = Callable[..., Worker]
New = Callable[[], Path]


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
