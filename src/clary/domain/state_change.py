"""The details of SageMaker's state-change events. Pure.

Source: SageMaker developer guide, "Amazon SageMaker AI events that Amazon EventBridge sends": a transform job's detail
has the members of DescribeTransformJob with times in milliseconds, an endpoint's status is in upper case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


def upper(status: str) -> str:
    """InService -> IN_SERVICE."""
    return _WORD.sub("_", status).upper()


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def transform_job_detail(
    name: str,
    arn: str,
    status: str,
    desired: Mapping[str, Any],
    observed: Mapping[str, Any],
    created_at: datetime,
) -> dict[str, Any]:
    """`desired` and `observed` as they are stored."""
    told: dict[str, Any] = {
        "TransformJobName": name,
        "TransformJobArn": arn,
        "TransformJobStatus": status,
        **desired.get("request", {}),
        "CreationTime": milliseconds(created_at),
    }
    for member, field in (("TransformStartTime", "started_at"), ("TransformEndTime", "ended_at")):
        if observed.get(field):
            told[member] = milliseconds(datetime.fromisoformat(observed[field]))
    if observed.get("failure_reason"):
        told["FailureReason"] = observed["failure_reason"]
    return told


def endpoint_detail(
    name: str, arn: str, status: str, desired: Mapping[str, Any], created_at: datetime, at: datetime
) -> dict[str, Any]:
    """`desired` as it is stored; `at` is when it came to be so."""
    return {
        "EndpointName": name,
        "EndpointArn": arn,
        "EndpointConfigName": desired["target"]["config_name"],
        "EndpointStatus": upper(status),
        "CreationTime": milliseconds(created_at),
        "LastModifiedTime": milliseconds(at),
        "Tags": {},
    }
