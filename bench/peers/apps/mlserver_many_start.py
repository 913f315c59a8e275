"""Becomes `mlserver start` over a repository of many models, none of them loaded. One process: parallel_workers 0."""

import json
import os
import sys
from pathlib import Path

import many_models

if __name__ == "__main__":
    folder, port = Path(os.environ["BENCH_SCRATCH"]), int(os.environ["BENCH_PORT"])
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "load_models_at_startup": False,
        "debug": False,
        "logging_settings": None,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, place in many_models.write(folder / "models"):
        parameters = {"uri": "./model.joblib"}
        model = {"name": name, "implementation": "mlserver_many.Runtime", "parameters": parameters}
        (place / "model-settings.json").write_text(json.dumps(model))
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])
