"""BentoML: one service, one worker; batching is its adaptive batching (`batchable`)."""

import os

import bentoml
import models

BATCHING = os.environ["BENCH_BATCHING"] == "on"


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 512})
class Server:
    """`predict` gets rows and gives one answer a row."""

    def __init__(self) -> None:
        self.model = models.load(os.environ["BENCH_MODEL"])

    @bentoml.api(batchable=BATCHING, max_batch_size=64, max_latency_ms=1000)
    def predict(self, inputs: list[list[float]]) -> list:
        return self.model(inputs)
