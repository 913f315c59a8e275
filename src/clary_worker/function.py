"""Runs one invocation of a function: `python -I function.py SOCKET CODE HANDLER PORT TIMEOUT_S`.

The socket is the only way out of the jail. Each connection says in one line what it is for: "event" is answered with
the event and the facts of the invocation, "result" takes the outcome, "relay" is joined to clary's own port. Where
PORT is not 0 the same port is opened inside the jail and relayed, so that boto3 finds clary under its usual address.

The time limit is a kernel timer that ends the process without asking it; the supervisor's own limit lies behind it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, List, Tuple

CHUNK_BYTES = 1 << 16
MAX_CONNECTIONS = 64


class Context:
    """What a handler gets beside the event (developer guide, "Using the Lambda context object")."""

    def __init__(self, facts: Dict[str, Any], deadline_mono_s: float) -> None:
        self.aws_request_id = facts["request_id"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.invoked_function_arn = facts["function_arn"]
        self.identity = None
        self.client_context = None
        self._deadline_mono_s = deadline_mono_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline_mono_s - time.monotonic()) * 1000))


def connect(path: str, purpose: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    connection.sendall(purpose + b"\n")
    return connection


def fetch(path: str) -> Tuple[Dict[str, Any], bytes]:
    """(facts, event): a line of JSON and the rest."""
    with connect(path, b"event") as connection:
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            facts = json.loads(answer.readline())
            return facts, answer.read()


def tell(path: str, kind: str, payload: bytes) -> None:
    """Hands the outcome over; `kind` is "" for a success, else how it failed. Returns when it was taken."""
    with connect(path, b"result") as connection:
        connection.sendall(json.dumps({"error": kind}).encode() + b"\n" + payload)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def relay(path: str, port: int) -> None:
    """Opens `port` on the loopback of this namespace and joins every connection to the socket."""
    listener = socket.create_server(("127.0.0.1", port), backlog=MAX_CONNECTIONS)
    room = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            room.acquire()
            threading.Thread(target=join, args=(client,), daemon=True).start()

    def join(client: socket.socket) -> None:
        try:
            with client, connect(path, b"relay") as server:
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join()
        except OSError:
            pass  # either side has left: closing both is all there is to do
        finally:
            room.release()

    threading.Thread(target=serve, daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while True:
            data = source.recv(CHUNK_BYTES)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction ends by it, too


def load(code: str, handler: str) -> Callable[[Any, Any], Any]:
    """The handler "module.function", the module perhaps in folders. Raises: whatever the module raises."""
    sys.path.insert(0, code)
    module, dot, name = handler.rpartition(".")
    if not dot:
        raise ValueError("Bad handler '%s': not enough values to unpack (expected 2, got 1)" % handler)
    found = importlib.import_module(module.replace("/", "."))
    if not hasattr(found, name):
        raise AttributeError("Handler '%s' missing on module '%s'" % (name, module))
    made: Callable[[Any, Any], Any] = getattr(found, name)
    return made


class MarshalError(Exception):
    """A handler returned what is no JSON."""


def marshalled(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise MarshalError("Unable to marshal response: %s" % error) from error


def failure(error: BaseException, request_id: str, kind: str = "") -> bytes:
    """The document by which an exception is told: without our own frames."""
    kind = kind or {"MarshalError": "Runtime.MarshalError", "SystemExit": "Runtime.ExitError"}.get(
        type(error).__name__, type(error).__name__
    )
    message = str(error)
    trace: List[str] = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != __file__ and not frame.filename.startswith("<frozen"):
            place = (frame.filename, frame.lineno or 0, frame.name, frame.line)
            trace.append('  File "%s", line %d, in %s\n    %s\n' % place)
    body = {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": trace}
    return json.dumps(body).encode()


def complain(payload: bytes) -> None:
    """The failure as a log line, as the managed runtime prints it."""
    told = json.loads(payload)
    sys.stdout.write("[ERROR] %s: %s\n%s" % (told["errorType"], told["errorMessage"], "".join(told["stackTrace"])))


def main() -> int:
    path, code, handler, port, timeout_s = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
    if port:
        relay(path, port)
    facts, event = fetch(path)
    request_id = facts["request_id"]
    try:
        function = load(code, handler)
    except ImportError as error:
        module = handler.rpartition(".")[0]
        missing = ImportError("Unable to import module '%s': %s" % (module, error))
        payload = failure(missing.with_traceback(error.__traceback__), request_id, "Runtime.ImportModuleError")
        complain(payload)
        tell(path, "Unhandled", payload)
        return 1
    except BaseException as error:  # the user's module may raise anything, SystemExit too
        payload = failure(error, request_id)
        complain(payload)
        tell(path, "Unhandled", payload)
        return 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    print("START RequestId: %s Version: $LATEST" % request_id, flush=True)
    began = time.monotonic()
    kind = ""
    try:
        payload = marshalled(function(json.loads(event or b"null"), Context(facts, began + timeout_s)))
    except BaseException as error:  # the user's code may raise anything, and return what is no JSON
        kind, payload = "Unhandled", _failed(error, request_id)
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.flush()
    print("END RequestId: %s" % request_id, flush=True)
    tell(path, kind, payload)
    return 0


def _failed(error: BaseException, request_id: str) -> bytes:
    payload = failure(error, request_id)
    complain(payload)
    return payload


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # threads that a handler has left behind are not waited for
