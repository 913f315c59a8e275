"""Requests made, and answers read, by NVIDIA's own client."""

from __future__ import annotations

import json
from typing import Any

from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype
from worker_client import Answer, Worker

BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="


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
