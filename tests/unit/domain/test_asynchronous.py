"""Names of outcomes, and what is told of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from clary.domain.asynchronous import (
    DEFAULT_CONCURRENCY,
    ERROR_TOPIC,
    MAX_INLINE_BYTES,
    SUCCESS_TOPIC,
    AsyncConfig,
    Invocation,
    Outcome,
    Told,
    average_backlog,
    failure_uri,
    most_processes,
    notification,
    output_uri,
    worker_concurrency,
)

CONFIG = AsyncConfig("s3://b/out", "s3://b/bad", "arn:good", "arn:bad", (SUCCESS_TOPIC, ERROR_TOPIC))
INVOCATION = Invocation(
    id="0" * 32,
    region="us-east-1",
    endpoint="e",
    endpoint_uid=1,
    config=CONFIG,
    inference_id="i-1",
    input_uri="s3://b/in",
    content_type="text/csv",
    accept="",
    custom_attributes="",
    output_uri="s3://b/out/i-1.out",
    failure_uri="s3://b/bad/i-1-error.out",
    received_us=1_700_000_000_123_000,
    expires_us=1_700_000_100_000_000,
    timeout_s=60,
)
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


@pytest.mark.parametrize(
    ("extension", "file_name", "expected"),
    [
        ("", "", "s3://b/out/i-1.out"),
        ("day/one", "", "s3://b/out/day/one/i-1.out"),
        ("/day/", "a.csv", "s3://b/out/day/a.csv"),
    ],
)
def test_outputs_are_named(extension: str, file_name: str, expected: str) -> None:
    assert output_uri("s3://b/out", extension, file_name, "i-1") == expected


def test_failures_are_named_where_there_is_a_path() -> None:
    assert failure_uri("s3://b/bad", "i-1") == "s3://b/bad/i-1-error.out"
    assert failure_uri("", "i-1") == ""


def test_a_success_is_told_as_the_guide_has_it() -> None:
    found = notification(INVOCATION, Told(Outcome.COMPLETED, "text/csv", "", b"1,2"), NOW)
    assert found is not None
    assert found[0] == "arn:good"
    assert json.loads(found[1]) == {
        "awsRegion": "us-east-1",
        "eventTime": "2026-01-02T03:04:05.678Z",
        "receivedTime": "2023-11-14T22:13:20.123Z",
        "invocationStatus": "Completed",
        "requestParameters": {"contentType": "text/csv", "endpointName": "e", "inputLocation": "s3://b/in"},
        "responseParameters": {
            "contentType": "text/csv",
            "outputLocation": "s3://b/out/i-1.out",
            "body": {"content": "1,2", "encoding": "UTF-8"},
        },
        "inferenceId": "i-1",
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }


def test_a_failure_goes_to_the_other_topic_with_its_reason() -> None:
    found = notification(INVOCATION, Told(Outcome.FAILED, "", "it broke"), NOW)
    assert found is not None
    body = json.loads(found[1])
    assert (found[0], body["invocationStatus"], body["failureReason"]) == ("arn:bad", "Failed", "it broke")
    assert body["responseParameters"] == {"failureLocation": "s3://b/bad/i-1-error.out"}


def test_nobody_is_told_who_did_not_ask() -> None:
    silent = replace(INVOCATION, config=AsyncConfig("s3://b/out"))
    assert notification(silent, Told(Outcome.COMPLETED), NOW) is None
    assert notification(silent, Told(Outcome.FAILED, "", "x"), NOW) is None


def test_a_large_response_does_not_go_along() -> None:
    found = notification(INVOCATION, Told(Outcome.COMPLETED, "", "", b"x" * (MAX_INLINE_BYTES + 1)), NOW)
    assert found is not None
    assert "body" not in json.loads(found[1])["responseParameters"]


@pytest.mark.parametrize(("maximum", "processes", "expected"), [(0, 1, 4), (0, 2, 2), (1, 4, 1), (10, 4, 2)])
def test_an_instances_maximum_is_shared_by_its_processes(maximum: int, processes: int, expected: int) -> None:
    config = AsyncConfig("s3://b", max_concurrent=maximum)
    running = most_processes(config, processes)
    assert worker_concurrency(config, running) == expected
    assert running * expected <= (maximum or DEFAULT_CONCURRENCY)


def test_without_instances_the_whole_backlog_is_one_instances() -> None:
    assert average_backlog(7, 0) == 7
    assert average_backlog(7, 2) == 3.5
