"""Asynchronous inference: what an endpoint's configuration says, where outcomes go, and what is told of them. Pure.

An accepted invocation has exactly one visible outcome: an output object, or a failure object, under names that were
fixed when it was accepted (behaviour of InvokeEndpointAsync).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEFAULT_TTL_S = 21_600  # RequestTTLSeconds
DEFAULT_TIMEOUT_S = 900  # InvocationTimeoutSeconds
DEFAULT_CONCURRENCY = 4  # MaxConcurrentInvocationsPerInstance; AWS chooses by itself, we say what
ASYNC_MAX_BYTES = 1 << 30  # of an input, and of a response (asynchronous inference guide: 1 GB)
MAX_ATTEMPTS = 3  # of an invocation whose worker died; the model's own errors are outcomes
MAX_INLINE_BYTES = 128_000  # of a request's Body, and of a response inside a notification
SUCCESS_TOPIC = "SUCCESS_NOTIFICATION_TOPIC"
ERROR_TOPIC = "ERROR_NOTIFICATION_TOPIC"


@dataclass(frozen=True, slots=True)
class AsyncConfig:
    """AsyncInferenceConfig. Paths are S3 URIs without a slash at their end."""

    output_path: str
    failure_path: str = ""
    success_topic: str = ""
    error_topic: str = ""
    include_response_in: tuple[str, ...] = ()
    max_concurrent: int = 0  # invocations on one instance; 0: DEFAULT_CONCURRENCY


@dataclass(frozen=True, slots=True)
class Bounds:
    """A scalable target: the instances that a variant may have. 0 at least: it sleeps while its queue is empty."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Invocation:
    """One accepted request, as it waits, with what was in force then. Times: microseconds since the epoch."""

    id: str  # ours, 32 hex digits; what is stored and told under it happens once
    region: str
    endpoint: str
    endpoint_uid: int
    config: AsyncConfig
    inference_id: str
    input_uri: str  # "" when `body` is the input
    content_type: str  # "" when the object's own counts
    accept: str
    custom_attributes: str
    output_uri: str
    failure_uri: str
    received_us: int
    expires_us: int
    timeout_s: int
    attempts: int = 0
    body: bytes = b""


class Outcome(StrEnum):
    """How it ended, in the words of the notification."""

    COMPLETED = "Completed"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome as it is told. `answer` is the response where the notification is to carry it."""

    outcome: Outcome
    content_type: str = ""
    reason: str = ""
    answer: bytes | None = None


def output_uri(path: str, extension: str, file_name: str, inference_id: str) -> str:
    """Where the response goes: PATH/[EXTENSION/]FILENAME, or INFERENCE_ID.out.

    # s3://b/out, "", "", "i-1": s3://b/out/i-1.out
    """
    middle = f"{extension.strip('/')}/" if extension.strip("/") else ""
    return f"{path}/{middle}{file_name or f'{inference_id}.out'}"


def failure_uri(path: str, inference_id: str) -> str:
    """Where a failure goes: PATH/INFERENCE_ID-error.out; nowhere without a path."""
    return f"{path}/{inference_id}-error.out" if path else ""


def notification(invocation: Invocation, told: Told, at: datetime) -> tuple[str, str] | None:
    """(topic ARN, message) of an outcome; None where nobody asked to be told.

    The message is that of the asynchronous inference guide; a response within `MAX_INLINE_BYTES` that is text goes
    along where IncludeInferenceResponseIn names the topic.
    """
    config, done = invocation.config, told.outcome is Outcome.COMPLETED
    topic = config.success_topic if done else config.error_topic
    if not topic:
        return None
    request: dict[str, object] = {"endpointName": invocation.endpoint, "contentType": invocation.content_type}
    if invocation.input_uri:
        request["inputLocation"] = invocation.input_uri
    if invocation.accept:
        request["accept"] = invocation.accept
    if invocation.custom_attributes:
        request["customAttributes"] = invocation.custom_attributes
    body: dict[str, object] = {
        "awsRegion": invocation.region,
        "eventTime": _iso(at),
        "receivedTime": _iso(datetime.fromtimestamp(invocation.received_us / 1e6, at.tzinfo)),
        "invocationStatus": told.outcome.value,
        "requestParameters": request,
        "inferenceId": invocation.inference_id,
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "InferenceResult",
    }
    if done:
        response: dict[str, object] = {"contentType": told.content_type, "outputLocation": invocation.output_uri}
    else:
        body["failureReason"] = told.reason
        response = {"failureLocation": invocation.failure_uri} if invocation.failure_uri else {}
    wanted = SUCCESS_TOPIC if done else ERROR_TOPIC
    if wanted in config.include_response_in and told.answer is not None and len(told.answer) <= MAX_INLINE_BYTES:
        response["body"] = {"content": told.answer.decode("utf-8", errors="replace"), "encoding": "UTF-8"}
    if response:
        body["responseParameters"] = response
    return topic, json.dumps(body)


def worker_concurrency(config: AsyncConfig, processes: int) -> int:
    """Invocations at once on one of an instance's processes, so that the instance never has more than its maximum."""
    return max(1, (config.max_concurrent or DEFAULT_CONCURRENCY) // processes)


def most_processes(config: AsyncConfig, processes: int) -> int:
    """Of an instance's processes, how many run: none that no invocation could be in."""
    return max(1, min(processes, config.max_concurrent or DEFAULT_CONCURRENCY))


def average_backlog(backlog: int, instances: int) -> float:
    """ApproximateBacklogSizePerInstance: with no instance the whole backlog waits for one."""
    return backlog / max(1, instances)


def age_s(received_us: int, now_us: int) -> float:
    """ApproximateAgeOfOldestRequest."""
    return max(0.0, (now_us - received_us) / 1e6)


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
