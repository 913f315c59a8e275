"""A client of the container engine's HTTP API (Docker Engine API 1.41 and later) on its unix socket.

Paths carry no version, so the daemon answers in its own. Every call has a deadline but those that wait for a container.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Dict, Iterable, Optional, Tuple
from urllib.parse import quote

LIMIT_S = 30.0
MAX_ANSWER_BYTES = 8 << 20


class EngineError(Exception):
    """The engine refused, or broke off (status 0). `away`: it was never reached, so nothing came of it."""

    def __init__(self, status: int, message: str, away: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.away = away


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: Optional[float]) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """One daemon. Safe to use from several threads: each call has a connection of its own."""

    def __init__(self, path: str) -> None:
        self._path = path

    def call(
        self, method: str, path: str, body: Optional[Dict[str, Any]] = None, limit_s: Optional[float] = LIMIT_S
    ) -> Any:
        """The answer, decoded; None for an empty one. Raises: EngineError."""
        raw = None if body is None else json.dumps(body).encode()
        connection, response = self.open(method, path, raw, limit_s)
        try:
            answer = response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(0, "%s %s: %s" % (method, path, error)) from error
        finally:
            connection.close()
        return json.loads(answer) if answer.strip() else None

    def open(
        self, method: str, path: str, body: "bytes | Iterable[bytes] | None", limit_s: Optional[float]
    ) -> Tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A connection and its answer, to be read and closed by the caller. Raises: EngineError."""
        connection = _Connection(self._path, limit_s)
        try:
            connection.connect()
        except OSError as error:
            raise EngineError(0, "the container engine at %s: %s" % (self._path, error), away=True) from error
        kind = "application/json" if body is None or isinstance(body, bytes) else "application/x-tar"
        chunked = body is not None and not isinstance(body, bytes)
        headers = {"Content-Type": kind, **({"Transfer-Encoding": "chunked"} if chunked else {})}
        try:
            connection.request(method, path, body, headers, encode_chunked=chunked)
            response = connection.getresponse()
            if response.status >= 400:
                raise EngineError(response.status, _message(response.read(1 << 16)))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise EngineError(0, "the container engine at %s: %s" % (self._path, error)) from error
        except EngineError:
            connection.close()
            raise
        return connection, response

    def image(self, name: str) -> Optional[Dict[str, Any]]:
        """What the daemon holds under that name; None for nothing. Raises: EngineError."""
        try:
            found: Dict[str, Any] = self.call("GET", "/images/%s/json" % quote(name, safe="/:@"))
        except EngineError as error:
            if error.status in (400, 404):
                return None
            raise
        return found

    def remove(self, container: str) -> bool:
        """Ends and removes a container; False when there is none of that name. Raises: EngineError."""
        try:
            self.call("DELETE", "/containers/%s?force=1&v=1" % container)
        except EngineError as error:
            if error.status == 404:
                return False
            if error.status != 409:  # its removal is under way already
                raise
        return True


def _message(raw: bytes) -> str:
    try:
        told = json.loads(raw)
        return str(told["message"])
    except (ValueError, KeyError, TypeError):
        return raw.decode(errors="replace")[:500]
