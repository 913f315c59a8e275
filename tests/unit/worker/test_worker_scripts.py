"""Scripts written for AWS's containers run unchanged: signatures, bodies, defaults, answers, errors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xgboost
from worker_client import Worker
from worker_models import ROWS, csv_of

FOUR = """
import json

def model_fn(model_dir):
    return {"dir": model_dir}

def input_fn(body, content_type):
    return {"kind": type(body).__name__, "content_type": content_type}

def predict_fn(data, model):
    return dict(data, model=sorted(model))

def output_fn(prediction, accept):
    return json.dumps(dict(prediction, accept=accept)), "application/json"
"""


@pytest.mark.parametrize(
    ("content_type", "accept", "kind", "told"),
    [
        ("text/csv", "", "str", "application/json"),
        ("application/json", "text/csv", "str", "text/csv"),
        ("application/x-npy", "*/*", "bytes", "application/json"),
        ("text/plain", "image/png", "bytes", "image/png"),
    ],
)
def test_the_four_functions_get_what_the_toolkit_gives_them(
    start: Callable[..., Worker],
    script: Callable[..., Path],
    content_type: str,
    accept: str,
    kind: str,
    told: str,
) -> None:
    worker = start(script(FOUR), "sklearn")
    answer = worker.invoke(b"body", content_type, accept)
    assert answer.json == {"kind": kind, "content_type": content_type, "model": ["dir"], "accept": told}
    assert answer.kind == "application/json"


CONTEXT = """
def model_fn(model_dir, context):
    return context.system_properties["model_dir"]

def input_fn(body, content_type, context):
    return context.get_request_header(0, "X-Amzn-SageMaker-Custom-Attributes")

def predict_fn(data, model, context):
    context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", data + "\\r\\nSet-Cookie: a=b")
    context.set_response_header(0, "X-Other", "kept inside")
    return data

def output_fn(prediction, accept, context):
    properties = context.request_processor[0].get_request_properties()
    assert properties["X-Amzn-Sagemaker-Custom-Attributes"] == prediction
    context.set_response_status(code=202)
    return prediction
"""


def test_functions_with_a_context_read_headers_and_set_the_answers(
    start: Callable[..., Worker], script: Callable[..., Path]
) -> None:
    worker = start(script(CONTEXT))
    answer = worker.invoke(b"x", "text/plain", "text/plain", **{"X-Amzn-SageMaker-Custom-Attributes": "trace=7"})
    assert (answer.status, answer.text, answer.kind) == (202, "trace=7", "text/plain")
    assert answer.headers["x-amzn-sagemaker-custom-attributes"] == "trace=7??Set-Cookie: a=b"
    assert "x-other" not in answer.headers
    assert "set-cookie" not in answer.headers


RETURNS = """
import numpy as np

class Response:
    def __init__(self, response, mimetype):
        self.response, self.mimetype = response, mimetype

VALUES = {
    "bytes": b"raw",
    "str": "text",
    "bytearray": bytearray(b"array"),
    "tuple": ("a,b", "text/csv"),
    "response": Response("object", "text/x-mine"),
    "list": [1, 2],
    "dict": {"a": [1]},
    "array": np.array([1.5, 2.5]),
    "none": None,
}

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    if body == b"status":
        error = RuntimeError("too hot")
        error.status_code = 503
        raise error
    return VALUES[body.decode()]
"""


def test_every_kind_of_return_value_becomes_a_body(start: Callable[..., Worker], script: Callable[..., Path]) -> None:
    worker = start(script(RETURNS))
    found = {}
    for name in ("bytes", "str", "bytearray", "tuple", "response", "list", "dict", "array", "none", "status"):
        answer = worker.invoke(name.encode(), "text/plain", "application/json")
        found[name] = (answer.status, answer.text, answer.kind.partition(";")[0])
    assert found == {
        "bytes": (200, "raw", "application/json"),
        "str": (200, "text", "application/json"),
        "bytearray": (200, "array", "application/json"),
        "tuple": (200, "a,b", "text/csv"),
        "response": (200, "object", "text/x-mine"),
        "list": (200, "[1, 2]", "application/json"),
        "dict": (200, '{"a": [1]}', "application/json"),
        "array": (200, "[1.5, 2.5]", "application/json"),
        "none": (
            500,
            "TypeError: the script answered None; return a body, or (body, content type)\n",
            "text/plain",
        ),
        "status": (503, "RuntimeError: too hot\n", "text/plain"),
    }


SKLEARN_DEFAULTS = """
import os, joblib
from sagemaker_containers.beta.framework import encoders, worker

def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))

def predict_fn(data, model):
    print("dtype", data.dtype, data.shape)
    return model.predict(data)

def output_fn(prediction, accept):
    return worker.Response(encoders.encode(prediction, accept), accept, mimetype=accept)
"""


def test_a_scikit_learn_script_gets_the_containers_arrays_and_packages(
    start: Callable[..., Worker], script: Callable[..., Path], models: dict[str, Path], estimators: dict
) -> None:
    folder = script(SKLEARN_DEFAULTS, "serve_it.py")
    (folder / "model.joblib").write_bytes((models["forest"] / "model.joblib").read_bytes())
    worker = start(folder, "sklearn", environ={"SAGEMAKER_PROGRAM": "serve_it.py"})
    expected = estimators["forest"].predict(ROWS.astype(np.float32))
    answer = worker.invoke(csv_of(ROWS), accept="text/csv")
    assert [int(line) for line in answer.text.splitlines()] == expected.tolist()
    assert worker.invoke(json.dumps(ROWS.tolist()), "application/json").json == expected.tolist()
    assert "dtype float32 (64, 4)" in worker.log


XGBOOST_SCRIPT = """
import os, pickle
from sagemaker_xgboost_container import encoder as xgb_encoders

def input_fn(request_body, request_content_type):
    if request_content_type == "text/libsvm":
        return xgb_encoders.libsvm_to_dmatrix(request_body)
    raise ValueError("Content type {} is not supported.".format(request_content_type))

def predict_fn(input_data, model):
    prediction = model.predict(input_data)
    contributions = model.predict(input_data, pred_contribs=True, validate_features=False)
    return prediction.reshape(-1, 1).tolist() and contributions[:, -1]
"""


def test_an_xgboost_script_gets_the_containers_encoder_and_the_model_without_a_model_fn(
    start: Callable[..., Worker], script: Callable[..., Path], models: dict[str, Path], trees: dict
) -> None:
    folder = script(XGBOOST_SCRIPT)
    (folder / "xgboost-model").write_bytes((models["binary"] / "model.ubj").read_bytes())
    worker = start(folder, "xgboost")
    answer = worker.invoke(b"0 0:5.1 1:3.5 2:1.4 3:0.2", "text/libsvm", "text/csv")
    row = xgboost.DMatrix(np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32))
    expected = trees["binary"].predict(row, pred_contribs=True)[:, -1]
    assert [float(line) for line in answer.text.splitlines()] == expected.tolist()
    assert worker.invoke(b"1,2,3,4").text == "ValueError: Content type text/csv is not supported.\n"


def test_a_generator_of_predict_fn_is_streamed(start: Callable[..., Worker], script: Callable[..., Path]) -> None:
    text = (
        "def model_fn(d):\n    return 3\ndef input_fn(b, t):\n    return b\n"
        "def predict_fn(d, m):\n    for i in range(m):\n        yield 'token%d ' % i\n"
    )
    answer = start(script(text)).invoke(b"x", "text/plain", "text/plain")
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "token0 token1 token2 "


def test_a_script_imports_its_neighbours_and_comes_from_the_code_folder(
    start: Callable[..., Worker], script: Callable[..., Path], sockets: Callable[[], Path]
) -> None:
    code = sockets()
    (code / "neighbour.py").write_text("WORD = 'from the neighbour'\n")
    (code / "entry.py").write_text(
        "from neighbour import WORD\ndef model_fn(d):\n    return None\n"
        "def transform_fn(m, b, c, a):\n    return WORD\n"
    )
    environ = {"SAGEMAKER_PROGRAM": "entry.py", "SAGEMAKER_SUBMIT_DIRECTORY": "s3://bucket/sourcedir.tar.gz"}
    worker = start(script(FOUR), code_dir=str(code), environ=environ)
    assert worker.invoke(b"x").text == "from the neighbour"


MODEL_BUILDER = """
import ctypes, os, shutil
from pathlib import Path

def model_fn(model_dir):
    shared_libs_path = Path(model_dir + "/shared_libs")
    if shared_libs_path.exists():
        shutil.copytree(shared_libs_path, "/lib", dirs_exist_ok=True)
    for name in sorted(os.listdir(shared_libs_path)):
        if not name.startswith("broken"):
            ctypes.CDLL(name)  # as the loader finds it: by its name alone
    copied = shutil.copytree(model_dir + "/code", os.environ["COPY_TO"])
    return model_dir, [name for name in os.listdir(copied) if name.endswith(".py")]

def transform_fn(model, body, content_type, accept):
    mapped = {line.split()[-1] for line in open("/proc/self/maps") if "shared_libs" in line}
    return "\\n".join([*sorted(map(os.path.basename, mapped)), *model[1]])
"""


def test_shared_libraries_that_model_builder_copies_into_lib_are_loaded_from_where_they_lie(
    start: Callable[..., Worker], script: Callable[..., Path], tmp_path: Path
) -> None:
    model_dir = script(MODEL_BUILDER)
    libraries = Path(np.__file__).parents[1] / "numpy.libs"  # of which one needs the others
    shutil.copytree(libraries, model_dir / "shared_libs")
    (model_dir / "shared_libs" / "broken.so").write_text("no library")
    before = os.listdir("/lib")
    worker = start(model_dir, environ={"COPY_TO": str(tmp_path / "copy")})
    assert worker.invoke(b"").text.split() == [*sorted(os.listdir(libraries)), "inference.py"]
    assert "broken.so was not loaded: " in worker.log
    assert os.listdir("/lib") == before


def test_an_empty_folder_of_shared_libraries_is_copied_to_nowhere(
    start: Callable[..., Worker], script: Callable[..., Path], tmp_path: Path
) -> None:
    model_dir = script(MODEL_BUILDER)
    (model_dir / "shared_libs").mkdir()
    changed_ns = os.stat("/lib").st_mtime_ns
    worker = start(model_dir, environ={"COPY_TO": str(tmp_path / "copy")})
    assert worker.invoke(b"").text == "inference.py"
    assert os.stat("/lib").st_mtime_ns == changed_ns


@pytest.mark.parametrize(
    ("text", "environ", "reason", "hint"),
    [
        (
            "def model_fn(d):\n    return None\n",
            {"SAGEMAKER_PROGRAM": "absent.py"},
            "SAGEMAKER_PROGRAM names absent.py, which is not in ",
            "correct SAGEMAKER_PROGRAM",
        ),
        (
            "def model_fn(d):\n    return 1\ndef transform_fn(m, b, c, a):\n    pass\ndef input_fn(b, c):\n    pass\n",
            {},
            "inference.py defines transform_fn together with input_fn",
            "keep transform_fn alone",
        ),
        (
            "def model_fn(d):\n    return 1\ndef input_fn(b):\n    pass\n",
            {},
            "input_fn takes 1 arguments, but 2 (or 3 with the context) are given",
            "signature",
        ),
        ("import no_such_module\n", {}, "ModuleNotFoundError: No module named 'no_such_module'", "traceback"),
        ("def model_fn(d):\n    raise OSError('disk')\n", {}, "OSError: disk", "traceback"),
        ("def model_fn(d):\n    return None\n", {}, "has no method predict", "add code/inference.py"),
    ],
)
def test_a_script_that_cannot_be_served_says_why(
    start: Callable[..., Worker],
    script: Callable[..., Path],
    text: str,
    environ: dict[str, str],
    reason: str,
    hint: str,
) -> None:
    worker = start(script(text), environ=environ)
    assert reason in worker.failure["reason"]
    assert "\n" not in worker.failure["reason"]
    assert hint in worker.failure["hint"]
    assert worker.code not in (0, None)
    assert "Traceback" in worker.log
