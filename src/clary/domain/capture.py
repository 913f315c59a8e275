"""Data capture: which calls are kept, how one is written down, and under which name. Pure.

Layout and schema are those that AWS's model monitoring reads (developer guide, "data capture").
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime

INPUT = "Input"
OUTPUT = "Output"
INPUT_AND_OUTPUT = "InputAndOutput"


@dataclass(frozen=True, slots=True)
class Capture:
    """DataCaptureConfig of a variant, enabled. `sampling` is a share, 0 to 1."""

    destination: str  # s3://bucket/prefix, no slash at its end
    sampling: float
    input: bool = True
    output: bool = True
    csv_types: tuple[str, ...] = ()
    json_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """One call. Times are aware UTC."""

    at: datetime
    event_id: str
    inference_id: str
    custom_attributes: str
    input_type: str
    input: bytes
    output_type: str
    output: bytes


def line(kept: Kept, capture: Capture) -> str:
    """The record, one line of JSON without its end of line."""
    data: dict[str, object] = {}
    if capture.input:
        data["endpointInput"] = _side(kept.input_type, "INPUT", kept.input, capture)
    if capture.output:
        data["endpointOutput"] = _side(kept.output_type, "OUTPUT", kept.output, capture)
    metadata: dict[str, object] = {"eventId": kept.event_id}
    if kept.inference_id:
        metadata["inferenceId"] = kept.inference_id
    if kept.custom_attributes:
        metadata["customAttributes"] = [kept.custom_attributes]
    metadata["inferenceTime"] = kept.at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}, separators=(",", ":"))


def _side(content_type: str, mode: str, body: bytes, capture: Capture) -> dict[str, object]:
    """CSV and JSON as text where the configuration lists the type, everything else, and bytes that are none, base64."""
    plain = content_type.partition(";")[0].strip().lower()
    encoding = "BASE64"
    if plain in capture.csv_types:
        encoding = "CSV"
    elif plain in capture.json_types:
        encoding = "JSON"
    if encoding != "BASE64":
        try:
            return {"observedContentType": content_type, "mode": mode, "data": body.decode(), "encoding": encoding}
        except UnicodeDecodeError:
            pass  # not what it said it was
    data = base64.b64encode(body).decode()
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": "BASE64"}


def folder(destination: str, endpoint: str, variant: str, at: datetime) -> str:
    """DESTINATION/ENDPOINT/VARIANT/yyyy/mm/dd/hh, by the hour of the call."""
    return f"{destination}/{endpoint}/{variant}/{at:%Y/%m/%d/%H}"


def file_name(at: datetime, unique: str) -> str:
    """mm-ss-mmm-UNIQUE.jsonl, as AWS names them."""
    return f"{at:%M-%S}-{at.microsecond // 1000:03d}-{unique}.jsonl"
