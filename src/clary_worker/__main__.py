"""A worker started plainly: `python -m clary_worker ORDER_FD LISTENER_FD STATUS_FD LIFE_FD`.

The jail was entered by the program that executed this one (`jail.main`), so what is left is to serve.
Used where a zygote cannot be: an environment read at import, an unsafe framework, a child that hung after its fork.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from . import lifeline, process
from .spec import WorkerSpec


def main() -> int:
    order, listener, status, life = (int(word) for word in sys.argv[1:5])
    with os.fdopen(order, "rb") as file:
        message = json.loads(file.read())
    lifeline.hold(life)
    teller = process.Status(status)
    teller.loading()
    return process.serve(
        WorkerSpec.from_dict(message["worker"]), socket.socket(fileno=listener), teller, message.get("environ", {})
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
