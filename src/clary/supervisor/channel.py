"""The supervisor's unix socket: requests and events as JSON lines, for the proxy, control and the command line.

    -> {"id": 7, "op": "ensure", "fleet": F, "n": 1}     <- {"id": 7, "ok": true, ...}
    -> {"id": 8, "op": "subscribe"}                      <- {"id": 8, "ok": true, "workers": [...]}
                                                         <- {"event": "worker", "worker": W, "state": "ready", ...}

Every request may be repeated without harm. A client that does not read is cut off at a bound, never waited for.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 1 << 20
MAX_UNSENT_BYTES = 16 << 20

Handler = Callable[["Peer", dict[str, Any]], None]


class Peer:
    """One connected client."""

    def __init__(self, connection: socket.socket, channel: Channel) -> None:
        self.socket = connection
        self.subscribed = False
        self._channel = channel
        self._in = b""
        self._out = bytearray()

    def send(self, message: dict[str, Any]) -> None:
        self._out += json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(self._out) > MAX_UNSENT_BYTES:
            self._channel.drop(self)
            return
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._channel.drop(self)
            return
        self._channel.watch(self, writing=bool(self._out))

    def read(self) -> list[dict[str, Any]]:
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self._in += data
        *lines, self._in = self._in.split(b"\n")
        if not data or len(self._in) > MAX_LINE_BYTES:
            self._channel.drop(self)
        return [json.loads(line) for line in lines if line]


class Channel:
    """Listens, reads lines, hands requests to `handle`; `broadcast` reaches every subscriber."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, handle: Handler) -> None:
        self._selector = selector
        self._handle = handle
        self._peers: set[Peer] = set()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(old)
        self._listener.listen(64)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, _mask: int) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        peer = Peer(connection, self)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, lambda mask: self._ready(peer, mask))

    def _ready(self, peer: Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            peer.flush()
        if mask & selectors.EVENT_READ and peer in self._peers:
            for request in peer.read():
                self._handle(peer, request)

    def watch(self, peer: Peer, writing: bool) -> None:
        if peer in self._peers:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            key = self._selector.get_key(peer.socket)
            if key.events != events:
                self._selector.modify(peer.socket, events, key.data)

    def drop(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.socket)
            peer.socket.close()

    def broadcast(self, message: dict[str, Any]) -> None:
        for peer in list(self._peers):
            if peer.subscribed:
                peer.send(message)

    def close(self) -> None:
        for peer in list(self._peers):
            self.drop(peer)
        self._selector.unregister(self._listener)
        self._listener.close()
