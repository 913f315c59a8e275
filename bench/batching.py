"""What micro-batching gives: the same server and model with batching on and off, 64 connections, rounds interleaved."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import asdict

import artifacts
import machine
import stand
from artifacts import Artifact
from load import Order, Outcome, measure
from report import Table, spread, verdict
from scale import Scale

CONNECTIONS = 64
SETTINGS = ("off", "auto")  # of CLARY_BATCHING
MLP_FACTOR = 3.0
USELESS_FACTOR = 0.95  # where batching cannot help, it may cost so much of the rate
WIDTH = 2048


def table(scale: Scale) -> Table:
    """One row a model and setting."""
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    models = [mlp(), transformer(), artifacts.sklearn_model("logistic")]
    with stand.running("--no-auth") as one:
        orders: dict[tuple[str, str], Order] = {}
        for model in models:
            for batching in SETTINGS:
                name = one.deploy(model, SAGEMAKER_MODEL_SERVER_WORKERS="1", CLARY_BATCHING=batching)
                request = one.request(name, model, signed=False)
                one.ask_ok(request)
                orders[model.title, batching] = Order(
                    f"tcp:127.0.0.1:{one.port}", [request], CONNECTIONS, scale.seconds, core=machine.cores()[1]
                )
        stand.pin_servers([one.pid])
        for number in range(scale.rounds):
            machine.say(f"batching: round {number + 1} of {scale.rounds}")
            for key, order in orders.items():
                outcome = measure(order)
                if outcome.errors:
                    raise RuntimeError(f"{key}: {outcome.errors} failed requests, the first: {outcome.first_error}")
                found[key].append(outcome)
    rows, notes = [], []
    for model, target in zip(models, (MLP_FACTOR, None, USELESS_FACTOR), strict=True):
        off, on = (found[model.title, batching] for batching in SETTINGS)
        for batching, outcomes in (("off", off), ("on", on)):
            rows.append(
                (
                    model.title,
                    batching,
                    spread(o.requests_per_s for o in outcomes),
                    spread((o.p50_ms for o in outcomes), 1),
                    spread((o.p99_ms for o in outcomes), 1),
                )
            )
        notes.append(f"{model.title}: {_told(on, off, target)}.")
    return Table(
        name="batching",
        title="Micro-batching: the same server with it and without",
        headers=("model", "batching", "requests/s", "p50 ms", "p99 ms"),
        rows=rows,
        notes=[
            *notes,
            f"{CONNECTIONS} connections, one row a request (npy; the logistic regression JSON), one thread, proxy and "
            "worker share one core. Each of the closed loop's connections has one request under way, so the rates "
            "compare at equal p99 wherever the p99 with batching is no later.",
        ],
        raw={f"{title} {batching}": [asdict(o) for o in outcomes] for (title, batching), outcomes in found.items()},
    )


def _told(on: list[Outcome], off: list[Outcome], target: float | None) -> str:
    """The ratio of the rates, against its target where it has one, and what became of the p99."""
    ratio = statistics.median(a.requests_per_s / b.requests_per_s for a, b in zip(on, off, strict=True))
    told = f"{ratio:.2f} times the rate" if target is None else verdict(ratio, target, False, "times the rate")
    later_ms = statistics.median(a.p99_ms - b.p99_ms for a, b in zip(on, off, strict=True))
    return f"{told}; p99 {later_ms:+.1f} ms, {'no later' if later_ms <= 0 else 'LATER'} than without"


def mlp() -> Artifact:
    """Three layers of 2,048 in ONNX."""
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = numpy.random.default_rng(7)
    nodes, weights, last = [], [], "x"
    for layer in range(3):
        matrix = (random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(numpy.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]))
        last = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    body = random.standard_normal((1, WIDTH)).astype(numpy.float32)
    return _onnx("ONNX MLP of three 2,048-wide layers", model.SerializeToString(), npy(body))


def transformer() -> Artifact:
    """Six encoder layers of width 256, 4 heads, 32 tokens, in ONNX."""
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tokens, width, heads = 32, 256, 4
    random = numpy.random.default_rng(8)
    nodes: list[onnx.NodeProto] = []
    weights = [
        numpy_helper.from_array(numpy.array([0, tokens, heads, width // heads], numpy.int64), "split"),
        numpy_helper.from_array(numpy.array([0, tokens, width], numpy.int64), "merge"),
        numpy_helper.from_array(numpy.array((width / heads) ** -0.5, numpy.float32), "scale"),
        numpy_helper.from_array(numpy.ones(width, numpy.float32), "one"),
        numpy_helper.from_array(numpy.zeros(width, numpy.float32), "nought"),
    ]

    def times(source: str, name: str, wide: int, out: int) -> str:
        matrix = (random.standard_normal((wide, out)) / wide**0.5).astype(numpy.float32)
        weights.append(numpy_helper.from_array(matrix, f"{name}_w"))
        nodes.append(helper.make_node("MatMul", [source, f"{name}_w"], [name]))
        return name

    def add(kind: str, inputs: list[str], name: str, **options: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], **options))
        return name

    last = "x"
    for layer in range(6):
        p = f"l{layer}"
        parts = {}
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            flat = times(last, f"{p}{part}", width, width)
            parts[part] = add("Transpose", [add("Reshape", [flat, "split"], f"{flat}s")], f"{flat}t", perm=order)
        scores = add("Mul", [add("MatMul", [parts["q"], parts["k"]], f"{p}s"), "scale"], f"{p}sc")
        mixed = add("MatMul", [add("Softmax", [scores], f"{p}p", axis=-1), parts["v"]], f"{p}m")
        merged = add("Reshape", [add("Transpose", [mixed], f"{p}mt", perm=[0, 2, 1, 3]), "merge"], f"{p}mm")
        first = add("Add", [last, times(merged, f"{p}o", width, width)], f"{p}a")
        normal = add("LayerNormalization", [first, "one", "nought"], f"{p}n")
        hidden = add("Relu", [times(normal, f"{p}f", width, 4 * width)], f"{p}r")
        second = add("Add", [normal, times(hidden, f"{p}g", 4 * width, width)], f"{p}b")
        last = add("LayerNormalization", [second, "one", "nought"], f"{p}y")
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", tokens, width])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", tokens, width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    body = random.standard_normal((1, tokens, width)).astype(numpy.float32)
    return _onnx("ONNX transformer of 6 layers at 32 tokens", model.SerializeToString(), npy(body))


def npy(array: object) -> bytes:
    import io

    import numpy

    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def _onnx(title: str, model: bytes, body: bytes) -> Artifact:
    import onnxruntime

    image = f"clary/onnxruntime:{onnxruntime.__version__}"
    return Artifact("onnx", title, image, {"model.onnx": model}, body, "application/x-npy")
