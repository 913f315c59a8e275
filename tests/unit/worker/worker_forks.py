"""A small zygote for the tests: imports the frameworks once, then forks a real worker for each order on stdin.

{"fork": {"spec": {...}, "socket": path, "status": path, "log": path}}  ->  {"pid": n}
{"wait": pid}                                                           ->  {"code": exit code}
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from clary_worker import loader, server
from clary_worker.spec import WorkerSpec


class FileStatus:
    """Writes what was told as one JSON file, put in place whole."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ready(self, detail: dict[str, Any]) -> None:
        self._tell({"ready": detail})

    def failed(self, reason: str, hint: str) -> None:
        self._tell({"failed": {"reason": reason, "hint": hint}})

    def _tell(self, value: dict[str, Any]) -> None:
        with open(self._path + ".new", "w") as file:
            json.dump(value, file)
        os.rename(self._path + ".new", self._path)


def fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 2)
        os.dup2(log, 1)
        os.close(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(order["socket"])
        listener.listen(1024)
        spec = WorkerSpec.from_dict(order["spec"])
        os.environ.update(spec.environ)
        code = server.serve(spec, listener, FileStatus(order["status"]))
    finally:
        os._exit(code)


def main() -> None:
    imported = [name for framework in sys.argv[1:] for name in loader.preload(framework)]
    gc.freeze()
    print(json.dumps({"imported": imported, "threads": len(os.listdir("/proc/self/task"))}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "fork" in order:
            print(json.dumps({"pid": fork(order["fork"])}), flush=True)
        else:
            _, status = os.waitpid(order["wait"], 0)
            print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
