"""KServe's Python model server, V1 protocol. Its batching lives in an agent beside it, which is not started here."""

import os

import models
from kserve import Model, ModelServer


class Served(Model):
    """One model."""

    def __init__(self) -> None:
        super().__init__("model")
        self.call = models.load(os.environ["BENCH_MODEL"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": self.call(payload["instances"])}


if __name__ == "__main__":
    port = int(os.environ["BENCH_PORT"])
    ModelServer(http_port=port, enable_grpc=False, workers=1, access_log_format=None).start([Served()])
