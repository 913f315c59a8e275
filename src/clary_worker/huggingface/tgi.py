"""Requests and answers in the shape of Text Generation Inference on SageMaker, for images `huggingface-pytorch-tgi-*`.

    {"inputs": "...", "parameters": {...}}                 -> [{"generated_text": "...", "details": {...}}]
    {"inputs": "...", "parameters": {...}, "stream": true} -> data:{"index":1,"token":{...},...} events

What TGI knows and transformers' generation lacks is refused by name, with TGI's own status and shape.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any, Dict, List, NamedTuple, Optional

from ..contract import JSON, RequestError, Response
from . import events, generation

MAX_NEW_TOKENS = 100  # TGI 3's default (router/src/lib.rs, default_max_new_tokens)
# Handed on to `generate` under the same name.
_SAME = ("do_sample", "max_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p", "typical_p")
_OURS = ("details", "return_full_text", "seed", "stop")
# What changes the answer and is not done; allowed at the values that change nothing.
_REFUSED: Dict[str, tuple[Any, ...]] = {
    "adapter_id": (None,),
    "best_of": (None, 1),
    "decoder_input_details": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "grammar": (None,),
    "top_n_tokens": (None, 0),
    "truncate": (None,),
    "watermark": (None, False),
}


class Asked(NamedTuple):
    """A request: `generate` is what transformers is called with."""

    inputs: str
    generate: Dict[str, Any]
    stop: List[str]
    details: bool
    seed: Optional[int]
    stream: bool


def read(data: Any) -> Asked:
    """The request of a JSON body. Raises: RequestError naming what is wrong or not served."""
    if not isinstance(data, dict) or not isinstance(data.get("inputs"), str):
        raise RequestError('send {"inputs": "text", "parameters": {...}}: inputs is one text', 422)
    parameters = {} if data.get("parameters") is None else data["parameters"]
    if not isinstance(parameters, dict):
        raise RequestError("parameters is an object", 422)
    for name, value in parameters.items():
        if name in _REFUSED:
            if value not in _REFUSED[name]:
                raise RequestError("the parameter `%s` is not served here" % name, 422)
        elif name not in _SAME and name not in _OURS:
            raise RequestError("the parameter `%s` is not known" % name, 422)
    found = {name: parameters[name] for name in _SAME if parameters.get(name) is not None}
    found.setdefault("max_new_tokens", MAX_NEW_TOKENS)
    _check(found)
    # As TGI: any of these makes it sample.
    found["do_sample"] = bool(
        found.get("do_sample") or any(name in found for name in ("temperature", "top_k", "top_p", "typical_p"))
    )
    found["return_full_text"] = bool(parameters.get("return_full_text"))
    stop = parameters.get("stop") or []
    if not isinstance(stop, list) or not all(isinstance(one, str) for one in stop):
        raise RequestError("`stop` is a list of texts", 422)
    seed = parameters.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise RequestError("`seed` is a number", 422)
    return Asked(data["inputs"], found, stop, bool(parameters.get("details")), seed, bool(data.get("stream")))


def _check(found: Dict[str, Any]) -> None:
    if not isinstance(found["max_new_tokens"], int) or found["max_new_tokens"] < 1:
        raise RequestError("`max_new_tokens` must be strictly positive", 422)
    for name in ("temperature", "repetition_penalty", "top_k"):
        if name in found and not (isinstance(found[name], (int, float)) and found[name] > 0):
            raise RequestError("`%s` must be strictly positive" % name, 422)
    for name in ("top_p", "typical_p"):
        if name in found and not (isinstance(found[name], (int, float)) and 0 < found[name] < 1):
            raise RequestError("`%s` must be > 0.0 and < 1.0" % name, 422)


def answer(pipe: Any, data: Any) -> Any:
    """The events of a stream, or TGI's list of one text. Raises: RequestError, or what the pipeline raises."""
    asked = read(data)
    if asked.seed is not None:
        import torch

        torch.manual_seed(asked.seed)
    tokens = generation.start(pipe, asked.inputs, asked.generate, asked.stop)
    if asked.stream:
        return events.Events(tokens, asked.details, asked.seed)
    made = list(tokens)
    found: Dict[str, Any] = {"generated_text": made[-1].text}
    if asked.details:
        found["details"] = {
            "finish_reason": made[-1].finish,
            "generated_tokens": len(made),
            "seed": asked.seed,
            "prefill": [],
            "tokens": [events.plain(token) for token in made],
        }
    return [found]


def failure(error: BaseException) -> Response:
    """{"error": ..., "error_type": ...}, 422 for a request that is wrong and 424 for a generation that failed."""
    if isinstance(error, RequestError):
        told, status = {"error": "Input validation error: " + error.text, "error_type": "validation"}, 422
    else:
        traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        words = "Request failed during generation: %s: %s" % (type(error).__name__, error)
        told, status = {"error": words, "error_type": "generation"}, 424
    return Response(json.dumps(told).encode(), JSON, status)
