"""Connections of a unix socket on uvloop: all that wait are taken in one turn of the loop.

libuv takes one connection a turn. A turn of ours may hold a prediction of a tenth of a second, so that the last of 64
callers who come at once would be heard after 64 predictions, while those who came first are answered again and again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any, Callable, Set

_MOST_A_TURN = 1024
_FULL_PAUSE_S = 0.1  # asyncio's own pause is a second
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Serves a listening socket, which does not block, until it is closed; the socket is closed with it."""

    def __init__(self, loop: Any, listener: socket.socket, made: Callable[[], asyncio.Protocol]) -> None:
        self._loop = loop
        self._socket = listener
        self._made = made
        self._opening: Set[Any] = set()  # the loop itself holds tasks weakly
        self._resume()

    def close(self) -> None:
        """Takes no more. Those that were taken stay."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._take)

    def _take(self) -> None:
        for _ in range(_MOST_A_TURN):
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                print("clary: no connection can be taken: %s" % error, file=sys.stderr)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_FULL_PAUSE_S, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._made, connection)
        except OSError:  # it has gone again
            connection.close()
