"""Triton by way of pytriton: its Python backend, HTTP in JSON; batching is Triton's dynamic batcher."""

import os
from pathlib import Path

import models
import numpy
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

KIND = os.environ["BENCH_MODEL"]
BATCHING = os.environ["BENCH_BATCHING"] == "on"
WIDTH = 3 if KIND == "echo" else 30
predict = models.load(KIND)


@batch
def infer(inputs):
    answer = numpy.asarray(predict(inputs.tolist()), numpy.float32)
    return {"predictions": answer.reshape(len(inputs), -1)}


if __name__ == "__main__":
    port = int(os.environ["BENCH_PORT"])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, log_verbose=0
    )
    batching = {"max_batch_size": 128, "batching": True}
    batching["batcher"] = DynamicBatcher(max_queue_delay_microseconds=5000 if BATCHING else 0)
    if not BATCHING:
        batching["max_batch_size"] = 128 if KIND == "xgboost" else 1
    with Triton(config=config, workspace=Path(os.environ["BENCH_SCRATCH"]) / "workspace") as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=[Tensor(name="inputs", dtype=numpy.float32, shape=(WIDTH,))],
            outputs=[Tensor(name="predictions", dtype=numpy.float32, shape=(WIDTH if KIND == "echo" else 1,))],
            config=ModelConfig(**batching),
            strict=False,
        )
        triton.serve()
