"""Model repositories for the tests: folders as users pack them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

ADD_SUB = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        self.types = {
            name: pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(self.config, name)["data_type"])
            for name in ("OUTPUT0", "OUTPUT1")
        }
        print("initialized", args["model_name"], args["model_version"], args["model_instance_kind"])

    def execute(self, requests):
        answers = []
        for request in requests:
            first = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            second = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            if (first == 13).any():
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("13 is not added here")))
                continue
            if (first == 14).any():
                raise ValueError("fourteen")
            outputs = [
                pb_utils.Tensor("OUTPUT0", (first + second).astype(self.types["OUTPUT0"])),
                pb_utils.Tensor("OUTPUT1", (first - second).astype(self.types["OUTPUT1"])),
            ]
            answers.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return answers

    def finalize(self):
        print("finalized", self.config["name"])
"""
ADD_SUB_CONFIG = """
name: "add_sub"
backend: "python"
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "INPUT1" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { }
"""
ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        print("batch of", len(requests), flush=True)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())])
            for r in requests
        ]
"""


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """The folder, with these files in it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def scaled(factor: float, first: Any = "n", kind: int = TensorProto.FLOAT) -> bytes:
    """y = factor * x for x of [first, 3], as ONNX."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("x", kind, [first, 3])],
        [helper.make_tensor_value_info("y", kind, [first, 3])],
        [helper.make_tensor("factor", kind, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def echo_config(datatype: str, more: str = "") -> str:
    return f"""
backend: "python"
max_batch_size: 4
input {{ name: "IN" data_type: {datatype} dims: [ -1 ] }}
output {{ name: "OUT" data_type: {datatype} dims: [ -1 ] }}
{more}
"""
