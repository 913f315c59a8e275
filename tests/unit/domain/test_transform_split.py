"""Splitting by property: batches are whole records, within the limit, together the object, however bytes arrive."""

from __future__ import annotations

import csv
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain.transform_plan import SplitType
from clary.domain.transform_split import RECORD_IO_MAGIC, BadRecord, Splitter


def cut_all(splitter: Splitter, data: bytes, step: int) -> list[bytes]:
    """As the engine does: bytes arrive `step` at a time, batches are taken as soon as they can be."""
    buffer, batches, at, start = bytearray(), [], 0, 0
    while True:
        final = at >= len(data)
        while start < len(buffer):
            end = splitter.cut(buffer, start, final)
            if end is None:
                break
            batches.append(bytes(buffer[start:end]))
            start = end
        if final:
            return batches
        buffer += data[at : at + step]
        at += step


def record_io(payload: bytes, flag: int = 0) -> bytes:
    return struct.pack("<II", RECORD_IO_MAGIC, flag << 29 | len(payload)) + payload + b"\0" * (-len(payload) % 4)


def tf_record(payload: bytes) -> bytes:
    return struct.pack("<QI", len(payload), 7) + payload + b"crc4"


cells = st.text(alphabet=st.sampled_from('ab1,"\n \r'), max_size=8)


@given(st.lists(st.lists(cells, min_size=1, max_size=3), max_size=12), st.integers(1, 40), st.booleans())
def test_quoted_csv_is_cut_where_the_csv_module_ends_rows(rows: list[list[str]], step: int, single: bool) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    data = out.getvalue().encode()
    batches = cut_all(Splitter(SplitType.LINE, 200, single, quoted=True), data, step)
    assert b"".join(batches) == data
    found = [row for batch in batches for row in csv.reader(io.StringIO(batch.decode(), newline=""))]
    assert found == list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert all(len(batch) <= 201 for batch in batches)
    if single:
        assert len(batches) == len(rows)


@given(st.binary(max_size=300), st.integers(1, 30), st.integers(1, 30), st.integers(31, 60))
def test_lines_do_not_depend_on_how_bytes_arrive(data: bytes, one: int, other: int, limit: int) -> None:
    lines = b"\n".join(piece[:limit] for piece in data.split(b"\n"))
    for single in (True, False):
        splitter = Splitter(SplitType.LINE, limit, single)
        batches = cut_all(splitter, lines, one)
        assert batches == cut_all(splitter, lines, other) == cut_all(splitter, lines, 1000)
        assert b"".join(batches) == lines
        assert all(len(splitter.payload(batch)) <= limit for batch in batches)
        assert all(batch.endswith(b"\n") for batch in batches[:-1])


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 50), st.booleans())
def test_frames_stay_whole(payloads: list[bytes], step: int, single: bool) -> None:
    for split, frame in ((SplitType.RECORD_IO, record_io), (SplitType.TF_RECORD, tf_record)):
        data = b"".join(frame(payload) for payload in payloads)
        splitter = Splitter(split, 128, single)
        batches = cut_all(splitter, data, step)
        assert b"".join(batches) == data
        assert [record for batch in batches for record in splitter.records(batch)] == [frame(p) for p in payloads]
        if single:
            assert [splitter.payload(batch) for batch in batches] == payloads
        else:
            assert all(splitter.payload(batch) == batch and len(batch) <= 128 for batch in batches)


def test_parts_of_one_record_stay_together() -> None:
    data = record_io(b"abc", 1) + record_io(b"def", 2) + record_io(b"g", 3) + record_io(b"next")
    splitter = Splitter(SplitType.RECORD_IO, 100, True)
    assert [splitter.payload(batch) for batch in cut_all(splitter, data, 5)] == [b"abcdefg", b"next"]


@pytest.mark.parametrize(
    ("split", "data", "why"),
    [
        (SplitType.LINE, b"short\n" + b"x" * 50, "larger than 20 bytes"),
        (SplitType.NONE, b"x" * 21, "SplitType is None"),
        (SplitType.RECORD_IO, b"not a frame at all", "no RecordIO frame"),
        (SplitType.RECORD_IO, record_io(b"abc") + record_io(b"defg")[:-1], "cut off"),
        (SplitType.TF_RECORD, tf_record(b"x" * 30), "larger than 20 bytes"),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_what_cannot_be_sent_is_refused(split: SplitType, data: bytes, why: str, single: bool) -> None:
    for step in (1, 7, 1000):
        with pytest.raises(BadRecord, match=why):
            cut_all(Splitter(split, 20, single), data, step)
