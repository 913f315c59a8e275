"""Becomes `bentoml serve` with the service of bentoml_app."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    here = str(Path(__file__).parent)
    os.environ["BENTOML_HOME"] = os.environ["BENCH_SCRATCH"]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["PYTHONPATH"] = here
    program = str(Path(sys.executable).with_name("bentoml"))
    port = os.environ["BENCH_PORT"]
    arguments = ["serve", "bentoml_app:Server", "--working-dir", here, "--host", "127.0.0.1", "--port", port]
    os.execv(program, [program, *arguments])
