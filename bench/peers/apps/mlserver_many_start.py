"""Becomes `mlserver start` over a repository of many models, none of them loaded."""

import json
import os
from pathlib import Path

import many_models
import mlserver_settings

if __name__ == "__main__":
    folder = Path(os.environ["BENCH_SCRATCH"])
    for name, place in many_models.write(folder / "models"):
        parameters = {"uri": "./model.joblib"}
        model = {"name": name, "implementation": "mlserver_many.Runtime", "parameters": parameters}
        (place / "model-settings.json").write_text(json.dumps(model))
    mlserver_settings.start(folder, load_models_at_startup=False)
