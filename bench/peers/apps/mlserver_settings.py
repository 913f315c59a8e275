"""What both ways of starting MLServer share: its settings file, one process, and the start itself."""

import json
import os
import sys
from pathlib import Path


def start(folder: Path, **more: object) -> None:
    """Becomes `mlserver start` in `folder`, with this folder's runtimes. One process: parallel_workers 0."""
    port = int(os.environ["BENCH_PORT"])
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
        "logging_settings": None,
        **more,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])
