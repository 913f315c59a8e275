"""Where models come from and what they are: prefixes, channels, packages of their own, other frameworks, servers."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest
from conftest import ROLE, Clary, Trained, instance
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer


def floats(answer: bytes) -> list[float]:
    return [float(word) for word in answer.decode().replace(",", "\n").split()]


def put(clary: Clary, files: dict[str, bytes]) -> str:
    """The files as objects under a prefix of their own; its URI, ending with a slash."""
    s3 = clary.client("s3")
    s3.create_bucket(Bucket="models")
    prefix = uuid.uuid4().hex
    for name, content in files.items():
        s3.put_object(Bucket="models", Key=f"{prefix}/{name}", Body=content)
    return f"s3://models/{prefix}/"


def create(clary: Clary, **container: Any) -> str:
    name = f"m-{uuid.uuid4().hex[:10]}"
    clary.client("sagemaker").create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    return name


def source(uri: str) -> dict[str, Any]:
    return {"S3DataSource": {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}}


def test_a_model_may_lie_under_a_prefix_uncompressed(clary: Clary, forest: Trained) -> None:
    model = create(clary, Image="clary/sklearn", ModelDataSource=source(put(clary, forest.files)))
    name = clary.endpoint(clary.config(instance(model)))
    assert floats(clary.invoke(name, forest.csv())) == forest.estimator.predict(forest.rows[:5]).tolist()
    clary.delete(name)


def test_additional_sources_are_channels_beside_the_model(clary: Clary) -> None:
    if not clary.isolation()["private_root"]:
        pytest.skip("this host gives workers no root folder of their own, so /opt/ml is not theirs")
    script = """
import glob, os
FOLDER = "/opt/ml/additional-model-data-sources/words"
def model_fn(model_dir):
    return {
        os.path.relpath(path, FOLDER): open(path).read()
        for path in glob.glob(FOLDER + "/**/*.txt", recursive=True)
    }
def transform_fn(model, body, content_type, accept):
    return model[body.decode()], "text/plain"
"""
    words = put(clary, {"a.txt": b"alpha", "deep/b.txt": b"beta"})
    uri = clary.upload({"code/inference.py": script})
    channel = {"ChannelName": "words", **source(words)}
    model = create(clary, Image="clary/sklearn", ModelDataUrl=uri, AdditionalModelDataSources=[channel])
    name = clary.endpoint(clary.config(instance(model)))
    assert clary.invoke(name, "a.txt", "text/plain") == b"alpha"
    assert clary.invoke(name, "deep/b.txt", "text/plain") == b"beta"
    clary.delete(name)


def test_a_requirements_file_gets_an_environment_of_its_own(clary: Clary) -> None:
    script = """
import humanize
def model_fn(model_dir):
    return humanize.intcomma
def transform_fn(model, body, content_type, accept):
    return model(int(body)), "text/plain"
"""
    files = {"code/inference.py": script, "code/requirements.txt": "humanize==4.12.3\n"}
    name = clary.endpoint(
        clary.config(instance(create(clary, Image="clary/sklearn", ModelDataUrl=clary.upload(files))))
    )
    assert clary.invoke(name, "1234567", "text/plain") == b"1,234,567"
    clary.delete(name)


def test_a_package_that_does_not_exist_fails_with_its_name(clary: Clary) -> None:
    files = {
        "code/inference.py": "def model_fn(d):\n    return 1\n",
        "code/requirements.txt": "humanize==0.0.0.1\n",
    }
    model = create(clary, Image="clary/sklearn", ModelDataUrl=clary.upload(files))
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    state = clary.settled(name)
    assert state["EndpointStatus"] == "Failed"
    assert "humanize==0.0.0.1" in state["FailureReason"]
    clary.delete(name)


def test_lightgbm_needs_no_code(clary: Clary) -> None:
    rows, labels = load_breast_cancer(return_X_y=True)
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1, "seed": 1}, lightgbm.Dataset(rows, labels), 20
    )
    uri = clary.upload({"model.txt": booster.model_to_string()})
    name = clary.endpoint(clary.config(instance(create(clary, Image="clary/lightgbm", ModelDataUrl=uri))))
    body = "\n".join(",".join(repr(float(x)) for x in row) for row in rows[:50])
    np.testing.assert_allclose(floats(clary.invoke(name, body)), booster.predict(rows[:50]), rtol=1e-12)
    clary.delete(name)


def test_onnx_needs_no_code(clary: Clary, forest: Trained) -> None:
    graph = to_onnx(forest.estimator, forest.rows[:1].astype(np.float32), options={"zipmap": False})
    content = graph.SerializeToString()
    uri = clary.upload({"model.onnx": content})
    name = clary.endpoint(clary.config(instance(create(clary, Image="clary/onnxruntime", ModelDataUrl=uri))))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = forest.rows[:40].astype(np.float32)
    labels = session.run(None, {session.get_inputs()[0].name: rows})[0]
    body = io.BytesIO()
    np.save(body, rows)
    answer = clary.invoke(name, body.getvalue(), "application/x-npy", Accept="application/json")
    assert json.loads(answer) == labels.tolist()  # a classifier's label, as scikit-learn's predict
    assert alone_and_silent(clary, "onnxruntime")
    clary.delete(name)


def alone_and_silent(clary: Clary, framework: str) -> bool:
    """Whether the framework's zygotes hold one thread each and were told to report to nobody: onnxruntime does by
    default, by threads that come some seconds after the import and keep a zygote from forking."""
    tasks = [Path(f"/proc/{one['pid']}") for one in clary.supervisor(op="list")["zygotes"]]
    found = [one for one in tasks if framework.encode() in (one / "cmdline").read_bytes()]
    assert found
    threads = [len(list((one / "task").iterdir())) for one in found]
    silent = [b"ORT_DISABLE_TELEMETRY=1" in (one / "environ").read_bytes().split(b"\0") for one in found]
    return threads == [1] * len(found) and all(silent)


SERVER = """#!/usr/bin/env python3
import http.server, json, os, sys

WORD = open("/opt/ml/model/word.txt").read()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(("%s %s %s" % (WORD, sys.argv[1], body.decode())).encode())
    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def test_two_servers_of_ones_own_both_insist_on_port_8080(clary: Clary) -> None:
    if not clary.isolation()["private_network"]:
        pytest.skip("this host gives workers no network of their own, so one port 8080 is all there is")
    names = []
    for word in ("left", "right"):
        uri = clary.upload({"serve": SERVER, "word.txt": word})
        names.append(clary.endpoint(clary.config(instance(create(clary, Image="clary/command", ModelDataUrl=uri)))))
    assert clary.invoke(names[0], "x", "text/plain") == b"left serve x"
    assert clary.invoke(names[1], "y", "text/plain") == b"right serve y"
    for name in names:
        clary.delete(name)


def test_a_server_that_dies_at_once_fails_with_its_last_words(clary: Clary) -> None:
    uri = clary.upload({"serve": "#!/bin/sh\necho no weights here >&2\nexit 3\n"})
    model = create(clary, Image="clary/command", ModelDataUrl=uri)
    name = clary.endpoint(clary.config(instance(model)), wait=False)
    state = clary.settled(name)
    assert state["EndpointStatus"] == "Failed"
    assert "no weights here" in state["FailureReason"]
    clary.delete(name)
