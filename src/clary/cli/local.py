"""The running clary of a data folder: its settings, its sockets, its processes."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from clary.cli.output import fail
from clary.paths import Layout
from clary.settings import Settings, from_json

REQUEST_LIMIT_S = 10.0
OBJECTS_LIMIT_S = 30.0  # an external store that is lost is found to be so after 5 s to connect and 5 s to answer
LONG_LIMIT_S = 3600.0  # building an environment


class Local:
    """One data folder as the command line sees it."""

    def __init__(self, data: Path) -> None:
        self.layout = Layout(data)

    def supervisor_pid(self) -> int:
        """The pid that holds the folder's lock; 0 when none does."""
        try:
            descriptor = os.open(self.layout.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int(os.read(descriptor, 32) or b"0")
        finally:
            os.close(descriptor)
        return 0

    def settings(self) -> Settings:
        """The settings the running clary was started with."""
        if not self.supervisor_pid():
            fail(f"no clary runs on {self.layout.data}; start one with `clary up --data {self.layout.data}`")
        return from_json(self.layout.settings.read_text())

    def url(self) -> str:
        settings = self.settings()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{settings.port}"

    def ask(self, path: Path, request: dict[str, Any], limit_s: float = REQUEST_LIMIT_S) -> dict[str, Any]:
        """One JSON line to a socket of ours and back."""
        try:
            answer = self.exchange(path, request, limit_s)
        except (OSError, ValueError) as error:
            fail(f"{path.name} of {self.layout.data} does not answer ({error}); see {self.layout.logs}")
        if not answer.get("ok"):
            fail(f"{request['op']}: {answer.get('error')}")
        return answer

    def exchange(self, path: Path, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The same, as it comes. Raises: OSError, ValueError."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(limit_s)
            connection.connect(str(path))
            connection.sendall(json.dumps({"id": 1, **request}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer

    def object_store(self) -> dict[str, str]:
        """{"state", "detail"} of the object store in use; also when control, which could tell, is away."""
        try:
            answer = self.exchange(self.layout.control_socket, {"op": "objects"}, OBJECTS_LIMIT_S)
        except (OSError, ValueError) as error:
            return {"state": "note", "detail": f"control does not answer ({error})"}
        detail = answer["detail"] if answer.get("ok") else str(answer.get("error"))
        return {"state": answer.get("state", "missing"), "detail": detail}

    def supervisor(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self.ask(self.layout.supervisor_socket, {"op": operation, **fields})

    def proxy(self, operation: str, **fields: Any) -> dict[str, Any]:
        return self.ask(self.layout.proxy_socket, {"op": operation, **fields})

    def control(self, operation: str, **fields: Any) -> dict[str, Any]:
        self.settings()  # says so when nothing runs
        return self.ask(self.layout.control_socket, {"op": operation, **fields}, limit_s=LONG_LIMIT_S)

    def answers(self, settings: Settings) -> bool:
        """Whether the one port leads to a control plane that answers."""
        import http.client  # here, because it is asked when the processes are starting already

        connection = http.client.HTTPConnection(
            "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host, settings.port, timeout=2
        )
        try:
            connection.request("POST", "/", "{}", {"X-Amz-Target": "SageMaker.ListModels"})
            return connection.getresponse().status != 503
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def wait_until(condition: Any, limit_s: float, every_s: float = 0.02) -> bool:
    """Whether `condition()` became true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def port_owner(port: int) -> str:
    """ "pid 123 (nginx)" of the process that listens on a TCP port, as far as we may see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{words[9]}]")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) in inodes for link in (folder / "fd").iterdir()):
                return f"pid {folder.name} ({(folder / 'comm').read_text().strip()})"
        except OSError:
            continue  # gone, or not ours to look into
    return "another process"
