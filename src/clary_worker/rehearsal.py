"""What a worker does before it has a model: loads a toy of its framework, serves it two requests, and forgets it.

The first load and prediction of a process pay for modules that import themselves late, for tables that libraries build
on their first call, and for every page of the zygote's memory that is written to for the first time. All of that is the
same for every model of a framework, so a process that waits for its order does it while nobody waits for the process.

The toy goes the whole way of a request, from the bytes on a socket to the bytes of the answer. It leaves nothing behind
but warm code: no model, no loop, no thread. Random states are set anew when the order comes (see `process`).
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import pickle
import shutil
import socket
import sys
import warnings
import zipfile
from typing import Any, Callable, Dict, Sequence, Tuple

from . import loader, scripts, server
from .batching import Batcher
from .connection import Connection, Service
from .handler import PredictorHandler
from .spec import WorkerSpec

ANSWER_LIMIT_S = 5.0
# y = x + x for x: float[n, 2], as ONNX (IR version 7, opset 13).
_ONNX = "CAcSADo5Cg4KAXgKAXgSAXkiA0FkZBIBZ1oRCgF4EgwKCggBEgYKAAoCCAJiEQoBeRIMCgoIARIGCgAKAggCQgQKABAN"
_TORCHSCRIPT = """class Toy(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  def forward(self: __torch__.Toy, x: Tensor) -> Tensor:
    image = torch.conv2d(torch.ones([1, 1, 8, 8]), torch.ones([1, 1, 3, 3]))
    return torch.add(torch.linear(x, torch.ones([2, 2])), torch.mean(torch.relu(image)))
"""
_BODIES = (("text/csv", b"0.5,1.5\n1,2\n"), ("application/json", b'{"instances": [[0.5, 1.5], [1.0, 2.0]]}'))
_TEXTS = (("application/json", b'{"inputs": "a b"}'), ("application/json", b'{"inputs": ["a", "b b"]}'))
_ROWS, _LABELS = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0]


def run(framework: str) -> None:
    """Rehearses, where there is a toy for it. A failure is told on stderr and costs nothing but its use."""
    toy = _TOYS.get(framework)
    if toy is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _serve(toy(), framework)
    except Exception as error:
        sys.stderr.write("the rehearsal of %s failed: %s: %s\n" % (framework, type(error).__name__, error))
    gc.collect()
    gc.freeze()


def _serve(model: Any, framework: str) -> None:
    """Serves a model object, or a folder of one for frameworks whose artifact is a folder."""
    folder = model if isinstance(model, str) else ""
    spec = WorkerSpec(worker_id="", endpoint_name="", variant_name="", framework=framework, model_dir=folder)
    bodies = _TEXTS if folder else _BODIES
    if folder:
        handler = scripts.load(None, spec)
        shutil.rmtree(folder, ignore_errors=True)  # not every worker has a /tmp of its own
    else:
        handler = PredictorHandler(loader.adopt(model, "rehearsal", 1), spec)
        handler.warm()
    loop = server.new_loop()
    try:
        batcher = Batcher(handler, loop.call_soon, spec.max_batch_size, True)
        service = Service(batcher, spec.max_payload_bytes, b"{}", loop)
        loop.run_until_complete(_ask(loop, service, bodies))
    finally:
        loop.close()


async def _ask(loop: Any, service: Service, bodies: Sequence[Tuple[str, bytes]]) -> None:
    import asyncio

    ours, theirs = socket.socketpair()
    with contextlib.closing(ours):
        ours.setblocking(False)
        theirs.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(lambda: Connection(service), theirs)
        try:
            for kind, body in bodies:
                head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
                await loop.sock_sendall(ours, (head % (kind, len(body))).encode() + body)
                answer = await asyncio.wait_for(loop.sock_recv(ours, 1 << 16), ANSWER_LIMIT_S)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(answer[:200].decode("latin-1"))
        finally:
            transport.close()
    await asyncio.sleep(0)


def _sklearn() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(2, max_depth=2, random_state=0).fit(_ROWS, _LABELS)
    return pickle.loads(pickle.dumps(model))


def _xgboost() -> Any:
    import numpy
    import xgboost

    rows = xgboost.DMatrix(numpy.array(_ROWS, "float32"), numpy.array(_LABELS, "float32"), nthread=1)
    trained = xgboost.train({"nthread": 1, "max_depth": 1, "objective": "binary:logistic"}, rows, 1)
    booster = xgboost.Booster()
    booster.load_model(trained.save_raw("ubj"))
    return booster


def _lightgbm() -> Any:
    import lightgbm
    import numpy

    options = {"num_threads": 1, "verbose": -1, "min_data_in_leaf": 1, "min_data_in_bin": 1, "num_leaves": 2}
    trained = lightgbm.train(options, lightgbm.Dataset(numpy.array(_ROWS), numpy.array(_LABELS)), 1)
    return lightgbm.Booster(model_str=trained.model_to_string())


def _onnxruntime() -> Any:
    from . import onnx_model

    return onnx_model.open_session(base64.b64decode(_ONNX), 1)


def _pytorch() -> Any:
    """A TorchScript archive written by hand: to make one, torch would import its compiler, which takes seconds."""
    import torch

    torch.set_num_threads(1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toy/data.pkl", b"\x80\x02c__torch__\nToy\nq\x00)\x81}X\x08\x00\x00\x00trainingq\x01\x89sb.")
        archive.writestr("toy/code/__torch__.py", _TORCHSCRIPT)
        archive.writestr("toy/constants.pkl", b"\x80\x02).")
        archive.writestr("toy/version", b"3\n")
    file.seek(0)
    return torch.jit.load(file, map_location="cpu").eval()


def _huggingface() -> str:
    """A folder with a classifier of two words, as save_pretrained leaves it."""
    import tempfile

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tempfile.mkdtemp(prefix="rehearsal-")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(**sizes, intermediate_size=4, max_position_embeddings=8)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


_TOYS: Dict[str, Callable[[], Any]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "onnxruntime": _onnxruntime,
    "pytorch": _pytorch,
    "triton": _onnxruntime,
    "triton-pytorch": _pytorch,
    "huggingface": _huggingface,
    "huggingface-tgi": _huggingface,
}
