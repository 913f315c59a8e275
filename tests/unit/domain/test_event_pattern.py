"""Which events a pattern takes: the operators one by one, nesting, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clary.domain.errors import Invalid, Unsupported
from clary.domain.event_pattern import check, matches
from clary.domain.event_target import Target, body_of

EVENT = {
    "source": "aws.sagemaker",
    "detail-type": "SageMaker Transform Job State Change",
    "resources": ["arn:a", "arn:b"],
    "detail": {
        "TransformJobName": "Nightly-1",
        "TransformJobStatus": "Completed",
        "TransformResources": {"InstanceCount": 2},
        "Flag": True,
        "Nothing": None,
        "Records": [{"id": 1}, {"id": 7}],
    },
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"source": ["aws.sagemaker"]}, True),
        ({"source": ["aws.s3", "aws.sagemaker"]}, True),
        ({"source": ["aws.s3"]}, False),
        ({"resources": ["arn:b"]}, True),
        ({"detail": {"TransformJobStatus": ["Completed", "Failed"]}}, True),
        ({"source": ["aws.sagemaker"], "detail": {"TransformJobStatus": ["Failed"]}}, False),
        ({"detail": {"TransformJobName": [{"prefix": "Night"}]}}, True),
        ({"detail": {"TransformJobName": [{"prefix": "night"}]}}, False),
        ({"detail": {"TransformJobName": [{"prefix": {"equals-ignore-case": "night"}}]}}, True),
        ({"detail": {"TransformJobName": [{"suffix": "-1"}]}}, True),
        ({"detail": {"TransformJobName": [{"equals-ignore-case": "nightly-1"}]}}, True),
        ({"detail": {"TransformJobStatus": [{"anything-but": "Failed"}]}}, True),
        ({"detail": {"TransformJobStatus": [{"anything-but": ["Failed", "Completed"]}]}}, False),
        ({"detail": {"TransformJobName": [{"anything-but": {"prefix": "Night"}}]}}, False),
        ({"detail": {"Missing": [{"anything-but": "x"}]}}, False),
        ({"detail": {"TransformResources": {"InstanceCount": [{"numeric": [">", 1, "<=", 2]}]}}}, True),
        ({"detail": {"TransformResources": {"InstanceCount": [{"numeric": ["=", 3]}]}}}, False),
        ({"detail": {"TransformResources": {"InstanceCount": [2.0]}}}, True),
        ({"detail": {"FailureReason": [{"exists": False}]}}, True),
        ({"detail": {"TransformJobName": [{"exists": True}]}}, True),
        ({"detail": {"TransformJobName": [{"exists": False}]}}, False),
        ({"detail": {"Deep": {"Deeper": [{"exists": False}]}}}, True),
        ({"detail": {"Flag": [True]}}, True),
        ({"detail": {"Flag": [1]}}, False),
        ({"detail": {"Flag": ["true"]}}, False),
        ({"detail": {"Nothing": [None]}}, True),
        ({"detail": {"Records": {"id": [7]}}}, True),
        ({"detail": {"Records": {"id": [8]}}}, False),
    ],
)
def test_patterns(pattern: dict[str, Any], expected: bool) -> None:
    assert matches(check(json.dumps(pattern)), EVENT) is expected


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        "{}",
        '{"source": "aws"}',
        '{"source": []}',
        '{"source": [{"numeric": [">"]}]}',
        '{"source": [{"numeric": ["~", 1]}]}',
        '{"source": [{"exists": "yes"}]}',
        '{"source": [{"like": "x"}]}',
        '{"source": [{"prefix": "a", "suffix": "b"}]}',
        '{"source": [["x"]]}',
        '{"detail": {}}',
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        check(text)
    assert caught.value.rule == "InvalidEventPatternException"


@pytest.mark.parametrize("text", ['{"a": [{"wildcard": "x*"}]}', '{"$or": [{"a": ["b"]}]}', '{"a": [{"cidr": "x"}]}'])
def test_operators_that_are_not_served_are_named(text: str) -> None:
    with pytest.raises(Unsupported):
        check(text)


TOLD = {"time": "2026-01-01T00:00:00Z", "id": "x", "detail": {"name": 'a "b"', "n": [1, {"m": 2}]}}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("1", "arn"), json.dumps(TOLD)),
        (Target("1", "arn", input='{"a": 1}'), '{"a": 1}'),
        (Target("1", "arn", input_path="$.detail.n[1]"), '{"m": 2}'),
        (Target("1", "arn", input_path="$.detail.none"), "null"),
        (
            Target(
                "1",
                "arn",
                template='{"who": "is <name>", "n": <n>, "x": <other>}',
                paths={"name": "$.detail.name", "n": "$.detail.n"},
            ),
            '{"who": "is a \\"b\\"", "n": [1, {"m": 2}], "x": <other>}',
        ),
        (
            Target("1", "arn", template='"<aws.events.rule-name> at <t>"', paths={"t": "$.time"}),
            '"r at 2026-01-01T00:00:00Z"',
        ),
    ],
)
def test_what_a_target_gets(target: Target, expected: str) -> None:
    assert body_of(target, TOLD, "arn:aws:events:us-east-1:1:rule/r") == expected
