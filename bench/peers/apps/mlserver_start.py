"""Writes MLServer's settings files and becomes `mlserver start`. One process: parallel_workers 0."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folder, port = Path(os.environ["BENCH_SCRATCH"]), int(os.environ["BENCH_PORT"])
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
        "logging_settings": None,
    }
    model = {
        "name": "model",
        "implementation": "mlserver_app.Runtime",
        "parameters": {"extra": {"kind": os.environ["BENCH_MODEL"]}},
    }
    if os.environ["BENCH_BATCHING"] == "on":
        model |= {"max_batch_size": 64, "max_batch_time": 0.005}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.chdir(folder)
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])
