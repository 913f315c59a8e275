"""Filters and joins as the guide's examples have them, and the paths, names and answers that are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary.domain.errors import Invalid
from clary.domain.transform_path import NoMatch, parse, select
from clary.domain.transform_plan import (
    MIB,
    BatchStrategy,
    Handling,
    SplitType,
    output_key,
    parse_manifest,
    relative_key,
    settle,
)
from clary.domain.transform_records import CannotProcess, processing_of

ROW = ["a", "b", "c", "d", "e"]
PERSON = {"id": 7, "features": [1, 2], "deep": {"er": "x"}}


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("$", ROW, ROW),
        ("$[0]", ROW, "a"),
        ("$[-1]", ROW, "e"),
        ("$[0,-1]", ROW, ["a", "e"]),
        ("$[1:4]", ROW, ["b", "c", "d"]),
        ("$[1:]", ROW, ["b", "c", "d", "e"]),
        ("$[:-1]", ROW, ["a", "b", "c", "d"]),
        ("$[*]", ROW, ROW),
        ("$.features", PERSON, [1, 2]),
        ("$.deep.er", PERSON, "x"),
        ("$.features[1]", PERSON, 2),
        ("$['id','features']", PERSON, {"id": 7, "features": [1, 2]}),
        ('$["id"]', PERSON, 7),
        ("$.*", {"a": 1, "b": 2}, [1, 2]),
    ],
)
def test_paths(path: str, value: object, found: object) -> None:
    assert select(parse(path), value) == found


@pytest.mark.parametrize("path", ["", "a", "$.", "$[", "$[a]", "$..a", "$[?(@.x)]", "$['a'", "$[1:2:3]"])
def test_paths_that_are_not_understood(path: str) -> None:
    with pytest.raises(Invalid, match="JSONPath"):
        parse(path)


@pytest.mark.parametrize(("path", "value"), [("$[5]", ROW), ("$.nope", PERSON), ("$.id", ROW), ("$[0]", PERSON)])
def test_what_a_record_lacks_is_an_error(path: str, value: object) -> None:
    with pytest.raises(NoMatch):
        select(parse(path), value)


def csv(**changes: object) -> Handling:
    return Handling(content_type="text/csv", split=SplitType.LINE, assemble_lines=True, **changes)  # type: ignore[arg-type]


def test_csv_keeps_an_id_and_the_prediction() -> None:
    processing = processing_of(csv(input_filter="$[1:]", output_filter="$[0,-1]", join=True))
    assert processing is not None
    records, body = processing.before([b"id1,1,2\n", b"\n", b'"id,2",3,4\r\n'])
    assert body == b"1,2\n3,4"
    assert processing.after(records, b"0.5\n0.7\n") == b'id1,0.5\n"id,2",0.7'


def test_a_join_without_a_filter_keeps_the_inputs_own_text() -> None:
    processing = processing_of(csv(join=True))
    assert processing is not None
    records, body = processing.before([b'"a""b", 1\n', b'x,"two\nlines"\n'])
    assert processing.after(records, b"1\n2") == b'"a""b", 1,1\nx,"two\nlines",2'
    assert body == b'"a""b", 1\nx,"two\nlines"'


def test_json_lines_join_objects_and_what_is_none() -> None:
    handling = Handling(
        content_type="application/jsonlines", split=SplitType.LINE, input_filter="$.features", join=True
    )
    processing = processing_of(handling)
    assert processing is not None
    records, body = processing.before([b'{"id": 1, "features": [1, 2]}\n'])
    assert body == b"[1,2]"
    assert json.loads(processing.after(records, b'{"score": 3}\n')) == {
        "id": 1,
        "features": [1, 2],
        "SageMakerOutput": {"score": 3},
    }
    whole = processing_of(Handling(content_type="application/json", join=True))
    assert whole is not None
    assert json.loads(whole.after(whole.before([b"[1,\n2]"])[0], b"[0.5]")) == {
        "SageMakerInput": [1, 2],
        "SageMakerOutput": [0.5],
    }


def test_a_record_that_does_not_fit_is_named() -> None:
    processing = processing_of(csv(input_filter="$[2]"))
    assert processing is not None
    with pytest.raises(CannotProcess, match="position 2") as caught:
        processing.before([b"1,2,3\n", b"1,2\n"])
    assert caught.value.record == 1
    joining = processing_of(csv(join=True))
    assert joining is not None
    with pytest.raises(CannotProcess, match="2 records with 1 lines"):
        joining.after([b"1", b"2"], b"0.5\n")


@pytest.mark.parametrize(
    ("prefix", "key", "relative"),
    [
        ("in/", "in/a/b.csv", "a/b.csv"),
        ("in", "in/a.csv", "a.csv"),
        ("in/part", "in/part-1.csv", "part-1.csv"),
        ("in/a.csv", "in/a.csv", "a.csv"),
        ("", "x/y.csv", "x/y.csv"),
    ],
)
def test_where_outputs_go(prefix: str, key: str, relative: str) -> None:
    assert relative_key(prefix, key) == relative
    assert output_key("out/", relative) == output_key("out", relative) == f"out/{relative}.out"
    assert output_key("", relative) == f"{relative}.out"


def test_a_manifest_names_objects_below_its_prefix() -> None:
    found = parse_manifest('[{"prefix": "s3://b/p/"}, "x.csv", "d/y.csv"]')
    assert found == [("b", "p/x.csv", "x.csv"), ("b", "p/d/y.csv", "d/y.csv")]
    for text in ("{}", "[]", '["x"]', '[{"prefix": "s3://b/"}, 3]', "nonsense"):
        with pytest.raises(Invalid, match="manifest"):
            parse_manifest(text)


def test_the_request_comes_before_the_container_before_defaults() -> None:
    told = {"MaxConcurrentTransforms": 8, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 4}
    assert settle(Handling(), None, 2).payload_bytes == 6 * MIB
    assert settle(Handling(), None, 2).concurrent == 2
    asked = settle(Handling(), told, 2)
    assert (asked.payload_bytes, asked.concurrent, asked.strategy) == (4 * MIB, 16, BatchStrategy.SINGLE_RECORD)
    mine = settle(Handling(max_payload_mb=50, max_concurrent=1, strategy=BatchStrategy.MULTI_RECORD), told, 2)
    assert (mine.payload_bytes, mine.concurrent, mine.strategy) == (50 * MIB, 1, BatchStrategy.MULTI_RECORD)
    assert settle(Handling(max_payload_mb=50), told, 2).concurrent == 2  # never more than 100 MB at once
    assert settle(Handling(), {"MaxConcurrentTransforms": "many", "MaxPayloadInMB": -3}, 1) == settle(Handling(), {}, 1)


@given(
    st.lists(st.lists(st.sampled_from(["1", "", "x y", 'q"q', "é"]), min_size=3, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["$[0]", "$[0,-1]", "$[1:]", "$[*]", "$[:-1]", "$[2,2,0]"]),
)
def test_rows_without_quotes_take_a_shorter_way_to_the_same_text(table: list[list[str]], path: str) -> None:
    processing = processing_of(csv(input_filter=path, output_filter=path, join=True))
    assert processing is not None
    lines = [",".join(cell.replace('"', "") for cell in row).encode() for row in table]
    # A quoted cell anywhere makes the whole batch take the long way.
    long = [*lines, b'"a","b","c"']
    assert processing.before(lines)[1] == processing.before(long)[1].rpartition(b"\n")[0]
    answers = b"\n".join(b"7" for _ in long)
    assert processing.after(lines, b"7\n" * len(lines)) == processing.after(long, answers).rpartition(b"\n")[0]
