"""The pure parts of functions, bucket notifications and event source mappings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from clary.domain.bucket_notification import ObjectEvent, record, rules_of
from clary.domain.errors import Invalid, Unsupported
from clary.domain.functions import (
    FunctionDesired,
    FunctionObserved,
    check_environment,
    function_arn,
    parse_name,
    python_for,
    state,
)
from clary.domain.names import Place
from clary.domain.source_mapping import done
from clary.domain.state_change import upper

HERE = Place("123456789012", "eu-west-1")
ARN = "arn:aws:lambda:eu-west-1:123456789012:function:f"


@pytest.mark.parametrize("text", ["f", ARN, f"{ARN}:$LATEST", "123456789012:function:f", "f:$LATEST"])
def test_a_function_has_many_names(text: str) -> None:
    assert parse_name(text, HERE) == (HERE, "f")
    assert function_arn(HERE, "f") == ARN


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a b", Invalid),
        ("", Invalid),
        (f"{ARN}:1", Unsupported),
        ("f:prod", Unsupported),
        ("arn:aws:sqs:x:1:f", Invalid),
    ],
)
def test_what_names_no_function_here_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_name(text, HERE)


@pytest.mark.parametrize(
    ("ready", "failed", "expected"),
    [
        ("", "", ("Pending", "InProgress")),
        ("", "python3.11:new", ("Failed", "Failed")),
        ("", "python3.11:old", ("Pending", "InProgress")),
        ("python3.11:new", "", ("Active", "Successful")),
        ("python3.11:old", "", ("Active", "InProgress")),
        ("python3.11:old", "python3.11:new", ("Active", "Failed")),
    ],
)
def test_a_functions_state_follows_from_what_is_ready(ready: str, failed: str, expected: tuple[str, str]) -> None:
    desired = FunctionDesired("python3.11", "app.handler", "role", "new", 1)
    assert state(desired, FunctionObserved(code_key=ready, failed_key=failed)) == expected


def test_a_runtime_is_the_same_python_or_the_nearest_and_said() -> None:
    assert python_for("python3.12", ["3.11", "3.12"], False) == ("3.12", "")
    assert python_for("python3.9", ["3.11", "3.12"], False) == ("3.11", "substituted: python3.9 -> python3.11")
    assert python_for("python3.14", ["3.11", "3.13"], False)[0] == "3.13"
    for runtime, installed, exact in (
        ("python3.9", ["3.11"], True),
        ("nodejs22.x", ["3.11"], False),
        ("python3.9", [], False),
    ):
        with pytest.raises(Unsupported, match=runtime):
            python_for(runtime, installed, exact)


@pytest.mark.parametrize("variables", [{"AWS_REGION": "x"}, {"1A": "x"}, {"AB": "x" * 4095}])
def test_environments_keep_to_lambdas_rules(variables: dict[str, str]) -> None:
    check_environment({"AB": "x" * 4094})
    with pytest.raises(Invalid):
        check_environment(variables)


def queue(events: list[str], prefix: str = "", suffix: str = "") -> dict[str, Any]:
    rules = [{"Name": "Prefix", "Value": prefix}, {"Name": "suffix", "Value": suffix}]
    return {"Id": "q", "QueueArn": "arn:q", "Events": events, "Filter": {"Key": {"FilterRules": rules}}}


def test_a_notification_takes_its_events_and_keys() -> None:
    (rule,) = rules_of({"QueueConfigurations": [queue(["s3:ObjectCreated:Put"], "in/", ".csv")]})
    assert rule.takes("ObjectCreated:Put", "in/a.csv")
    assert not rule.takes("ObjectCreated:Copy", "in/a.csv")
    assert not rule.takes("ObjectCreated:Put", "in/a.txt")
    assert not rule.takes("ObjectCreated:Put", "a.csv")
    every, bus = rules_of({"QueueConfigurations": [queue(["s3:ObjectRemoved:*"])], "EventBridgeConfiguration": {}})
    assert every.takes("ObjectRemoved:Delete", "x")
    assert not every.takes("ObjectCreated:Put", "x")
    assert bus.takes("ObjectCreated:Copy", "x")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        (queue(["s3:ObjectCreated:*"]), queue(["s3:ObjectCreated:Put"], "in/"), True),
        (queue(["s3:ObjectCreated:*"], "in/"), queue(["s3:ObjectCreated:*"], "out/"), False),
        (queue(["s3:ObjectCreated:*"], "in/", ".a"), queue(["s3:ObjectCreated:*"], "in/", ".b"), False),
        (queue(["s3:ObjectCreated:*"]), queue(["s3:ObjectRemoved:*"]), False),
        (queue(["s3:ObjectCreated:Put"]), queue(["s3:ObjectCreated:Copy"]), False),
    ],
)
def test_configurations_that_overlap_are_refused(one: Any, other: Any, overlap: bool) -> None:
    configuration = {"QueueConfigurations": [one, other]}
    if overlap:
        with pytest.raises(Invalid, match="overlap"):
            rules_of(configuration)
    else:
        assert len(rules_of(configuration)) == 2


def test_events_that_do_not_happen_here_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="s3:ObjectRestore"):
        rules_of({"QueueConfigurations": [queue(["s3:ObjectRestore:*"])]})


def test_a_record_says_what_aws_says() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    told = ObjectEvent(255, "ObjectCreated:Put", "b", "us-east-1", "a b+ü/c", 5, "etag", at)
    (one,) = record(told, "id", "123456789012")["Records"]
    assert (one["eventVersion"], one["eventSource"], one["eventTime"]) == ("2.1", "aws:s3", "2026-01-02T03:04:05.678Z")
    assert one["s3"]["object"] == {"key": "a+b%2B%C3%BC/c", "size": 5, "eTag": "etag", "sequencer": f"{255:016X}"}
    assert one["s3"]["bucket"]["arn"] == "arn:aws:s3:::b"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, {"a", "b"}),
        ({}, {"a", "b"}),
        ({"batchItemFailures": []}, {"a", "b"}),
        ({"batchItemFailures": [{"itemIdentifier": "a"}]}, {"b"}),
        ({"batchItemFailures": [{"itemIdentifier": "c"}]}, set()),
        ({"batchItemFailures": [{}]}, set()),
        ({"batchItemFailures": "a"}, set()),
        ("done", set()),
    ],
)
def test_a_batch_is_done_but_for_what_the_function_names(answer: Any, expected: set[str]) -> None:
    assert done(["a", "b"], json.dumps(answer).encode(), True) == expected
    assert done(["a", "b"], json.dumps(answer).encode(), False) == {"a", "b"}


def test_endpoint_states_are_in_upper_case() -> None:
    assert [upper(word) for word in ("InService", "RollingBack", "Failed")] == ["IN_SERVICE", "ROLLING_BACK", "FAILED"]
