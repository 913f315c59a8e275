"""Script mode: a user's inference.py with model_fn, input_fn, predict_fn, output_fn or transform_fn.

Where the program is looked for, which function is called with what, and what stands in for one that is missing follow
the toolkits of AWS's framework containers (sagemaker-inference, the scikit-learn, XGBoost and PyTorch containers), so
that a script moves here unchanged:

    program     SAGEMAKER_PROGRAM (inference.py) in code_dir, SAGEMAKER_SUBMIT_DIRECTORY, model_dir/code, model_dir
    arguments   counted once at load: as documented, or one more, which then is the context
    bodies      str for text/csv and application/json (the toolkit's UTF-8 types), bytes for all others
    accept      Accept, or SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT (application/json) when absent or */*
    answers     a body, (body, content type), or an object with .response and .mimetype; a generator is streamed

Where AWS's scikit-learn and XGBoost containers insist on a model_fn, ours fall back to loading the artifact itself.
A script with nothing but a model_fn is served like a bare model, batching included.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from typing import Any, Callable, NamedTuple, Optional, Tuple

from . import codecs, defaults, loader, media, shared_libraries, toolkits
from .contract import CSV, JSON, LoadError, Request, Response
from .handler import PredictorHandler, failure
from .huggingface import kit as huggingface
from .spec import WorkerSpec

_UTF8 = (CSV, JSON)
_OWN_HEADERS = (
    "x-amzn-sagemaker-"  # the only ones of a script that go back: X-Amzn-SageMaker-Custom-Attributes above all
)
_UNKNOWN_TYPE = "application/octet-stream"


class Program(NamedTuple):
    path: str
    folder: str


def locate(spec: WorkerSpec) -> Optional[Program]:
    """The user's program, None when there is none and none was named.

    Raises: LoadError listing the places looked at when SAGEMAKER_PROGRAM names a file that is not there.
    """
    named = spec.environ.get("SAGEMAKER_PROGRAM", "")
    submitted = spec.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    places = [spec.code_dir, submitted if os.path.isabs(submitted) else ""]
    places += [os.path.join(spec.model_dir, "code"), spec.model_dir]
    folders = [place for place in places if place]
    for folder in folders:
        path = os.path.join(folder, named or "inference.py")
        if os.path.isfile(path):
            return Program(path, folder)
    if named:
        raise LoadError(
            "SAGEMAKER_PROGRAM names %s, which is not in %s" % (named, ", ".join(dict.fromkeys(folders))),
            "put the file into code/ of the model archive, or correct SAGEMAKER_PROGRAM",
        )
    return None


def is_served(program: Optional[Program], spec: WorkerSpec) -> bool:
    """Whether `load` is for this model: it has a program, or its framework's container calls functions without one."""
    return program is not None or spec.framework in huggingface.FRAMEWORKS


def load(program: Optional[Program], spec: WorkerSpec) -> Any:
    """The handler of a program, its model loaded. Raises: LoadError, or what the user's code raises."""
    if spec.framework in huggingface.FRAMEWORKS:
        huggingface.before_import()  # the script may import transformers
    if program is not None:
        shared_libraries.take(spec.model_dir)
    module = None if program is None else _import(program)
    fns = {name: getattr(module, name, None) for name in ("input_fn", "predict_fn", "output_fn", "transform_fn")}
    given = [name for name, fn in fns.items() if fn is not None]
    name = "default functions" if program is None else "script %s" % os.path.basename(program.path)
    if fns["transform_fn"] is not None and len(given) > 1:
        raise LoadError(
            "%s defines transform_fn together with %s"
            % (name.partition(" ")[2], ", ".join(name for name in given if name != "transform_fn")),
            "keep transform_fn alone, or input_fn, predict_fn and output_fn",
        )
    context = Context(spec.model_dir)
    model_fn = getattr(module, "model_fn", None)
    if spec.framework in huggingface.FRAMEWORKS:
        return _load_huggingface(fns, model_fn, context, spec, name)
    note = ""
    if model_fn is not None:
        model = Call(model_fn, 1)(context, spec.model_dir)
        predictor = None
        if not given:
            predictor = loader.adopt(model, name, spec.threads, spec.environ.get("CLARY_SKLEARN_METHOD", ""))
    else:
        predictor, note = loader.load(spec.model_dir, spec.framework, spec.threads, spec.environ)
        model = defaults.bare(predictor)
        predictor.loader = name
    if not given:
        handler = PredictorHandler(predictor, spec, note)
        handler.warm()
        return handler
    return ScriptHandler(fns, model, context, spec, name, note, defaults.of(spec.framework, spec.threads))


def _load_huggingface(fns: Any, model_fn: Any, context: Context, spec: WorkerSpec, name: str) -> ScriptHandler:
    if model_fn is not None:
        model, note = Call(model_fn, 1)(context, spec.model_dir), ""
    else:
        model, note = huggingface.load(spec.model_dir, spec.environ, spec.threads)
    service = huggingface.of(spec.framework, spec.environ)
    return ScriptHandler(fns, model, context, spec, name, note, service.kit, service.failed)


def _import(program: Program) -> Any:
    """The program as a module of its file's name, its folder first on sys.path."""
    if program.folder not in sys.path:
        sys.path.insert(0, program.folder)
    toolkits.install()
    name = os.path.splitext(os.path.basename(program.path))[0]
    described = importlib.util.spec_from_file_location(name, program.path)
    if described is None or described.loader is None:
        raise LoadError("%s is no Python program" % program.path, "name a .py file in SAGEMAKER_PROGRAM")
    module = importlib.util.module_from_spec(described)
    sys.modules[name] = module
    described.loader.exec_module(module)
    return module


class Call:
    """A user's function that takes `count` arguments, or one more: the context. Counted once."""

    __slots__ = ("_fn", "_with_context")

    def __init__(self, fn: Callable[..., Any], count: int) -> None:
        taken = inspect.signature(fn).parameters.values()
        if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in taken):
            self._with_context = False
        elif len(taken) in (count, count + 1):
            self._with_context = len(taken) == count + 1
        else:
            raise LoadError(
                "%s takes %d arguments, but %d (or %d with the context) are given"
                % (getattr(fn, "__name__", "the function"), len(taken), count, count + 1),
                "give it the signature of the SageMaker inference toolkit",
            )
        self._fn = fn

    def __call__(self, context: Context, *arguments: Any) -> Any:
        if self._with_context:
            return self._fn(*arguments, context)
        return self._fn(*arguments)


class Context:
    """What a function with a context argument sees of the request, and may set of the response.

    The names are those that scripts use of multi-model-server's and TorchServe's context.
    """

    def __init__(self, model_dir: str) -> None:
        self.system_properties = {"model_dir": model_dir, "gpu_id": None, "batch_size": 1, "server_name": "clary"}
        self.manifest: dict[str, Any] = {"model": {}}
        self.request_processor = [self]
        self.reset(None)

    def reset(self, request: Optional[Request]) -> None:
        self._request = request
        self.response_headers: list[Tuple[str, str]] = []
        self.status = 200
        self.content_type = ""

    def get_request_properties(self) -> dict[str, str]:
        """Header names as they are usually written, with their values."""
        if self._request is None:
            return {}
        return {
            "-".join(word.capitalize() for word in name.decode("latin-1").split("-")): value.decode("latin-1")
            for name, value in self._request.headers.items()
        }

    def get_all_request_header(self, index: int = 0) -> dict[str, str]:
        return self.get_request_properties()

    def get_request_header(self, index: int, name: str) -> Optional[str]:
        if self._request is None:
            return None
        found = self._request.headers.get(name.lower().encode("latin-1"))
        return None if found is None else found.decode("latin-1")

    def set_response_content_type(self, index: int, value: str) -> None:
        self.content_type = value

    def set_response_header(self, index: int, name: str, value: str) -> None:
        self.add_response_property(name, value)

    def add_response_property(self, name: str, value: str) -> None:
        self.response_headers.append((name, value))

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status = code


class ScriptHandler:
    """Runs the user's functions, one request at a time."""

    batchable = False
    warmed = False

    def __init__(
        self,
        fns: Any,
        model: Any,
        context: Context,
        spec: WorkerSpec,
        loader_name: str,
        note: str,
        kit: defaults.Kit,
        failed: Callable[[BaseException], Response] = failure,
    ) -> None:
        self.loader = loader_name
        self.note = "; ".join(part for part in (note, "ready means loaded: a script is not tried") if part)
        self._model = model
        self._context = context
        self._default_accept = spec.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "") or JSON
        self._failed = failed
        self._transform = Call(fns["transform_fn"], 4) if fns["transform_fn"] is not None else None
        self._input = Call(fns["input_fn"] or kit.input_fn, 2)
        self._predict = Call(fns["predict_fn"] or kit.predict_fn, 2)
        self._output = Call(fns["output_fn"] or kit.output_fn, 2)
        self._streams = fns["output_fn"] is None  # a generator of predict_fn then goes out as it is

    def invoke(self, request: Request) -> Response:
        context = self._context
        context.reset(request)
        try:
            accept = request.accept
            if not accept or accept == "*/*":
                accept = self._default_accept
            body: Any = request.body
            if request.content_type and media.parse(request.content_type).known in _UTF8:
                body = body.decode("utf-8")
            if self._transform is not None:
                found = self._transform(context, self._model, body, request.content_type, accept)
            else:
                data = self._input(context, body, request.content_type)
                found = self._predict(context, data, self._model)
                if not (self._streams and inspect.isgenerator(found)):
                    found = self._output(context, found, accept)
            return self._response(found, accept)
        except Exception as error:  # the worker's border
            return self._failed(error)

    def invoke_many(self, requests: list[Request]) -> list[Response]:
        return [self.invoke(request) for request in requests]

    def _response(self, found: Any, accept: str) -> Response:
        kind = ""
        if isinstance(found, tuple) and len(found) == 2:
            found, kind = found[0], str(found[1])
        elif hasattr(found, "response") and hasattr(found, "mimetype"):
            found, kind = found.response, str(found.mimetype or "")
        context = self._context
        kind = context.content_type or kind or _single(accept)
        if isinstance(found, bytes):
            body: Any = found
        elif isinstance(found, str):
            body = found.encode()
        elif isinstance(found, (bytearray, memoryview)):
            body = bytes(found)
        elif found is None:
            raise TypeError("the script answered None; return a body, or (body, content type)")
        elif hasattr(found, "__next__"):
            body = found
        else:
            # Arrays, lists and dictionaries: encoded as the toolkit's default output_fn would.
            chosen = JSON if isinstance(found, dict) else codecs.answer_type(accept, JSON)
            body = json.dumps(found).encode() if isinstance(found, dict) else codecs.encode(found, chosen)
            kind = chosen
        headers = [pair for pair in context.response_headers if pair[0].lower().startswith(_OWN_HEADERS)]
        return Response(body, kind, context.status, headers)


def _single(accept: str) -> str:
    """The type that a script which names none answered with: the one asked for, when one was."""
    wanted = media.ranges(accept)
    first = wanted[0][0] if wanted else ""
    return first if first and "*" not in first else _UNKNOWN_TYPE
