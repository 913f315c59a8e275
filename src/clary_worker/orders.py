"""Orders with descriptors, as the supervisor sends them to processes that fork for it."""

from __future__ import annotations

import array
import ctypes
import json
import socket
from typing import Any, Dict, List, Tuple

MAX_MESSAGE_BYTES = 1 << 18


def receive(channel: socket.socket, max_fds: int = 64) -> Tuple[Dict[str, Any], List[int]]:
    """One message and its descriptors; ({}, []) when the other side is gone."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = channel.recvmsg(
        MAX_MESSAGE_BYTES, socket.CMSG_LEN(max_fds * size), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    )
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % size])
    return (json.loads(data) if data else {}), list(descriptors)


def named(name: str) -> None:
    """What `ps -o comm` shows of this process (PR_SET_NAME: 15 characters)."""
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
