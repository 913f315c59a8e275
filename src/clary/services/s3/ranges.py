"""Which bytes of an object a request wants."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clary.services.s3.errors import invalid_argument
from clary.wire.errors import WireError

_RANGE = re.compile(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")
_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`bytes=first-last`, `bytes=first-` (last None) or `bytes=-suffix` (first None, last the suffix)."""

    first: int | None
    last: int | None

    def within(self, size_bytes: int) -> tuple[int, int]:
        """[start, end) in an object of that size. Raises: WireError when there is no such byte."""
        if self.first is None:
            start, end = max(size_bytes - (self.last or 0), 0), size_bytes
        else:
            start, end = self.first, size_bytes if self.last is None else min(self.last + 1, size_bytes)
        if start >= end:
            raise unsatisfiable(self, size_bytes)
        return start, end

    def __str__(self) -> str:
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"


def unsatisfiable(wanted: ByteRange, size_bytes: int) -> WireError:
    return WireError(
        "InvalidRange",
        416,
        "The requested range is not satisfiable",
        {"RangeRequested": str(wanted), "ActualObjectSize": size_bytes},
        headers={"Content-Range": f"bytes */{size_bytes}"},
    )


def parse_range(text: str | None) -> ByteRange | None:
    """None for no range, and for one that cannot be read or has several parts: S3 then sends the whole object."""
    match = _RANGE.fullmatch(text or "")
    if match is None or not (match[1] or match[2]):
        return None
    first, last = (int(one) if one else None for one in match.groups())
    return None if first is not None and last is not None and last < first else ByteRange(first, last)


def parse_copy_range(text: str | None) -> tuple[int, int | None]:
    """[start, end) of UploadPartCopy; end None for all of it. Raises: WireError."""
    if text is None:
        return 0, None
    match = _COPY_RANGE.fullmatch(text)
    if match is None or int(match[2]) < int(match[1]):
        why = (
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy"
        )
        raise invalid_argument("x-amz-copy-source-range", text, why)
    return int(match[1]), int(match[2]) + 1


def content_range(start: int, end: int, size_bytes: int) -> str:
    return f"bytes {start}-{end - 1}/{size_bytes}"
