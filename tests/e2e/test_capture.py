"""Data capture: sampled calls arrive in the object store in AWS's layout, none is lost on a clean stop."""

from __future__ import annotations

import base64
import json
import re
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import Clary, instance, signal_to, wait_for

BUCKET = "captured"


def config(clary: Clary, model: str, percentage: int, *modes: str) -> str:
    name = f"c-{uuid.uuid4().hex[:10]}"
    clary.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[instance(model)],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": percentage,
            "DestinationS3Uri": f"s3://{BUCKET}/calls",
            "CaptureOptions": [{"CaptureMode": mode} for mode in modes],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
        },
    )
    return name


def captured(clary: Clary, endpoint: str) -> list[tuple[str, dict[str, Any]]]:
    """(key, record) of everything that was delivered."""
    s3 = clary.client("s3")
    found = []
    for entry in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"calls/{endpoint}/").get("Contents", ()):
        body = s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read().decode()
        found += [(entry["Key"], json.loads(line)) for line in body.splitlines()]
    return found


@pytest.fixture(scope="module")
def one(start_clary: Callable[..., Clary]) -> Clary:
    clary = start_clary()
    clary.client("s3").create_bucket(Bucket=BUCKET)
    return clary


@pytest.fixture(scope="module")
def model(one: Clary, echo_files: dict[str, str]) -> str:
    return one.model(one.upload(dict(echo_files)), "clary/sklearn")


def test_calls_are_kept_as_they_were(one: Clary, model: str) -> None:
    name = one.endpoint(config(one, model, 100, "Input", "Output"))
    quiet = one.endpoint(config(one, model, 0, "Input"))
    large = b"x" * 1_000_000
    one.invoke(name, "1,2", "text/csv", InferenceId="mine", CustomAttributes="a=b")
    one.invoke(name, '{"a": 1}', "application/json; charset=utf-8")
    one.invoke(name, large, "application/octet-stream")
    one.invoke(quiet, "1,2", "text/csv")
    with pytest.raises(ClientError):
        one.invoke(name, "raise no", "text/plain")
    state = one.client("sagemaker").describe_endpoint(EndpointName=name)["DataCaptureConfig"]
    assert (state["CaptureStatus"], state["CurrentSamplingPercentage"]) == ("Started", 100)
    one.down()
    one.up()
    found = wait_for(lambda: captured(one, name), 20, "the captured calls")
    assert len(found) == 3
    hour = r"\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]+\.jsonl"
    assert all(re.fullmatch(f"calls/{name}/AllTraffic/{hour}", key) for key, _ in found)
    csv, document, other = (record for _, record in found)
    assert csv["captureData"] == {
        "endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"},
        "endpointOutput": {"observedContentType": "text/csv", "mode": "OUTPUT", "data": "1,2", "encoding": "CSV"},
    }
    assert csv["eventVersion"] == "0"
    assert csv["eventMetadata"]["inferenceId"] == "mine"
    assert csv["eventMetadata"]["customAttributes"] == ["a=b"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", csv["eventMetadata"]["inferenceTime"])
    assert document["captureData"]["endpointInput"]["encoding"] == "JSON"
    assert json.loads(document["captureData"]["endpointInput"]["data"]) == {"a": 1}
    for side in ("endpointInput", "endpointOutput"):
        assert other["captureData"][side]["encoding"] == "BASE64"
        assert base64.b64decode(other["captureData"][side]["data"]) == large
    assert captured(one, quiet) == []


def test_half_of_the_calls_one_side_of_them(one: Clary, model: str) -> None:
    name = one.endpoint(config(one, model, 50, "Input"))
    for number in range(200):
        one.invoke(name, str(number), "text/csv")
    one.down()
    one.up()
    found = wait_for(lambda: captured(one, name), 20, "the captured calls")
    assert 50 < len(found) < 150
    assert all(set(record["captureData"]) == {"endpointInput"} for _, record in found)


def test_after_a_crash_what_was_written_is_delivered(one: Clary, model: str) -> None:
    name = one.endpoint(config(one, model, 100, "Input"))
    one.invoke(name, "kept", "text/csv")
    folder = one.data / "capture"
    wait_for(lambda: any(b"kept" in path.read_bytes() for path in folder.glob("*.open")), 10, "the record")
    old = one.service_pid("proxy")
    signal_to(old, signal.SIGKILL)
    wait_for(lambda: one.service_pid("proxy") not in (0, old), 20, "another proxy")
    one.clients.clear()  # their connections went with the old one
    found = wait_for(lambda: captured(one, name), 20, "the captured call")
    assert [record["captureData"]["endpointInput"]["data"] for _, record in found] == ["kept"]


def test_a_death_after_a_delivery_delivers_nothing_twice(
    start_clary: Callable[..., Clary], echo_files: dict[str, str], tmp_path: Path
) -> None:
    armed = tmp_path / "armed"
    clary = start_clary(CLARY_FAILPOINT_FILE=str(armed))
    clary.client("s3").create_bucket(Bucket=BUCKET)
    name = clary.endpoint(config(clary, clary.model(clary.upload(dict(echo_files)), "clary/sklearn"), 100, "Input"))
    temporary = armed.with_suffix(".tmp")
    temporary.write_text("capture.after_put")
    temporary.rename(armed)
    clary.invoke(name, "once", "text/csv")
    clary.down()  # the proxy hands over what it holds
    clary.up()
    wait_for(lambda: not armed.exists(), 20, "control to die after the delivery")
    wait_for(lambda: not list((clary.data / "capture").iterdir()), 30, "the file to go")
    wait_for(clary.answers, 20, "the API")
    assert len(captured(clary, name)) == 1
    clary.down()


def test_what_cannot_be_kept_is_refused(one: Clary, model: str) -> None:
    with pytest.raises(ClientError, match="is not s3://"):
        one.client("sagemaker").create_endpoint_config(
            EndpointConfigName="bad",
            ProductionVariants=[instance(model)],
            DataCaptureConfig={
                "EnableCapture": True,
                "InitialSamplingPercentage": 10,
                "DestinationS3Uri": "https://somewhere/else",
                "CaptureOptions": [{"CaptureMode": "Input"}],
            },
        )
