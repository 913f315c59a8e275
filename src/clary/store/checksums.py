"""The checksums that S3 clients send and expect back: CRC32, CRC32C, CRC64NVME, SHA1, SHA256.

Python ships CRC32 (zlib) and the SHA family (hashlib). The two others come from `awscrt` or `google_crc32c` when one of
them is importable, and else from code of our own. A byte a step in Python is far too slow for models of gigabytes, so
long data is cut into lanes of 1,024 bytes which all advance by one byte together: the lanes' registers lie byte by byte
in long integers ("planes"), a table look-up of all lanes at once is `bytes.translate`, an exclusive or of all lanes is
one on integers, and at the end the lanes are joined as in `combine`. Measured on one core: 66 MiB/s for CRC32C and 44
for CRC64NVME, against 9 for the byte walk.

A whole object's CRC follows from its parts' CRCs without reading a byte again: appending n bytes multiplies the CRC by
x^(8n) modulo the polynomial, so `combine(a, b, len_b)` is one such product and an exclusive or (zlib's crc32_combine).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import importlib.util
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Protocol, cast

from clary.domain.errors import Invalid

LANE_BYTES = 1024
Buffer = bytes | bytearray | memoryview
CrcFunction = Callable[[bytes, int], int]


class ChecksumAlgorithm(StrEnum):
    """Algorithm names as the S3 API writes them."""

    CRC32 = "CRC32"
    CRC32C = "CRC32C"
    CRC64NVME = "CRC64NVME"
    SHA1 = "SHA1"
    SHA256 = "SHA256"


class ChecksumType(StrEnum):
    """Over all bytes, or over the parts' checksums."""

    FULL_OBJECT = "FULL_OBJECT"
    COMPOSITE = "COMPOSITE"


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum as S3 prints it: base64 of the big-endian digest, with `-N` behind it when composite."""

    algorithm: ChecksumAlgorithm
    value: str
    type: ChecksumType = ChecksumType.FULL_OBJECT


@dataclass(frozen=True, slots=True)
class CrcShape:
    """A reflected CRC with all-ones start and final exclusive or. `polynomial` is reflected as well."""

    bits: int
    polynomial: int


# Polynomials: ISO-HDLC (zlib), RFC 3720 appendix B.4 (Castagnoli), NVM Express NVM command set 1.0 section 5.2.1.3.4.
CRC_SHAPES = {
    ChecksumAlgorithm.CRC32: CrcShape(32, 0xEDB88320),
    ChecksumAlgorithm.CRC32C: CrcShape(32, 0x82F63B78),
    ChecksumAlgorithm.CRC64NVME: CrcShape(64, 0x9A6C9329AC4BC9B5),
}
DIGEST_BYTES = {
    ChecksumAlgorithm.CRC32: 4,
    ChecksumAlgorithm.CRC32C: 4,
    ChecksumAlgorithm.CRC64NVME: 8,
    ChecksumAlgorithm.SHA1: 20,
    ChecksumAlgorithm.SHA256: 32,
}


class Running(Protocol):
    """A checksum that is being fed."""

    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class _RunningCrc:
    def __init__(self, function: CrcFunction, digest_bytes: int) -> None:
        self._function = function
        self._digest_bytes = digest_bytes
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data if isinstance(data, bytes) else bytes(data), self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._digest_bytes, "big")


def running(algorithm: ChecksumAlgorithm) -> Running:
    """A fresh checksum of that kind."""
    match algorithm:
        case ChecksumAlgorithm.SHA1:
            return cast(Running, hashlib.sha1(usedforsecurity=False))
        case ChecksumAlgorithm.SHA256:
            return cast(Running, hashlib.sha256())
        case _:
            return _RunningCrc(crc_function(algorithm), DIGEST_BYTES[algorithm])


def encode(digest: bytes) -> str:
    """The base64 text that S3 prints."""
    return base64.b64encode(digest).decode("ascii")


def decode(algorithm: ChecksumAlgorithm, value: str) -> bytes:
    """The digest behind S3's text, without a composite's `-N`. Raises: Invalid when it is not one."""
    try:
        digest = base64.b64decode(value.partition("-")[0], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != DIGEST_BYTES[algorithm]:
        raise Invalid(
            f"checksum {value!r}",
            f"{algorithm} is base64 of {DIGEST_BYTES[algorithm]} bytes",
            rule="InvalidRequest",
        )
    return digest


def composite(algorithm: ChecksumAlgorithm, part_values: Sequence[str]) -> Checksum:
    """The checksum of the parts' checksums, `-N` behind it."""
    outer = running(algorithm)
    for value in part_values:
        outer.update(decode(algorithm, value))
    return Checksum(algorithm, f"{encode(outer.digest())}-{len(part_values)}", ChecksumType.COMPOSITE)


def full_object(algorithm: ChecksumAlgorithm, parts: Sequence[tuple[str, int]]) -> Checksum:
    """The CRC of the whole from each part's (value, size in bytes), in order.

    Raises: Invalid for SHA1 and SHA256, which cannot be combined.
    """
    if algorithm not in CRC_SHAPES:
        raise Invalid(f"checksum type FULL_OBJECT with {algorithm}", "only CRCs can be combined", rule="InvalidRequest")
    whole = 0
    for value, size_bytes in parts:
        whole = combine(algorithm, whole, int.from_bytes(decode(algorithm, value), "big"), size_bytes)
    return Checksum(algorithm, encode(whole.to_bytes(DIGEST_BYTES[algorithm], "big")))


def combine(algorithm: ChecksumAlgorithm, first: int, second: int, second_size_bytes: int) -> int:
    """The CRC of A+B from the CRCs of A and B and B's size."""
    shape = CRC_SHAPES[algorithm]
    return _multiply(shape, _shift_factor(shape, second_size_bytes), first) ^ second


def crc_function(algorithm: ChecksumAlgorithm) -> CrcFunction:
    """`f(data, previous) -> crc`, the fastest at hand: zlib, awscrt, google_crc32c, our own tables."""
    if algorithm is ChecksumAlgorithm.CRC32:
        return zlib.crc32
    return _native_crc(algorithm) or table_crc(algorithm)


@cache
def _native_crc(algorithm: ChecksumAlgorithm) -> CrcFunction | None:
    """A compiled CRC32C or CRC64NVME where one is installed."""
    if importlib.util.find_spec("awscrt") is not None:
        module = importlib.import_module("awscrt.checksums")
        return cast("CrcFunction | None", getattr(module, algorithm.lower(), None))
    if algorithm is ChecksumAlgorithm.CRC32C and importlib.util.find_spec("google_crc32c") is not None:
        extend: Callable[[int, bytes], int] = importlib.import_module("google_crc32c").extend
        return lambda data, previous: extend(previous, data)
    return None


@cache
def table_crc(algorithm: ChecksumAlgorithm) -> CrcFunction:
    """Our own CRC: lanes for long data, a byte a step for the rest (see the module's head)."""
    shape = CRC_SHAPES[algorithm]
    table = _byte_table(shape)
    register_bytes = shape.bits // 8
    # Plane k of the table: byte k of every entry, in the form that bytes.translate takes.
    planes = [bytes((entry >> (8 * k)) & 0xFF for entry in table) for k in range(register_bytes)]
    mask = (1 << shape.bits) - 1

    def by_lanes(block: memoryview, register: int) -> int:
        lanes = len(block) // LANE_BYTES
        state = [(register >> (8 * k)) & 0xFF for k in range(register_bytes)]  # lane 0 starts from what came before
        last = register_bytes - 1
        for column in range(LANE_BYTES):
            row = int.from_bytes(block[column::LANE_BYTES].tobytes(), "little")
            index = (state[0] ^ row).to_bytes(lanes, "little")
            for k in range(last):
                state[k] = state[k + 1] ^ int.from_bytes(index.translate(planes[k]), "little")
            state[last] = int.from_bytes(index.translate(planes[last]), "little")
        registers = [plane.to_bytes(lanes, "little") for plane in state]
        shift = _lane_shift(shape)
        joined = 0
        for parts in zip(*registers, strict=True):
            moved = 0
            for k in range(register_bytes):
                moved ^= shift[k][(joined >> (8 * k)) & 0xFF]
            joined = moved ^ int.from_bytes(parts, "little")
        return joined

    def crc(data: bytes, previous: int = 0) -> int:
        register = previous ^ mask
        view = memoryview(data)
        while len(view) >= LANE_BYTES * 16:
            size = min(len(view) // LANE_BYTES, 1024) * LANE_BYTES
            register = by_lanes(view[:size], register)
            view = view[size:]
        for byte in view:
            register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
        return register ^ mask

    return crc


def _byte_table(shape: CrcShape) -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ shape.polynomial if value & 1 else value >> 1
        table.append(value)
    return table


@cache
def _lane_shift(shape: CrcShape) -> tuple[tuple[int, ...], ...]:
    """For each byte of a register and each of its values: the register after one lane of zero bytes."""
    factor = _shift_factor(shape, LANE_BYTES)
    return tuple(
        tuple(_multiply(shape, factor, value << (8 * k)) for value in range(256)) for k in range(shape.bits // 8)
    )


def _shift_factor(shape: CrcShape, size_bytes: int) -> int:
    """x^(8 * size) modulo the polynomial: what appending that many zero bytes multiplies a register by."""
    factor = 1 << (shape.bits - 1)  # x^0, reflected
    exponent = 3  # 8 bits a byte = 2^3
    powers = _powers(shape)
    while size_bytes:
        if size_bytes & 1:
            factor = _multiply(shape, powers[exponent], factor)
        size_bytes >>= 1
        exponent += 1
    return factor


@cache
def _powers(shape: CrcShape) -> tuple[int, ...]:
    """x^(2^n) modulo the polynomial, n = 0..66: enough for sizes up to 2^63 bytes."""
    powers = [1 << (shape.bits - 2)]
    for _ in range(66):
        powers.append(_multiply(shape, powers[-1], powers[-1]))
    return tuple(powers)


def _multiply(shape: CrcShape, a: int, b: int) -> int:
    """a(x) * b(x) modulo the polynomial, all reflected."""
    product = 0
    mask = 1 << (shape.bits - 1)
    while mask:
        if a & mask:
            product ^= b
        mask >>= 1
        b = (b >> 1) ^ shape.polynomial if b & 1 else b >> 1
    return product
