"""How a captured call is written down, and where."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

from clary.domain.capture import Capture, Kept, file_name, folder, line

CAPTURE = Capture("s3://b/p", 1.0, csv_types=("text/csv",), json_types=("application/json",))
AT = datetime(2026, 3, 4, 5, 6, 7, 89_000, UTC)
KEPT = Kept(AT, "event", "", "", "text/csv; charset=utf-8", b"1,2", "application/json", b'{"a": 1}')


def test_text_of_listed_types_stays_text() -> None:
    found = json.loads(line(KEPT, CAPTURE))
    assert found == {
        "captureData": {
            "endpointInput": {
                "observedContentType": "text/csv; charset=utf-8",
                "mode": "INPUT",
                "data": "1,2",
                "encoding": "CSV",
            },
            "endpointOutput": {
                "observedContentType": "application/json",
                "mode": "OUTPUT",
                "data": '{"a": 1}',
                "encoding": "JSON",
            },
        },
        "eventMetadata": {"eventId": "event", "inferenceTime": "2026-03-04T05:06:07Z"},
        "eventVersion": "0",
    }


def test_everything_else_and_text_that_is_none_is_base64() -> None:
    other = replace(KEPT, input_type="image/png", output_type="text/csv", output=b"\xff\xfe")
    found = json.loads(line(other, CAPTURE))["captureData"]
    assert found["endpointInput"]["encoding"] == found["endpointOutput"]["encoding"] == "BASE64"
    assert base64.b64decode(found["endpointOutput"]["data"]) == b"\xff\xfe"


def test_one_side_alone_and_what_the_caller_gave() -> None:
    kept = replace(KEPT, inference_id="mine", custom_attributes="a=b")
    found = json.loads(line(kept, replace(CAPTURE, output=False)))
    assert list(found["captureData"]) == ["endpointInput"]
    assert found["eventMetadata"]["inferenceId"] == "mine"
    assert found["eventMetadata"]["customAttributes"] == ["a=b"]


def test_names_are_by_the_hour_of_the_call() -> None:
    assert folder("s3://b/p", "e", "v", AT) == "s3://b/p/e/v/2026/03/04/05"
    assert file_name(AT, "x") == "06-07-089-x.jsonl"
