"""Bodies in and out, without a model: exact numbers, clear refusals, negotiation."""

from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import random as sparse_random
from scipy.sparse import save_npz

from clary_worker import codecs, csvtext, jsonrows, libsvm, media, recordio
from clary_worker.contract import CSV, JSON, JSON_LINES, NPY, NPZ, RECORDIO, BadRequest, NotAcceptable, UnsupportedMedia

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TABLES = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=40)
)


def same(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        for a, b in zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(TABLES, st.sampled_from([1, 300]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv_numbers_are_read_exactly(table: list[list[float]], times: int, end: str, ended: bool) -> None:
    table = table * times  # large bodies go through another parser than few
    body = end.join(",".join(repr(cell) for cell in row) for row in table) + (end if ended else "")
    fast = csvtext.numbers(body.encode())
    assert fast is not None
    assert np.array_equal(fast, np.array(table))


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"1,2\n3,4", [[1.0, 2.0], [3.0, 4.0]]),
        (b"1,,3", [[1.0, math.nan, 3.0]]),
        (b"1,2,\n", [[1.0, 2.0, math.nan]]),
        (b"\xef\xbb\xbf1,2", [[1.0, 2.0]]),
        (b"1, 2 ,3", [[1.0, 2.0, 3.0]]),
        (b"nan,inf,-Infinity", [[math.nan, math.inf, -math.inf]]),
        (b'"1","2"', [[1.0, 2.0]]),
        (b"7", [[7.0]]),
        (b"1\n2\n\n3\n", [[1.0], [2.0], [3.0]]),
        (b'a,1\n"b, c",2', [["a", 1.0], ["b, c", 2.0]]),
        (b"a,1\n,2", [["a", 1.0], [math.nan, 2.0]]),
        (b"1_0,2", [["1_0", 2.0]]),
        (b"0x10,2", [["0x10", 2.0]]),
    ],
)
def test_csv_cells_keep_their_meaning(body: bytes, rows: list[list[Any]]) -> None:
    found, names = csvtext.parse(body, {})
    assert names is None
    assert same(found, np.array(rows, dtype=found.dtype))
    many, _ = csvtext.parse((body.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n") + b"\n") * 900, {})
    assert same(many[: len(rows)], found)
    assert many.shape == (900 * len(rows), *found.shape[1:])


@pytest.mark.parametrize("bad", [b"1 2", b"1e", b"--1", b"1.2.3", b"e5", b"-", b"1-2"])
def test_a_malformed_number_among_many_stays_a_text(bad: bytes) -> None:
    found, _ = csvtext.parse(b"1,2\n" * 999 + bad + b",2\n", {})
    assert found.dtype == object
    assert found[-1].tolist() == [bad.decode(), 2.0]


def test_csv_headers_are_names_only_when_told() -> None:
    assert csvtext.parse(b"a,b\n1,2", {"header": "present"})[1] == ["a", "b"]
    found, names = csvtext.parse(b"a,b\n1,2", {"label_size": "0"})
    assert (found.tolist(), names) == ([["a", "b"], ["1", "2"]], None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1,2\n3\n4,5", "line 2 has 1 columns, line 1 has 2"),
        (b"1,2\n3,4,5", "line 2 has 3 columns"),
        (b"1,2,3\n4\n5,6", "line 2 has 1 columns, line 1 has 3"),
        (b"1,2\n" * 999 + b"3\n", "line 1000 has 1 columns, line 1 has 2"),
        (b"\n\n", "holds no row"),
        (b"\n" * 9999, "holds no row"),
        (b"a,\xff", "not UTF-8 text: byte 2"),
        (b"1,2\n" * 999 + b"3,\xa04\n", "not UTF-8 text: byte 3998"),
    ],
)
def test_csv_that_is_wrong_names_the_line(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        csvtext.parse(body, {})
    assert words in caught.value.text


@pytest.mark.parametrize(
    ("body", "form", "rows"),
    [
        ("[[1, 2], [3, 4]]", "array", [[1, 2], [3, 4]]),
        ("[1.5, 2]", "array", [1.5, 2.0]),
        ('{"instances": [[1, 2]]}', "instances", [[1, 2]]),
        ('{"instances": [{"features": [1, 2]}, {"features": [3, 4]}]}', "instances", [[1, 2], [3, 4]]),
        ('{"instances": [{"data": {"features": {"values": [1, 2]}}}]}', "instances", [[1, 2]]),
        ('{"inputs": [[1, 2]]}', "inputs", [[1, 2]]),
        ('{"data": [[1, 2]]}', "array", [[1, 2]]),
        ("[[1, null], [2, 3]]", "array", [[1.0, math.nan], [2.0, 3.0]]),
        ('[[1, "2"]]', "array", [[1, "2"]]),
        ('[["a"], ["b"]]', "array", [["a"], ["b"]]),
        ('["a b", "c"]', "array", ["a b", "c"]),
        ("[true, false]", "array", [True, False]),
    ],
)
def test_json_rows_keep_their_kinds(body: str, form: str, rows: list[Any]) -> None:
    table = jsonrows.parse(body.encode())
    assert table.form == form
    assert same(table.rows, np.array(rows, dtype=table.rows.dtype))
    if isinstance(rows[0], list) and any(isinstance(cell, str) for cell in rows[0]):
        assert table.rows.tolist() == rows


@pytest.mark.parametrize(
    "body",
    [
        '{"a": [1, 3], "b": [2, 4]}',
        '{"inputs": {"a": [1, 3], "b": [2, 4]}}',
        '{"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}',
        '[{"a": 1, "b": 2}, {"b": 4, "a": 3}]',
    ],
)
def test_json_columns_are_named_inputs(body: str) -> None:
    inputs = jsonrows.parse(body.encode()).inputs
    assert inputs is not None
    assert {name: value.tolist() for name, value in inputs.items()} == {"a": [1, 3], "b": [2, 4]}


def test_json_split_frames_carry_their_columns() -> None:
    for body in (
        '{"columns": ["a", "b"], "data": [[1, 2]]}',
        '{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}}',
    ):
        table = jsonrows.parse(body.encode())
        assert (table.columns, table.rows.tolist()) == (["a", "b"], [[1, 2]])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("[1,", "at line 1, column 4"),
        ("5", "is a number"),
        ("null", "is null"),
        ("{}", "The JSON body is {}"),
        ("[]", "holds no row"),
        ('{"instances": 5}', '"instances" is a number'),
        ("[[1, 2], [3]]", "row 2 has 1 values, row 1 has 2 values"),
        ("[[1, 2], 3]", "row 2 has a single value, row 1 has 2 values"),
        ('[{"a": 1}, [2]]', "mixes objects and plain rows"),
        ('[{"a": 1}, {"b": 2}]', "Row 2 does not have the names of row 1: a, b"),
        ('[[{"a": 1}]]', "is not a regular array"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_wrong_says_where(body: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        jsonrows.parse(body.encode())
    assert words in caught.value.text


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_json_numbers_are_read_exactly(table: list[list[float]]) -> None:
    assert np.array_equal(jsonrows.parse(json.dumps({"instances": table}).encode()).rows, np.array(table))


@pytest.mark.parametrize(
    ("body", "row"),
    [
        (b"[[NaN, 1]]", [math.nan, 1.0]),
        (b"[[Infinity, -Infinity, 1e400]]", [math.inf, -math.inf, math.inf]),
        (b"[[-0.0, 1e-400, 5e-324]]", [-0.0, 0.0, 5e-324]),
        (b"[[100000000000000000000, 0.5]]", [1e20, 0.5]),
        (b"\xef\xbb\xbf[[1, 2]]", [1.0, 2.0]),
        ("[[1, 2]]".encode("utf-16"), [1.0, 2.0]),
    ],
)
def test_json_that_only_the_library_of_python_takes_is_taken(body: bytes, row: list[float]) -> None:
    assert same(jsonrows.parse(body).rows.astype(float), np.array([row]))


def test_json_lines_are_a_row_each() -> None:
    assert jsonrows.parse_lines(b'{"features": [1, 2]}\n{"features": [3, 4]}').rows.tolist() == [
        [1, 2],
        [3, 4],
    ]
    assert jsonrows.parse_lines(b"[1, 2]\n\n[3, 4]\n").rows.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(BadRequest, match="Line 2 of the JSON Lines body is not JSON"):
        jsonrows.parse_lines(b"[1]\n[2")


def test_libsvm_rows_are_sparse_with_indices_as_written() -> None:
    found = libsvm.parse(b"1 0:1.5 3:-2\n# all of it a comment\n0 qid:3 2:4 # why\n5\n1:7")
    assert found.toarray().tolist() == [[1.5, 0, 0, -2], [0, 0, 4, 0], [0, 0, 0, 0], [0, 7, 0, 0]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1 a:2", "line 1: 'a:2' is not index:value"),
        (b"1 0:1\n1 2", "line 2: '2' is not index:value"),
        (b"1 -1:2", "'-1:2'"),
        (b"", "holds no row"),
        (b"1 99999999999:1", "index 99999999999"),
    ],
)
def test_libsvm_that_is_wrong_names_line_and_token(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        libsvm.parse(body)
    assert words in caught.value.text


def sparse_record(keys: list[int], values: list[float], width: int) -> bytes:
    """As a protobuf library writes it: packed keys and values, a shape."""
    tensor = b"\x0a" + bytes([4 * len(values)]) + np.array(values, "<f4").tobytes()
    tensor += b"\x12" + bytes([len(keys)]) + bytes(keys) + b"\x1a\x01" + bytes([width])
    value = b"\x12" + bytes([len(tensor)]) + tensor
    entry = b"\x0a\x06values\x12" + bytes([len(value)]) + value
    return recordio.frame(b"\x0a" + bytes([len(entry)]) + entry)


def test_recordio_reads_dense_and_sparse_rows() -> None:
    rows = np.array([[1.5, -2, 3], [4, 5, 6]], dtype=np.float32)
    assert np.array_equal(recordio.parse(recordio.encode_features(rows)), rows)
    body = sparse_record([0, 4], [1.5, 2.5], 6) + sparse_record([2], [7], 6) + sparse_record([], [], 6)
    assert recordio.parse(body).toarray().tolist() == [[1.5, 0, 0, 0, 2.5, 0], [0, 0, 7, 0, 0, 0], [0] * 6]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_recordio_garbage_is_refused_and_never_crashes(junk: bytes, framed: bool) -> None:
    body = recordio.frame(junk) if framed else junk
    with contextlib.suppress(BadRequest):
        assert recordio.parse(body).ndim == 2


@pytest.mark.parametrize("cut", [4, 9, 20, 30])
def test_recordio_that_is_cut_short_is_refused(cut: int) -> None:
    body = recordio.encode_features(np.ones((1, 3), np.float32))
    with pytest.raises(BadRequest):
        recordio.parse(body[:cut])


def test_npz_holds_a_sparse_matrix_an_array_or_named_inputs() -> None:
    matrix = sparse_random(5, 7, 0.4, "csr", random_state=0)
    out = io.BytesIO()
    save_npz(out, matrix)
    assert (codecs.decode(out.getvalue(), NPZ).rows != matrix).nnz == 0
    for names in (("a",), ("a", "b")):
        out = io.BytesIO()
        np.savez(out, **{name: np.eye(2) for name in names})
        table = codecs.decode(out.getvalue(), NPZ)
        assert (table.inputs is None) == (len(names) == 1)


def test_a_pickle_inside_npy_is_never_read() -> None:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadRequest, match="cannot be read"):
        codecs.decode(out.getvalue(), NPY)


@pytest.mark.parametrize(
    ("accept", "content_type", "default", "chosen"),
    [
        ("", CSV, "", CSV),
        ("", JSON, "", JSON),
        ("", "text/x-libsvm", "", CSV),
        ("", "", "", CSV),
        ("*/*", NPY, "", NPY),
        ("*/*", CSV, JSON, JSON),
        ("", CSV, "text/csv", CSV),
        ("application/json", CSV, "", JSON),
        ("text/html, application/json;q=0.5, text/csv;q=0.9", NPY, "", CSV),
        ("application/*", CSV, "", JSON),
        ("text/*", JSON, "", CSV),
        ("image/png, */*;q=0.1", JSON, "", JSON),
        ("application/x-npy, application/json", CSV, "", NPY),
        ("application/json;q=0, text/csv", JSON, "", CSV),
        ("APPLICATION/JSON", CSV, "", JSON),
        ("application/jsonlines", CSV, "", JSON_LINES),
    ],
)
def test_the_answers_type_follows_accept(accept: str, content_type: str, default: str, chosen: str) -> None:
    assert codecs.answer_type(accept, content_type, default) == chosen


def test_an_impossible_accept_and_an_unknown_type_name_what_there_is() -> None:
    with pytest.raises(NotAcceptable, match="ask for one of: text/csv, application/json"):
        codecs.answer_type("image/png, application/json;q=0", CSV)
    with pytest.raises(UnsupportedMedia, match="send one of: text/csv"):
        codecs.decode(b"x", "application/x-parquet")


@pytest.mark.parametrize(
    ("kind", "prediction", "form", "style", "body"),
    [
        (CSV, [1, 2], "", codecs.PLAIN, b"1\n2\n"),
        (CSV, [[1.5, 2.0]], "", codecs.PLAIN, b"1.5,2.0\n"),
        (CSV, ['a"b', "c,d"], "", codecs.PLAIN, b'"a""b"\n"c,d"\n'),
        (CSV, [0.5, 0.25], "", codecs.Style(csv_one_line=True), b"0.5,0.25"),
        (JSON, [1, 2], "array", codecs.PLAIN, b"[1, 2]"),
        (JSON, [1, 2], "instances", codecs.PLAIN, b'{"predictions": [1, 2]}'),
        (JSON, [0.5], "instances", codecs.Style(scores=True), b'{"predictions": [{"score": 0.5}]}'),
        (JSON, ["é"], "inputs", codecs.PLAIN, b'{"outputs": ["\\u00e9"]}'),
        (JSON_LINES, [0.5, 1.0], "lines", codecs.Style(scores=True), b'{"score": 0.5}\n{"score": 1.0}\n'),
        (JSON_LINES, [[1, 2], [3, 4]], "lines", codecs.PLAIN, b"[1, 2]\n[3, 4]\n"),
        (JSON, {"a": [1], "b": ["x"]}, "", codecs.PLAIN, b'{"a": [1], "b": ["x"]}'),
        (CSV, {"a": [1], "b": ["x"]}, "", codecs.PLAIN, b"1\n"),
    ],
)
def test_predictions_are_printed_as_the_table_says(
    kind: str, prediction: Any, form: str, style: codecs.Style, body: bytes
) -> None:
    given_prediction = prediction if isinstance(prediction, dict) else np.array(prediction)
    assert codecs.encode(given_prediction, kind, form, style) == body


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.floats(width=32), max_size=20))
def test_scores_are_printed_as_json_prints_them(dtype: type, scores: list[float]) -> None:
    rows = np.array(scores, dtype=dtype)
    expected = json.dumps({"predictions": [{"score": score} for score in rows.tolist()]})
    assert codecs.encode(rows, JSON, "instances", codecs.Style(scores=True)) == expected.encode()


def test_texts_travel_in_npy_without_a_pickle() -> None:
    body = codecs.encode(np.array(["a", "bcd"], dtype=object), NPY)
    assert np.load(io.BytesIO(body), allow_pickle=False).tolist() == ["a", "bcd"]
    with pytest.raises(NotAcceptable, match="texts"):
        codecs.encode(np.array(["a"]), RECORDIO)


def test_header_texts_from_outside_do_not_grow_the_caches() -> None:
    for number in range(2000):
        media.parse(f"text/x-{number}")
        media.ranges(f"text/y-{number}")
    assert len(media._media) <= 256
    assert len(media._accepts) <= 256


def test_floats_survive_every_text_form() -> None:
    values = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    assert [float(line) for line in codecs.encode(values, CSV).decode().split()] == values.tolist()
    assert json.loads(codecs.encode(values, JSON)) == values.tolist()
