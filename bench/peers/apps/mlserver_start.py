"""Becomes `mlserver start` with one model."""

import json
import os
from pathlib import Path

import mlserver_settings

if __name__ == "__main__":
    folder = Path(os.environ["BENCH_SCRATCH"])
    model = {
        "name": "model",
        "implementation": "mlserver_app.Runtime",
        "parameters": {"extra": {"kind": os.environ["BENCH_MODEL"]}},
    }
    if os.environ["BENCH_BATCHING"] == "on":
        model |= {"max_batch_size": 64, "max_batch_time": 0.005}
    (folder / "model-settings.json").write_text(json.dumps(model))
    mlserver_settings.start(folder)
