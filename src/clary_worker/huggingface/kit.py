"""What serves a Hugging Face model where the user's script says nothing: load, read, predict, write, tell failures.

The functions are those that sagemaker-huggingface-inference-toolkit calls, so each may be replaced by a script's.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Tuple, Union

from ..contract import RequestError, Response
from ..defaults import Kit
from . import bodies, events, generation, pipelines, tgi

TGI = "huggingface-tgi"
FRAMEWORKS = ("huggingface", TGI)


class Service(NamedTuple):
    kit: Kit
    failed: Callable[[BaseException], Response]


def before_import() -> None:
    """Sets what the libraries read when they are imported, where the user has not."""
    pipelines.before_import()


def load(model_dir: str, environ: Dict[str, str], threads: int) -> Tuple[Any, str]:
    """(pipeline, note). Raises: LoadError."""
    return pipelines.load(model_dir, environ, threads)


def of(framework: str, environ: Dict[str, str]) -> Service:
    """The functions of an image's kind."""
    task = environ.get("HF_TASK", "")

    def read(body: Union[bytes, str], content_type: str) -> Any:
        return bodies.decode(body, content_type, task)

    if framework == TGI:
        return Service(Kit(read, _generate, _write), tgi.failure)
    return Service(Kit(read, _predict, _write), bodies.failure)


def _predict(data: Any, model: Any, context: Any) -> Any:
    """The pipeline's answer; `"stream": true` beside inputs gets a generated text's tokens as events."""
    if not isinstance(data, dict):
        raise RequestError('send {"inputs": ..., "parameters": {...}}, not %s' % type(data).__name__)
    data = dict(data)
    stream = data.pop("stream", False) if "inputs" in data else False
    inputs = data.pop("inputs", data)
    parameters = data.pop("parameters", None) if inputs is not data else None
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError("parameters is an object: the pipeline's keyword arguments")
    if stream is True:
        context.set_response_content_type(0, events.MEDIA)
        return events.Events(generation.start(model, inputs, parameters or {}), details=True)
    return model(inputs, **(parameters or {}))


def _generate(data: Any, model: Any, context: Any) -> Any:
    found = tgi.answer(model, data)
    if isinstance(found, events.Events):
        context.set_response_content_type(0, events.MEDIA)
    return found


def _write(prediction: Any, accept: str) -> Any:
    return prediction if isinstance(prediction, events.Events) else bodies.encode(prediction, accept)
