"""Ray Serve: one replica, one HTTP proxy; batching is @serve.batch."""

import os
import time

import models
import ray
from ray import serve
from starlette.requests import Request

BATCHING = os.environ["BENCH_BATCHING"] == "on"


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.5})
class Server:
    """One model."""

    def __init__(self) -> None:
        self.model = models.load(os.environ["BENCH_MODEL"])

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def together(self, many: list[list[list[float]]]) -> list[list]:
        return [[one] for one in self.model([row for rows in many for row in rows])]

    async def __call__(self, request: Request) -> dict[str, list]:
        rows = (await request.json())["inputs"]
        return {"predictions": await self.together(rows) if BATCHING else self.model(rows)}


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _temp_dir=os.environ["BENCH_SCRATCH"],
        runtime_env={"env_vars": {**{k: v for k, v in os.environ.items() if "BENCH_" in k}, "PYTHONPATH": here}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Server.bind(), route_prefix="/predict")
    while True:
        time.sleep(3600)
