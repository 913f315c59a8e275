"""An answer is counted if, and only if, the kernel has taken its last byte for the client: also over a kill -9.

Neither order of two steps can be exact. Count first, and a kill in between leaves a count of an answer that nobody got;
send first, and it leaves an answer that nobody counted. So the kernel itself notes that it took the bytes: `sendmmsg`
writes into its argument how much it has sent, within the same system call, and a SIGKILL takes effect only when the
call returns. That argument lies in the mapped file of counters, beside the numbers as they will be once the answer has
left. The next process finds there what its predecessor had no time to count:

    note the numbers to be -> arm with the answer's length -> sendmmsg -> set the numbers -> disarm
                                        killed here: `sent` tells whether the numbers are to be set

What the kernel took reaches a client that waits for it, although the sender is dead. (A client that has sent more in
the meantime, i.e. one that pipelines, is told of the death by a reset and may lose what it has not read.)
"""

from __future__ import annotations

import ctypes
import mmap
import socket
from typing import TYPE_CHECKING

from clary.domain.usage import HEADER_BYTES, RECEIPT_AT

if TYPE_CHECKING:
    from clary.proxy.meter import Answered, Slot

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SENDMMSG = ctypes.PyDLL(None, use_errno=True).sendmmsg  # keeps the interpreter's lock: the call never waits
_SENDMMSG.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_SENDMMSG.restype = ctypes.c_int

# Where things lie from RECEIPT_AT on: three words, then pairs of words, then the message.
_EXPECTED, _SLOT, _COUNT, _PAIRS = range(4)
_MESSAGE_AT = RECEIPT_AT + 1024


class _Piece(ctypes.Structure):
    """struct iovec of readv(2)."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of sendmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("pieces", ctypes.c_void_p),
        ("pieces_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2); the kernel writes `sent`."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint32))


class Receipts:
    """The note in the header of the file of counters, and the sending that keeps it true. One thread."""

    def __init__(self, counters: mmap.mmap) -> None:
        self._words = memoryview(counters)[RECEIPT_AT:_MESSAGE_AT].cast("Q")
        self._message = _Message.from_buffer(counters, _MESSAGE_AT)
        self._address = ctypes.addressof(self._message)
        self._piece = _Piece()
        self._aimed = False
        assert _MESSAGE_AT + ctypes.sizeof(_Message) <= HEADER_BYTES

    def left(self) -> tuple[int, list[tuple[int, int]]] | None:
        """(slot number, numbers to be set) of an answer that left uncounted; None when there is none."""
        words = self._words
        if not words[_EXPECTED] or self._message.sent != words[_EXPECTED]:
            return None
        flat = words[_PAIRS : _PAIRS + 2 * words[_COUNT]].tolist()
        return words[_SLOT], list(zip(flat[::2], flat[1::2], strict=True))

    def clear(self) -> None:
        self._words[_EXPECTED] = 0

    def send(self, descriptor: int, data: bytes, slot: Slot, answered: Answered) -> int:
        """Sends what the kernel takes of `data` at once: how many bytes. The answer is counted when it took them all.

        Raises: OSError when the client has gone.
        """
        words, message, piece = self._words, self._message, self._piece
        after = slot.after(answered)
        words[_SLOT] = slot.number
        words[_COUNT] = len(after)
        at = _PAIRS
        for index, value in after:
            words[at] = index
            words[at + 1] = value
            at += 2
        piece.base = data
        piece.length = len(data)
        if not self._aimed:  # not before `left` was asked: an address of this process means nothing to the next
            self._aimed = True
            header = _Header(None, 0, ctypes.addressof(piece), 1, None, 0, 0)
            ctypes.memmove(self._address, ctypes.addressof(header), ctypes.sizeof(header))
        message.sent = 0
        words[_EXPECTED] = len(data)
        done = _SENDMMSG(descriptor, self._address, 1, _FLAGS)
        sent: int = message.sent
        if done == 1 and sent == len(data):
            slot.take(after)
        words[_EXPECTED] = 0
        piece.base = None
        if done == 1:
            return sent
        number = ctypes.get_errno()
        if number in (socket.EAGAIN, socket.EWOULDBLOCK):
            return 0
        raise OSError(number, "sendmmsg")
