"""Reading stored bytes again, to hash them or to prove that they are what was acknowledged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clary.domain.errors import Corrupt
from clary.store.checksums import Checksum, ChecksumAlgorithm, ChecksumType, encode, running
from clary.store.object_info import PartInfo
from clary.store.object_reader import ObjectReader


@dataclass(frozen=True, slots=True)
class Digests:
    """What a read of the bytes gave."""

    md5_hex: str
    checksum: Checksum | None


def digests(reader: ObjectReader, algorithm: ChecksumAlgorithm | None) -> Digests:
    """The MD5, and the checksum where one is asked for, of what the reader covers."""
    md5 = hashlib.md5(usedforsecurity=False)
    state = None if algorithm is None else running(algorithm)
    for chunk in reader.chunks():
        md5.update(chunk)
        if state is not None:
            state.update(chunk)
    checksum = None if state is None or algorithm is None else Checksum(algorithm, encode(state.digest()))
    return Digests(md5.hexdigest(), checksum)


def verify(reader: ObjectReader, parts: Sequence[PartInfo]) -> None:
    """Compares each part (or the whole) with its ETag, and a full-object checksum. Raises: Corrupt."""
    info = reader.info
    name = f"{info.bucket}/{info.key}"
    if reader.size_bytes != info.size_bytes:
        raise Corrupt("Object", name, detail=f"{reader.size_bytes} of {info.size_bytes} bytes are there")
    full = info.checksum if info.checksum is not None and info.checksum.type is ChecksumType.FULL_OBJECT else None
    state = None if full is None else running(full.algorithm)
    wanted = [(part.size_bytes, part.etag) for part in parts] or [(info.size_bytes, info.etag)]
    chunks = reader.chunks()
    rest = b""
    for number, (size_bytes, etag) in enumerate(wanted, 1):
        md5 = hashlib.md5(usedforsecurity=False)
        for piece, after in _take(chunks, rest, size_bytes):
            md5.update(piece)
            if state is not None:
                state.update(piece)
            rest = after
        if md5.hexdigest() != etag:
            raise Corrupt("Object", name, detail=f"part {number} of {len(wanted)} does not have its MD5 {etag}")
    if full is not None and state is not None and encode(state.digest()) != full.value:
        raise Corrupt("Object", name, detail=f"its {full.algorithm} is not {full.value}")


def _take(chunks: Iterator[bytes], rest: bytes, size_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """`size_bytes` bytes as (piece, what was read beyond it), first from `rest`."""
    data = rest
    while size_bytes:
        if not data:
            data = next(chunks)
        piece, data = data[:size_bytes], data[size_bytes:]
        size_bytes -= len(piece)
        yield piece, data
