"""Checksums against published check values and against each other."""

from __future__ import annotations

import hashlib
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clary.domain.errors import Invalid
from clary.store import checksums
from clary.store.checksums import ChecksumAlgorithm as A
from clary.store.checksums import ChecksumType

CRCS = [A.CRC32, A.CRC32C, A.CRC64NVME]


@pytest.mark.parametrize(
    ("algorithm", "check"),
    # "check" values of the CRC RevEng catalogue for CRC-32/ISO-HDLC, CRC-32/ISCSI and CRC-64/NVME.
    [(A.CRC32, 0xCBF43926), (A.CRC32C, 0xE3069283), (A.CRC64NVME, 0xAE8B14860A799888)],
)
def test_table_crc_gives_the_published_check_value(algorithm: A, check: int) -> None:
    assert checksums.table_crc(algorithm)(b"123456789", 0) == check
    assert checksums.crc_function(algorithm)(b"123456789", 0) == check


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_table_crc_agrees_with_zlib(data: bytes) -> None:
    assert checksums.table_crc(A.CRC32)(data, 0) == zlib.crc32(data)


@pytest.mark.parametrize("size_bytes", [16 * 1024 - 1, 16 * 1024, 100_001, 3 * 1024 * 1024 + 7])
def test_lanes_agree_with_zlib_for_long_data(size_bytes: int) -> None:
    data = random.Random(size_bytes).randbytes(size_bytes)
    assert checksums.table_crc(A.CRC32)(data, 77) == zlib.crc32(data, 77)


@pytest.mark.parametrize("algorithm", [A.CRC32C, A.CRC64NVME])
def test_lanes_agree_with_the_byte_walk(algorithm: A) -> None:
    data = random.Random(5).randbytes(40_000)
    crc = checksums.table_crc(algorithm)
    in_small_steps = 0
    for start in range(0, len(data), 999):
        in_small_steps = crc(data[start : start + 999], in_small_steps)
    assert crc(data, 0) == in_small_steps


@pytest.mark.parametrize("algorithm", CRCS)
@given(first=st.binary(max_size=70), second=st.binary(max_size=70))
@settings(max_examples=40, deadline=None)
def test_feeding_in_pieces_and_combining_equal_the_whole(algorithm: A, first: bytes, second: bytes) -> None:
    crc = checksums.table_crc(algorithm)
    whole = crc(first + second, 0)
    assert crc(second, crc(first, 0)) == whole
    assert checksums.combine(algorithm, crc(first, 0), crc(second, 0), len(second)) == whole


def test_combining_with_a_large_size_equals_zlib() -> None:
    tail = bytes(5 * 1024 * 1024 + 3)
    assert checksums.combine(A.CRC32, zlib.crc32(b"head"), zlib.crc32(tail), len(tail)) == zlib.crc32(b"head" + tail)


@pytest.mark.parametrize("algorithm", list(A))
def test_running_takes_any_buffer_and_has_the_right_length(algorithm: A) -> None:
    state = checksums.running(algorithm)
    for piece in (b"ab", bytearray(b"cd"), memoryview(b"ef")):
        state.update(piece)
    again = checksums.running(algorithm)
    again.update(b"abcdef")
    assert state.digest() == again.digest()
    assert len(state.digest()) == checksums.DIGEST_BYTES[algorithm]


def test_composite_is_the_checksum_of_the_digests() -> None:
    digests = [hashlib.sha256(piece).digest() for piece in (b"one", b"two")]
    made = checksums.composite(A.SHA256, [checksums.encode(digest) for digest in digests])
    assert made.value == checksums.encode(hashlib.sha256(b"".join(digests)).digest()) + "-2"
    assert made.type is ChecksumType.COMPOSITE


def test_full_object_combines_crcs_and_refuses_sha() -> None:
    pieces = [b"a" * 1000, b"b" * 17, b""]
    values = [(checksums.encode(zlib.crc32(piece).to_bytes(4, "big")), len(piece)) for piece in pieces]
    whole = checksums.full_object(A.CRC32, values)
    assert whole.value == checksums.encode(zlib.crc32(b"".join(pieces)).to_bytes(4, "big"))
    with pytest.raises(Invalid, match="only CRCs"):
        checksums.full_object(A.SHA1, [])


@pytest.mark.parametrize("value", ["", "!!!!", "AAAA", "AAAAAAAAAAA="])
def test_a_checksum_of_the_wrong_length_is_refused(value: str) -> None:
    with pytest.raises(Invalid):
        checksums.decode(A.CRC32, value)
