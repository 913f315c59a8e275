"""Event stream frames (application/vnd.amazon.eventstream).

A frame is: total length and header length (4 bytes each, big endian), CRC-32 of these eight bytes, the headers, the
payload, CRC-32 of everything before it. A header is a length-prefixed name, a type byte and a value.
The data path writes one frame for each chunk of a streamed prediction, so the usual headers are laid out once.
Source: Smithy 2.0 specification, "Amazon Event Stream"; API reference of InvokeEndpointWithResponseStream.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zlib import crc32

from clary.wire.errors import malformed

HeaderValue = bool | int | bytes | str | datetime | uuid.UUID

PRELUDE_BYTES: Final = 12
OVERHEAD_BYTES: Final = 16
MAX_HEADERS_BYTES: Final = 128 * 1024  # Smithy: headers at most 128 KiB
MAX_FRAME_BYTES: Final = 24 * 1024 * 1024  # Smithy: payload at most 24 MiB; botocore refuses larger ones

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")
_I8: Final = struct.Struct("!b")
_I16: Final = struct.Struct("!h")
_I32: Final = struct.Struct("!i")
_I64: Final = struct.Struct("!q")
_TWO_U32: Final = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame."""

    headers: dict[str, HeaderValue]
    payload: bytes


def encode_headers(headers: Mapping[str, HeaderValue]) -> bytes:
    """Raises: ValueError for an integer beyond 64 bits or text beyond 32,767 bytes."""
    out = bytearray()
    for name, value in headers.items():
        raw = name.encode()
        out.append(len(raw))
        out += raw
        match value:
            case bool():
                out.append(0 if value else 1)
            case int():
                out += b"\x04" + _I32.pack(value) if -(2**31) <= value < 2**31 else b"\x05" + _I64.pack(value)
            case bytes():
                out += b"\x06" + _U16.pack(len(value)) + value
            case str():
                text = value.encode()
                out += b"\x07" + _U16.pack(len(text)) + text
            case datetime():
                out += b"\x08" + _I64.pack((value - _EPOCH) // timedelta(milliseconds=1))
            case uuid.UUID():
                out += b"\x09" + value.bytes
    if len(out) > MAX_HEADERS_BYTES:
        raise ValueError(f"event headers of {len(out)} bytes; at most {MAX_HEADERS_BYTES} fit")
    return bytes(out)


def frame(raw_headers: bytes, payload: bytes | bytearray | memoryview) -> bytes:
    """One frame around headers that are already encoded."""
    prelude = _TWO_U32.pack(OVERHEAD_BYTES + len(raw_headers) + len(payload), len(raw_headers))
    head = prelude + _U32.pack(crc32(prelude)) + raw_headers
    return b"".join((head, payload, _U32.pack(crc32(payload, crc32(head)))))


def encode_frame(headers: Mapping[str, HeaderValue], payload: bytes = b"") -> bytes:
    return frame(encode_headers(headers), payload)


@lru_cache(maxsize=256)
def _usual_headers(message_type: str, kind: str, content_type: str) -> bytes:
    return encode_headers({":message-type": message_type, f":{message_type}-type": kind, ":content-type": content_type})


def event_frame(
    event_type: str, payload: bytes | bytearray | memoryview, content_type: str = "application/octet-stream"
) -> bytes:
    """An event, e.g. event_frame("PayloadPart", chunk)."""
    return frame(_usual_headers("event", event_type, content_type), payload)


def exception_frame(exception_type: str, payload: bytes, content_type: str = "application/json") -> bytes:
    """A modelled exception in mid-stream, e.g. exception_frame("ModelStreamError", b'{"Message": ...}')."""
    return frame(_usual_headers("exception", exception_type, content_type), payload)


def error_frame(code: str, message: str) -> bytes:
    """An error that the model does not name."""
    return encode_frame({":message-type": "error", ":error-code": code, ":error-message": message})


class FrameReader:
    """Cuts a byte stream into frames; for tests and for reading a client's events."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises: WireError for a bad checksum or length."""
        self._pending += data
        frames: list[Frame] = []
        while len(self._pending) >= PRELUDE_BYTES:
            total, headers_length = _TWO_U32.unpack_from(self._pending)
            if _U32.unpack_from(self._pending, 8)[0] != crc32(bytes(self._pending[:8])):
                raise malformed("The prelude of an event has a wrong checksum.")
            if total > MAX_FRAME_BYTES + OVERHEAD_BYTES or headers_length > min(
                MAX_HEADERS_BYTES, total - OVERHEAD_BYTES
            ):
                raise malformed(f"An event says it has {total} bytes with {headers_length} bytes of headers.")
            if len(self._pending) < total:
                break
            raw = bytes(self._pending[:total])
            del self._pending[:total]
            if _U32.unpack_from(raw, total - 4)[0] != crc32(raw[: total - 4]):
                raise malformed("An event has a wrong checksum.")
            split = PRELUDE_BYTES + headers_length
            frames.append(Frame(_decode_headers(raw[PRELUDE_BYTES:split]), raw[split : total - 4]))
        return frames

    @property
    def pending_bytes(self) -> int:
        """What was fed and belongs to a frame that is not complete."""
        return len(self._pending)


def _decode_headers(raw: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    position = 0
    try:
        while position < len(raw):
            length = raw[position]
            name = raw[position + 1 : position + 1 + length].decode()
            kind = raw[position + 1 + length]
            headers[name], position = _decode_value(kind, raw, position + 2 + length)
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise malformed(f"The headers of an event cannot be read: {error}") from error
    return headers


def _decode_value(kind: int, raw: bytes, at: int) -> tuple[HeaderValue, int]:
    match kind:
        case 0 | 1:
            return kind == 0, at
        case 2 | 3 | 4 | 5:
            form = {2: _I8, 3: _I16, 4: _I32, 5: _I64}[kind]
            return form.unpack_from(raw, at)[0], at + form.size
        case 6 | 7:
            end = at + 2 + _U16.unpack_from(raw, at)[0]
            if end > len(raw):
                raise malformed("A header of an event is cut off.")
            value = raw[at + 2 : end]
            return (value if kind == 6 else value.decode()), end
        case 8:
            return _EPOCH + timedelta(milliseconds=_I64.unpack_from(raw, at)[0]), at + 8
        case 9:
            if at + 16 > len(raw):
                raise malformed("A header of an event is cut off.")
            return uuid.UUID(bytes=raw[at : at + 16]), at + 16
    raise malformed(f"An event has a header of the unknown type {kind}.")
