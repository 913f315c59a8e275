"""Becomes multi-model-server over many models, none of them loaded: its jar, started as its own command starts it, but
in the foreground and without the file in which that command notes the one server of a machine."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import many_models

if __name__ == "__main__":
    folder, port = Path(os.environ["BENCH_SCRATCH"]), os.environ["BENCH_PORT"]
    handler = Path(__file__).with_name("mms_handler.py")
    for _, model in many_models.write(folder / "models"):
        shutil.copy(handler, model)
    settings = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{port}",
        "model_store": str(folder / "models"),
        "default_service_handler": "mms_handler.py:handle",
        "default_workers_per_model": "1",
        "decode_input_request": "false",
    }
    (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    spec = find_spec("mms")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    java = shutil.which("java")
    if java is None:
        sys.exit("it needs a Java runtime, and there is no java on PATH")
    os.chdir(folder)
    options = [f"-Dmodel_server_home={package.parent}", f"-Djava.io.tmpdir={folder}", "-cp", f"{package}/frontend/*"]
    program = ["com.amazonaws.ml.mms.ModelServer", "--python", sys.executable, "-f", "config.properties"]
    os.execv(java, [java, *options, *program])
