"""Where records end: bytes of an object to batches of whole records, at C speed wherever no quote stands in the way.

A `Splitter` looks at a buffer from a record's start and says where the next batch ends. It never depends on how the
bytes arrived, only on the bytes and the limit, so a run that was interrupted cuts as one that was not.

    Line      records end with a line feed; in CSV one inside a quoted field does not count (RFC 4180)
    RecordIO  dmlc frames: magic, length with a part flag, payload padded to four bytes; a record's parts stay together
    TFRecord  length, checksum, payload, checksum

A single record of a binary kind is given without its frame, several with theirs, as the API's reference says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from clary.domain.transform_plan import SplitType

Buffer = bytes | bytearray

RECORD_IO_MAGIC = 0xCED7230A
_LENGTH_MASK = (1 << 29) - 1
# A field that opens with a quote, up to its closing quote (or to the end when that is not there), else a line feed.
_TOKEN = re.compile(rb'(?:(?<=[,\n])|\A)[ \t]*"(?:[^"]|"")*"?|\n')


class BadRecord(Exception):
    """What stands at `offset_bytes` of the buffer is no record that can be sent."""

    def __init__(self, why: str, offset_bytes: int) -> None:
        super().__init__(why)
        self.offset_bytes = offset_bytes


@dataclass(frozen=True, slots=True)
class Splitter:
    """`limit_bytes` of a batch, 0 for none; `single`: one record a batch; `quoted`: CSV's quotes count."""

    split: SplitType
    limit_bytes: int
    single: bool
    quoted: bool = False

    def cut(self, buffer: Buffer, start: int, final: bool) -> int | None:
        """The end of the batch that begins at `start`; None when more bytes are needed to tell.

        `final`: the object ends with the buffer. Raises: BadRecord.
        """
        if self.split is SplitType.LINE:
            return self._cut_lines(buffer, start, final)
        if self.split is SplitType.NONE:
            return self._cut_whole(buffer, start, final)
        return self._cut_frames(buffer, start, final)

    def payload(self, batch: bytes) -> bytes:
        """What is sent of a batch: without its last line end; one frame without its wrapping."""
        if self.split is SplitType.LINE:
            if batch.endswith(b"\r\n"):
                return batch[:-2]
            return batch[:-1] if batch.endswith(b"\n") else batch
        if not self.single or self.split is SplitType.NONE:
            return batch
        if self.split is SplitType.TF_RECORD:
            return batch[12:-4]
        return b"".join(batch[at + 8 : at + 8 + length] for at, length in _record_io_parts(batch))

    def records(self, batch: bytes) -> list[bytes]:
        """The batch's records one by one, each with its line end or frame."""
        if self.split is SplitType.LINE and not (self.quoted and b'"' in batch):
            return BytesIO(batch).readlines()
        one = Splitter(self.split, 0, True, self.quoted)
        found, start = [], 0
        while start < len(batch):
            end = one.cut(batch, start, True)
            assert end is not None
            found.append(batch[start:end])
            start = end
        return found

    # -- lines -----------------------------------------------------------------------------------

    def _cut_lines(self, buffer: Buffer, start: int, final: bool) -> int | None:
        end = self._first_line(buffer, start, final) if self.single else self._last_line(buffer, start, final)
        if end is None and not final and (not self.limit_bytes or len(buffer) - start <= self.limit_bytes):
            return None
        if end is None or (self.limit_bytes and end - start > self.limit_bytes + 1):
            raise BadRecord(f"a record is larger than {self.limit_bytes} bytes (MaxPayloadInMB)", start)
        return end

    def _first_line(self, buffer: Buffer, start: int, final: bool) -> int | None:
        end = buffer.find(b"\n", start)
        if self.quoted and buffer.find(b'"', start, end if end >= 0 else len(buffer)) >= 0:
            end = next((token.start() for token in _line_ends(buffer, start, len(buffer))), -1)
        if end >= 0:
            return end + 1
        fits = not self.limit_bytes or len(buffer) - start <= self.limit_bytes
        return len(buffer) if final and fits else None

    def _last_line(self, buffer: Buffer, start: int, final: bool) -> int | None:
        # One byte more than the limit: the last line's end is not sent.
        reach = start + self.limit_bytes + 1 if self.limit_bytes else len(buffer)
        if final and (len(buffer) < reach or not self.limit_bytes):
            return len(buffer)
        if len(buffer) < reach:
            return None
        if self.quoted and buffer.find(b'"', start, reach) >= 0:
            return max((token.end() for token in _line_ends(buffer, start, reach)), default=None)
        end = buffer.rfind(b"\n", start, reach)
        return end + 1 if end >= 0 else None

    # -- whole objects ---------------------------------------------------------------------------

    def _cut_whole(self, buffer: Buffer, start: int, final: bool) -> int | None:
        if self.limit_bytes and len(buffer) - start > self.limit_bytes:
            raise BadRecord(
                f"the object is larger than {self.limit_bytes} bytes (MaxPayloadInMB) and SplitType is None", start
            )
        return len(buffer) if final else None

    # -- frames ----------------------------------------------------------------------------------

    def _cut_frames(self, buffer: Buffer, start: int, final: bool) -> int | None:
        next_end = _record_io_end if self.split is SplitType.RECORD_IO else _tf_record_end
        at = start
        while True:
            end = next_end(buffer, at)
            known = end if end is not None else len(buffer) + 1
            if self.limit_bytes and known - start > self.limit_bytes:
                if at > start:
                    return at
                if end is not None or len(buffer) - start > self.limit_bytes:
                    raise BadRecord(f"a record is larger than {self.limit_bytes} bytes (MaxPayloadInMB)", start)
            if end is None:
                if not final:
                    return None
                if at == len(buffer):
                    return at
                raise BadRecord(f"the last {self.split} record is cut off", at)
            if self.single:
                return end
            at = end


def _line_ends(buffer: Buffer, start: int, end: int) -> Iterator[re.Match[bytes]]:
    """The line feeds between `start`, where a record begins, and `end` that end records."""
    # Before `start` stands a line feed or nothing: the look-behind sees it.
    return (token for token in _TOKEN.finditer(buffer, start, end) if token.group() == b"\n")


def _record_io_end(buffer: Buffer, at: int) -> int | None:
    """The end of the record (all its parts) at `at`; None when it is not whole."""
    while True:
        if len(buffer) < at + 8:
            return None
        magic, word = struct.unpack_from("<II", buffer, at)
        if magic != RECORD_IO_MAGIC:
            raise BadRecord("no RecordIO frame begins here", at)
        length, flag = word & _LENGTH_MASK, word >> 29
        at += 8 + (length + 3) // 4 * 4
        if len(buffer) < at:
            return None
        if flag in (0, 3):  # whole, or the last part
            return at


def _record_io_parts(batch: bytes) -> Iterator[tuple[int, int]]:
    """(offset, payload length) of every frame."""
    at = 0
    while at < len(batch):
        length = struct.unpack_from("<I", batch, at + 4)[0] & _LENGTH_MASK
        yield at, length
        at += 8 + (length + 3) // 4 * 4


def _tf_record_end(buffer: Buffer, at: int) -> int | None:
    if len(buffer) < at + 12:
        return None
    length: int = struct.unpack_from("<Q", buffer, at)[0]
    if length > 1 << 40:
        raise BadRecord("no TFRecord begins here", at)
    end = at + 12 + length + 4
    return end if len(buffer) >= end else None
