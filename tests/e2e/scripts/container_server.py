"""A model server as an image brings it: SageMaker's contract and the API of many models, and whatever the body asks."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODELS = {}


def answer(words):
    if words[0] == "die":
        os._exit(int(words[1]))
    if words[0] == "leak":
        held = [bytearray(os.urandom(1) * (16 << 20)) for _ in range(1 << 20)]
        return len(held)
    if words[0] == "walls":
        return walls()
    return " ".join(words)[::-1]


def walls():
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    model = Path("/opt/ml/model")
    return {
        "uid": os.getuid(),
        "capabilities": status["CapEff"],
        "no_new_privs": status["NoNewPrivs"],
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "argv": sys.argv[1:],
        "environ": dict(os.environ),
        "files": sorted(path.name for path in model.iterdir()) if model.is_dir() else [],
        "writable": [place for place in ("/", "/opt/ml/model", "/tmp", "/run") if may_write(place)],
    }


def may_write(place):
    try:
        with open(os.path.join(place, "probe"), "w"):
            return True
    except OSError:
        return False


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/models":
            listed = [{"modelName": name, "modelUrl": url} for name, url in MODELS.items()]
            return self.say(200, {"models": listed})
        return self.say(200 if self.path == "/ping" else 404, {})

    def do_DELETE(self):
        return self.say(200 if MODELS.pop(self.path.split("/")[2], None) else 404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        parts = self.path.split("/")
        if self.path == "/invocations":
            return self.say(200, answer(body.split()))
        if self.path == "/models":
            told = json.loads(body)
            MODELS[told["model_name"]] = told["url"]
            return self.say(200, {})
        if parts[-1] == "invoke" and parts[2] in MODELS:
            return self.say(200, Path(MODELS[parts[2]], "weights.txt").read_text() + body)
        return self.say(404, {})

    def say(self, status, told):
        raw = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_args):
        pass


print("the server begins:", *sys.argv[1:])
if os.environ.get("FAIL"):
    print("the weights are missing", file=sys.stderr)
    sys.exit(int(os.environ["FAIL"]))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))), Server).serve_forever()
