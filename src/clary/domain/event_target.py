"""Events of the bus and what a rule's target gets of one. Pure.

Source: EventBridge user guide, "Input transformation"; the event's members are those of "Event structure".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import Place, partition

MAX_TARGETS = 5  # of one rule (EventBridge quotas)
BUS = "default"
SERVED = ("lambda", "sqs", "sns")
CREATE_TRANSFORM_JOB = "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob"
_PATH = re.compile(r"\$((\.[A-Za-z0-9_-]+|\[\d+\])*)")
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")
_PLACE = re.compile(r"<([A-Za-z0-9_.-]+)>")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an event goes, and what of it. At most one of the three inputs is there."""

    id: str
    arn: str
    input: str | None = None
    input_path: str = ""
    template: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    dead_letter_arn: str = ""
    retries: int = 185  # MaximumRetryAttempts
    max_age_s: int = 86_400  # MaximumEventAgeInSeconds
    role_arn: str = ""


def rule_arn(place: Place, name: str) -> str:
    return f"arn:{partition(place.region)}:events:{place.region}:{place.account}:rule/{name}"


def schedule_arn(place: Place, name: str, group: str = "default") -> str:
    return f"arn:{partition(place.region)}:scheduler:{place.region}:{place.account}:schedule/{group}/{name}"


def check_target(target: Target) -> None:
    """Raises: Invalid, Unsupported."""
    parts = target.arn.split(":")
    if len(parts) < 6 or parts[0] != "arn":
        raise Invalid("Arn", f"Provided Arn is not in correct format. Provided Arn: {target.arn}")
    if parts[2] not in SERVED:
        raise Unsupported(f"a target of {parts[2]}", f"targets are {', '.join(SERVED)}")
    given = [name for name, value in (("Input", target.input), ("InputPath", target.input_path or None)) if value]
    if target.template:
        given.append("InputTransformer")
    if len(given) > 1:
        raise Invalid("Target", f"Only one of Input, InputPath, or InputTransformer must be provided for {target.id}.")
    if target.input is not None and target.input:
        try:
            json.loads(target.input)
        except ValueError as error:
            raise Invalid("Input", f"JSON syntax error in input for target {target.id} : {error}") from error
    for path in (target.input_path, *target.paths.values()):
        if path and _PATH.fullmatch(path) is None:
            raise Invalid("InputPath", f"Invalid JSON path {path} for target {target.id}: it is $.name.name[0]")


def event(
    event_id: str, source: str, detail_type: str, place: Place, at: datetime, detail: Any, resources: tuple[str, ...]
) -> dict[str, Any]:
    """An event as rules match it and targets get it."""
    return {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": source,
        "account": place.account,
        "time": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": place.region,
        "resources": list(resources),
        "detail": detail,
    }


def scheduled_input(text: str, due: datetime, arn: str, execution_id: str) -> str:
    """A schedule's input with its context attributes filled in (Scheduler user guide, "Adding context attributes")."""
    words = {
        "<aws.scheduler.scheduled-time>": due.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "<aws.scheduler.schedule-arn>": arn,
        "<aws.scheduler.execution-id>": execution_id,
        "<aws.scheduler.attempt-number>": "1",
    }
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def body_of(target: Target, told: Mapping[str, Any], rule: str) -> str:
    """What the target gets of an event, as text. `rule` is the rule's ARN."""
    if target.input:
        return target.input
    if target.input_path and target.input_path != "$":
        return json.dumps(_at(told, target.input_path))
    if target.template:
        return _filled(target, told, rule)
    return json.dumps(told)


def _at(value: Any, path: str) -> Any:
    """What lies at a JSON path; None where there is nothing."""
    for name, index in _STEP.findall(path):
        if name and isinstance(value, dict):
            value = value.get(name)
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return None
    return value


def _filled(target: Target, told: Mapping[str, Any], rule: str) -> str:
    """The template with its variables: bare inside quotes, as JSON elsewhere."""
    known: dict[str, Any] = {
        "aws.events.rule-arn": rule,
        "aws.events.rule-name": rule.rpartition("/")[2],
        "aws.events.event.ingestion-time": told["time"],
        "aws.events.event": dict(told),
        "aws.events.event.json": dict(told),
    }
    known |= {name: _at(told, path) for name, path in target.paths.items()}
    template = target.template
    inside, out, last = False, [], 0
    for found in _PLACE.finditer(template):
        before = template[last : found.start()]
        inside ^= len(re.findall(r'(?<!\\)"', before)) % 2 == 1
        out.append(before)
        last = found.end()
        if found[1] not in known:
            out.append(found[0])
            continue
        value = known[found[1]]
        if inside:
            text = value if isinstance(value, str) else json.dumps(value)
            out.append(json.dumps(text)[1:-1])
        else:
            out.append(json.dumps(value))
    return "".join(out) + template[last:]
