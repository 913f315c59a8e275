"""The `scheduler` service: schedules with a time zone for functions, queues, topics, or CreateTransformJob itself (a
universal target), so that a schedule starts a batch job without any function.

One group, "default", and no flexible time windows; others are refused by name. Whoever makes a schedule passes its role
on, and must be allowed to do himself what a templated target does.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection

from clary.domain import schedules
from clary.domain.errors import AlreadyExists, ClaryError, Invalid, LimitExceeded, NotFound, Unsupported
from clary.domain.event_target import CREATE_TRANSFORM_JOB, SERVED, Target, schedule_arn, scheduled_input
from clary.services.base import Context, Handler, Members, common_error, page_position, page_token, present
from clary.services.rights import Keyring, authorize_letters, authorize_target, passed_on
from clary.store.bus import SCHEDULE
from clary.store.codec import decode, encode
from clary.store.resources import Query, Record, Resources
from clary.wire.errors import WireError

GROUP = "default"
PAGE = 100
REFUSED_OF_TARGET = (
    "EcsParameters", "EventBridgeParameters", "KinesisParameters", "SageMakerPipelineParameters", "SqsParameters",
)  # fmt: skip

# Whether the members of a universal target's call are such; raises Invalid.
CheckInput = Callable[[Mapping[str, Any]], None]


class Scheduler:
    """See the module."""

    name = "scheduler"

    def __init__(
        self, resources: Resources, keyring: Keyring, check_input: CheckInput, now: Callable[[], datetime]
    ) -> None:
        self._resources = resources
        self._keyring = keyring
        self._check_input = check_input
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "CreateSchedule": self.create_schedule,
            "GetSchedule": self.get_schedule,
            "ListSchedules": self.list_schedules,
            "UpdateSchedule": self.update_schedule,
            "DeleteSchedule": self.delete_schedule,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound():
                return WireError("ResourceNotFoundException", 404, f"Schedule {error.name} does not exist.")
            case AlreadyExists():
                name = error.name.rpartition("/")[2]
                return WireError("ConflictException", 409, f"Schedule {name} already exists.")
            case LimitExceeded():
                return WireError("ServiceQuotaExceededException", 402, str(error))
            case Unsupported():
                return WireError("ValidationException", 400, str(error))
            case Invalid(why=why):
                return WireError("ValidationException", 400, why)
            case _:
                return common_error(error)

    async def create_schedule(self, context: Context, request: Members) -> Members:
        arn = self._admit(context, "CreateSchedule", request)
        record = await self._resources.create(
            SCHEDULE,
            context.place,
            request["Name"],
            self._desired(context, request, arn),
            created_by=context.caller.arn,
            token=request.get("ClientToken") or context.token,
        )
        return {"ScheduleArn": record.desired["arn"]}

    async def update_schedule(self, context: Context, request: Members) -> Members:
        arn = self._admit(context, "UpdateSchedule", request)
        asked = self._desired(context, request, arn)

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            same = all(held.desired[name] == asked[name] for name in ("schedule", "zone", "state", "asked_start"))
            return {**asked, "start": held.desired["start"] if same else asked["start"]}

        await self._existing(context, request)
        await self._resources.change(SCHEDULE, context.place, request["Name"], decide)
        return {"ScheduleArn": arn}

    async def get_schedule(self, context: Context, request: Members) -> Members:
        self._admit(context, "GetSchedule", request)
        return _described(await self._existing(context, request))

    async def list_schedules(self, context: Context, request: Members) -> Members:
        _only_default(request)
        context.authorize("scheduler:ListSchedules", schedule_arn(context.place, "*", "*"))
        prefix, state = request.get("NamePrefix", ""), request.get("State")
        records, following = await self._resources.list(
            SCHEDULE,
            context.place,
            Query(sort_by="Name", descending=False),
            request.get("MaxResults", PAGE),
            page_position(request.get("NextToken")),
            keep=lambda record: record.name.startswith(prefix) and state in (None, record.desired["state"]),
        )
        return present(Schedules=[_listed(record) for record in records], NextToken=page_token(following))

    async def delete_schedule(self, context: Context, request: Members) -> Members:
        self._admit(context, "DeleteSchedule", request)
        record = await self._existing(context, request)
        await self._resources.remove(SCHEDULE, record.place, record.name)
        return {}

    # -- a request, checked ----------------------------------------------------------------------

    def _admit(self, context: Context, action: str, request: Members) -> str:
        _only_default(request)
        arn = schedule_arn(context.place, request["Name"])
        context.authorize(f"scheduler:{action}", arn)
        return arn

    async def _existing(self, context: Context, request: Members) -> Record:
        record = await self._resources.find(SCHEDULE, context.place, request["Name"])
        if record is None:
            raise NotFound(SCHEDULE, request["Name"])
        return record

    def _desired(self, context: Context, request: Members, arn: str) -> dict[str, Any]:
        if request["FlexibleTimeWindow"]["Mode"] != "OFF":
            raise Unsupported("a flexible time window", "schedules fire at their time; give Mode OFF")
        if request.get("KmsKeyArn"):
            raise Unsupported("KmsKeyArn", "nothing is encrypted with KMS keys here")
        schedules.parse(request["ScheduleExpression"], at_start=True)
        zone = request.get("ScheduleExpressionTimezone", "UTC")
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise Invalid("ScheduleExpressionTimezone", f"Invalid time zone {zone}: it is an IANA name.") from error
        now, start, end = self._now(), request.get("StartDate"), request.get("EndDate")
        if end is not None and end <= max(start or now, now):
            raise Invalid("EndDate", "The EndDate you specify must be in the future and after StartDate.")
        target = self._target(context, request["Target"])
        context.authorize("iam:PassRole", target.role_arn)
        return {
            "arn": arn,
            "schedule": request["ScheduleExpression"],
            "zone": zone,
            "state": request.get("State", "ENABLED"),
            "description": request.get("Description", ""),
            "asked_start": start.isoformat() if start else "",
            "start": max(start or now, now).astimezone(UTC).isoformat(),
            "end": end.astimezone(UTC).isoformat() if end else "",
            "target": encode(target),
            "delete_after": request.get("ActionAfterCompletion", "NONE") == "DELETE",
            **passed_on(context, self._keyring),
        }

    def _target(self, context: Context, one: Members) -> Target:
        for member in REFUSED_OF_TARGET:
            if one.get(member):
                raise Unsupported(member, "targets are functions, queues, topics and sagemaker:createTransformJob")
        retry = one.get("RetryPolicy", {})
        target = Target(
            id="target",
            arn=one["Arn"],
            input=one.get("Input"),
            dead_letter_arn=one.get("DeadLetterConfig", {}).get("Arn", ""),
            retries=retry.get("MaximumRetryAttempts", 185),
            max_age_s=retry.get("MaximumEventAgeInSeconds", 86_400),
            role_arn=one["RoleArn"],
        )
        authorize_letters(context, target.dead_letter_arn)
        if target.arn == CREATE_TRANSFORM_JOB:
            self._check_members(context, target)
            return target
        service = [*target.arn.split(":"), "", "", ""][2]
        if service not in SERVED:
            raise Unsupported(
                f"the target {target.arn}", f"targets are {', '.join(SERVED)} by ARN and {CREATE_TRANSFORM_JOB}"
            )
        authorize_target(context, target.arn)
        if service == "lambda" and target.input:
            _json(target.input)
        return target

    def _check_members(self, context: Context, target: Target) -> None:
        """As they will be at a firing."""
        arn = schedule_arn(context.place, "name")
        members = _json(scheduled_input(target.input or "{}", self._now(), arn, str(uuid.UUID(int=0))))
        if not isinstance(members, dict):
            raise Invalid("Input", "Input must be a JSON object with the members of CreateTransformJob.")
        self._check_input(members)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Invalid("Input", f"Input is not valid JSON: {error}") from error


def _only_default(request: Members) -> None:
    if request.get("GroupName", GROUP) != GROUP:
        raise Unsupported(f"the schedule group {request['GroupName']}", f"there is one group, {GROUP}")


# -- answers --------------------------------------------------------------------------------------


def _described(record: Record) -> Members:
    desired = record.desired
    target = decode(Target, desired["target"])
    return present(
        Arn=desired["arn"],
        Name=record.name,
        GroupName=GROUP,
        ScheduleExpression=desired["schedule"],
        ScheduleExpressionTimezone=desired["zone"],
        State=desired["state"],
        Description=desired["description"] or None,
        StartDate=_time(desired["asked_start"]),
        EndDate=_time(desired["end"]),
        CreationDate=record.created_at,
        LastModificationDate=record.modified_at,
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE" if desired["delete_after"] else "NONE",
        Target=present(
            Arn=target.arn,
            RoleArn=target.role_arn,
            Input=target.input,
            DeadLetterConfig={"Arn": target.dead_letter_arn} if target.dead_letter_arn else None,
            RetryPolicy={"MaximumRetryAttempts": target.retries, "MaximumEventAgeInSeconds": target.max_age_s},
        ),
    )


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _listed(record: Record) -> Members:
    return {
        "Arn": record.desired["arn"],
        "Name": record.name,
        "GroupName": GROUP,
        "State": record.desired["state"],
        "CreationDate": record.created_at,
        "LastModificationDate": record.modified_at,
        "Target": {"Arn": record.desired["target"]["arn"]},
    }
