"""LitServe: one API, one worker, on the CPU; batching is its max_batch_size with a window."""

import os

import litserve
import models


class Api(litserve.LitAPI):
    """Its documented four steps."""

    def setup(self, device):
        self.model = models.load(os.environ["BENCH_MODEL"])

    def decode_request(self, request):
        return request["inputs"]

    def batch(self, inputs):
        return [row for rows in inputs for row in rows]

    def unbatch(self, output):
        return [[one] for one in output]

    def predict(self, rows):
        return self.model(rows)

    def encode_response(self, output):
        return {"predictions": output}


if __name__ == "__main__":
    batching = {"max_batch_size": 64, "batch_timeout": 0.005} if os.environ["BENCH_BATCHING"] == "on" else {}
    server = litserve.LitServer(Api(**batching), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), log_level="warning", generate_client_file=False)
