"""The `events` service: rules of the default bus with their targets, and events that are put.

Whoever puts a target must be allowed to do himself what the rule will: invoke the function, send to the queue, publish
to the topic. Buses other than the default one, archives and API destinations are refused by name.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain import event_pattern, schedules
from clary.domain.errors import ClaryError, Invalid, LimitExceeded, NotFound, Unsupported
from clary.domain.event_target import BUS, MAX_TARGETS, Target, check_target, event, rule_arn
from clary.services.base import Context, Handler, Members, common_error, page_position, page_token, present
from clary.services.rights import Keyring, authorize_letters, authorize_target, passed_on
from clary.store.bus import RULE, Bus
from clary.store.codec import decode, encode
from clary.store.resources import Query, Record, Resources
from clary.wire.errors import WireError

PAGE = 100
MAX_ENTRIES = 10
MAX_EVENT_BYTES = 1_048_576  # of all entries of one PutEvents
# Members of a target that would change what it does, and that nothing here does.
REFUSED_OF_TARGET = (
    "KinesisParameters", "RunCommandParameters", "EcsParameters", "BatchParameters", "SqsParameters", "HttpParameters",
    "RedshiftDataParameters", "SageMakerPipelineParameters", "AppSyncParameters",
)  # fmt: skip


class Events:
    """See the module."""

    name = "events"

    def __init__(self, resources: Resources, bus: Bus, keyring: Keyring, now: Callable[[], datetime]) -> None:
        self._resources = resources
        self._bus = bus
        self._keyring = keyring
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "PutRule": self.put_rule,
            "DescribeRule": self.describe_rule,
            "ListRules": self.list_rules,
            "EnableRule": self.enable_rule,
            "DisableRule": self.disable_rule,
            "DeleteRule": self.delete_rule,
            "PutTargets": self.put_targets,
            "RemoveTargets": self.remove_targets,
            "ListTargetsByRule": self.list_targets_by_rule,
            "ListRuleNamesByTarget": self.list_rule_names_by_target,
            "PutEvents": self.put_events,
            "TestEventPattern": self.test_event_pattern,
            "TagResource": self.tag_resource,
            "UntagResource": self.untag_resource,
            "ListTagsForResource": self.list_tags_for_resource,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound():
                return WireError(
                    "ResourceNotFoundException", 400, f"Rule {error.name} does not exist on EventBus default."
                )
            case LimitExceeded():
                return WireError("LimitExceededException", 400, str(error))
            case Unsupported():
                return WireError("ValidationException", 400, str(error))
            case Invalid(why=why, rule=rule):
                return WireError(rule or "ValidationException", 400, why)
            case _:
                return common_error(error)

    # -- rules -----------------------------------------------------------------------------------

    async def put_rule(self, context: Context, request: Members) -> Members:
        _only_default(request)
        name, pattern, schedule = (
            request["Name"],
            request.get("EventPattern", ""),
            request.get("ScheduleExpression", ""),
        )
        arn = rule_arn(context.place, name)
        context.authorize("events:PutRule", arn)
        if not pattern and not schedule:
            raise Invalid("EventPattern", "Parameter(s) EventPattern or ScheduleExpression must be specified.")
        if pattern:
            event_pattern.check(pattern)
        if schedule:
            if schedule.startswith("at("):
                raise Invalid("ScheduleExpression", "Parameter ScheduleExpression is not valid.")
            schedules.parse(schedule)
        if request.get("State") == "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS":
            raise Unsupported("CloudTrail's management events", "there is no CloudTrail; use ENABLED")
        asked = {
            "pattern": pattern,
            "schedule": schedule,
            "state": request.get("State", "ENABLED"),
            "description": request.get("Description", ""),
            "role_arn": request.get("RoleArn", ""),
            "start": self._now().isoformat(),
            **passed_on(context, self._keyring),
        }

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            same = held.desired["schedule"] == schedule
            start = held.desired["start"] if same else asked["start"]  # a rate goes on from where it began
            return {**held.desired, **asked, "start": start}

        if await self._resources.find(RULE, context.place, name) is None:
            desired = {**asked, "targets": []}
            tags = request.get("Tags", ())
            await self._resources.create(
                RULE, context.place, name, desired, created_by=context.caller.arn, token=context.token, tags_of_it=tags
            )
        else:
            await self._resources.change(RULE, context.place, name, decide)
        return {"RuleArn": arn}

    async def describe_rule(self, context: Context, request: Members) -> Members:
        record = await self._rule(context, "DescribeRule", request, "Name")
        return {**_described(record), "CreatedBy": record.place.account}

    async def list_rules(self, context: Context, request: Members) -> Members:
        _only_default(request)
        context.authorize("events:ListRules", "*")
        prefix = request.get("NamePrefix", "")
        records, following = await self._page(context, request, lambda record: record.name.startswith(prefix))
        return present(Rules=[_described(record) for record in records], NextToken=page_token(following))

    async def enable_rule(self, context: Context, request: Members) -> Members:
        return await self._switch(await self._rule(context, "EnableRule", request, "Name"), "ENABLED")

    async def disable_rule(self, context: Context, request: Members) -> Members:
        return await self._switch(await self._rule(context, "DisableRule", request, "Name"), "DISABLED")

    async def _switch(self, record: Record, state: str) -> Members:
        start = self._now().isoformat()

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any] | None:
            if held.desired["state"] == state:
                return None
            # What fell due while it was off is not made up for.
            return {**held.desired, "state": state, "start": start if state == "ENABLED" else held.desired["start"]}

        await self._resources.change(RULE, record.place, record.name, decide)
        return {}

    async def delete_rule(self, context: Context, request: Members) -> Members:
        _only_default(request)
        context.authorize("events:DeleteRule", rule_arn(context.place, request["Name"]))
        record = await self._resources.find(RULE, context.place, request["Name"])
        if record is None:
            return {}  # idempotent, as on AWS
        if record.desired["targets"]:
            raise Invalid("Name", "Rule can't be deleted since it has targets.")
        await self._resources.remove(RULE, record.place, record.name)
        return {}

    # -- targets ---------------------------------------------------------------------------------

    async def put_targets(self, context: Context, request: Members) -> Members:
        record = await self._rule(context, "PutTargets", request, "Rule")
        targets = [_target(one) for one in request["Targets"]]
        for target in targets:
            check_target(target)
            authorize_target(context, target.arn)
            authorize_letters(context, target.dead_letter_arn)

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            kept = {one["id"]: one for one in held.desired["targets"]}
            kept |= {target.id: encode(target) for target in targets}
            if len(kept) > MAX_TARGETS:
                raise LimitExceeded("targets of a rule", maximum=MAX_TARGETS, asked=len(kept))
            return {**held.desired, "targets": list(kept.values()), **passed_on(context, self._keyring)}

        await self._resources.change(RULE, record.place, record.name, decide)
        return {"FailedEntryCount": 0, "FailedEntries": []}

    async def remove_targets(self, context: Context, request: Members) -> Members:
        record = await self._rule(context, "RemoveTargets", request, "Rule")

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            left = [one for one in held.desired["targets"] if one["id"] not in request["Ids"]]
            return {**held.desired, "targets": left}

        await self._resources.change(RULE, record.place, record.name, decide)
        return {"FailedEntryCount": 0, "FailedEntries": []}

    async def list_targets_by_rule(self, context: Context, request: Members) -> Members:
        record = await self._rule(context, "ListTargetsByRule", request, "Rule")
        return {"Targets": [_shown(decode(Target, one)) for one in record.desired["targets"]]}

    async def list_rule_names_by_target(self, context: Context, request: Members) -> Members:
        _only_default(request)
        context.authorize("events:ListRuleNamesByTarget", "*")
        arn = request["TargetArn"]
        records, following = await self._page(
            context, request, lambda record: any(one["arn"] == arn for one in record.desired["targets"])
        )
        return present(RuleNames=[record.name for record in records], NextToken=page_token(following))

    # -- events ----------------------------------------------------------------------------------

    async def put_events(self, context: Context, request: Members) -> Members:
        entries = request["Entries"]
        if len(entries) > MAX_ENTRIES:
            raise Invalid("Entries", f"{len(entries)} entries came; a PutEvents takes {MAX_ENTRIES}.")
        if request.get("EndpointId"):
            raise Unsupported("EndpointId", "there are no global endpoints")
        size = sum(len(entry.get("Detail", "")) + len(entry.get("Source", "")) for entry in entries)
        if size > MAX_EVENT_BYTES:
            raise Invalid(
                "Entries", f"Total size of the entries in the request is over the limit of {MAX_EVENT_BYTES}."
            )
        answers, events = [], []
        for entry in entries:
            _only_default(entry)
            context.authorize("events:PutEvents", f"arn:aws:events:{context.place.region}:*:event-bus/{BUS}")
            problem = _entry_problem(entry)
            if problem:
                answers.append({"ErrorCode": problem[0], "ErrorMessage": problem[1]})
                continue
            told = self._event(context, entry)
            events.append(told)
            answers.append({"EventId": told["id"]})
        if events:
            await self._bus.put_all(context.place, events)
        return {"FailedEntryCount": sum(1 for one in answers if "ErrorCode" in one), "Entries": answers}

    def _event(self, context: Context, entry: Members) -> dict[str, Any]:
        at = entry.get("Time") or self._now()
        resources = tuple(entry.get("Resources", ()))
        detail = json.loads(entry["Detail"])
        return event(str(uuid.uuid4()), entry["Source"], entry["DetailType"], context.place, at, detail, resources)

    async def test_event_pattern(self, context: Context, request: Members) -> Members:
        context.authorize("events:TestEventPattern", "*")
        pattern = event_pattern.check(request["EventPattern"])
        try:
            told = json.loads(request["Event"])
        except ValueError as error:
            raise Invalid("Event", f"Parameter Event is not valid: {error}") from error
        return {"Result": event_pattern.matches(pattern, told)}

    # -- tags ------------------------------------------------------------------------------------

    async def tag_resource(self, context: Context, request: Members) -> Members:
        record = await self._tagged(context, "TagResource", request)
        await self._resources.add_tags(record.place.arn(RULE, record.name), request["Tags"])
        return {}

    async def untag_resource(self, context: Context, request: Members) -> Members:
        record = await self._tagged(context, "UntagResource", request)
        await self._resources.delete_tags(record.place.arn(RULE, record.name), request["TagKeys"])
        return {}

    async def list_tags_for_resource(self, context: Context, request: Members) -> Members:
        record = await self._tagged(context, "ListTagsForResource", request)
        held = await self._resources.tags(record.place.arn(RULE, record.name))
        return {"Tags": [{"Key": key, "Value": value} for key, value in held.items()]}

    async def _tagged(self, context: Context, action: str, request: Members) -> Record:
        name = request["ResourceARN"].partition(":rule/")[2]
        return await self._rule(context, action, {"Name": name}, "Name")

    # -- small steps -----------------------------------------------------------------------------

    async def _rule(self, context: Context, action: str, request: Members, member: str) -> Record:
        _only_default(request)
        context.authorize(f"events:{action}", rule_arn(context.place, request[member]))
        record = await self._resources.find(RULE, context.place, request[member])
        if record is None:
            raise NotFound(RULE, request[member])
        return record

    async def _page(
        self, context: Context, request: Members, keep: Callable[[Record], bool]
    ) -> tuple[list[Record], list[Any] | None]:
        query = Query(sort_by="Name", descending=False)
        position = page_position(request.get("NextToken"))
        return await self._resources.list(RULE, context.place, query, request.get("Limit", PAGE), position, keep=keep)


def _only_default(request: Members) -> None:
    name = request.get("EventBusName") or BUS
    if name.rpartition("/")[2] != BUS:
        raise Unsupported(f"the event bus {name}", f"there is one bus, {BUS}")


def _target(one: Members) -> Target:
    """Raises: Unsupported."""
    for member in REFUSED_OF_TARGET:
        if one.get(member):
            raise Unsupported(member, "targets are functions, queues and topics")
    transformer = one.get("InputTransformer", {})
    retry = one.get("RetryPolicy", {})
    return Target(
        id=one["Id"],
        arn=one["Arn"],
        input=one.get("Input"),
        input_path=one.get("InputPath", ""),
        template=transformer.get("InputTemplate", ""),
        paths=dict(transformer.get("InputPathsMap", {})),
        dead_letter_arn=one.get("DeadLetterConfig", {}).get("Arn", ""),
        retries=retry.get("MaximumRetryAttempts", 185),
        max_age_s=retry.get("MaximumEventAgeInSeconds", 86_400),
        role_arn=one.get("RoleArn", ""),
    )


def _shown(target: Target) -> Members:
    transformer = present(InputPathsMap=target.paths or None, InputTemplate=target.template)
    return present(
        Id=target.id,
        Arn=target.arn,
        RoleArn=target.role_arn or None,
        Input=target.input,
        InputPath=target.input_path or None,
        InputTransformer=transformer if target.template else None,
        DeadLetterConfig={"Arn": target.dead_letter_arn} if target.dead_letter_arn else None,
        RetryPolicy={"MaximumRetryAttempts": target.retries, "MaximumEventAgeInSeconds": target.max_age_s},
    )


def _described(record: Record) -> Members:
    desired = record.desired
    return present(
        Name=record.name,
        Arn=rule_arn(record.place, record.name),
        EventPattern=desired["pattern"] or None,
        ScheduleExpression=desired["schedule"] or None,
        State=desired["state"],
        Description=desired["description"] or None,
        RoleArn=desired["role_arn"] or None,
        EventBusName=BUS,
    )


def _entry_problem(entry: Members) -> tuple[str, str] | None:
    """Why an entry is not taken, as PutEvents tells it; None for a good one."""
    for member in ("Source", "DetailType", "Detail"):
        if not entry.get(member):
            return "InvalidArgument", f"Parameter {member} is not valid. Reason: {member} is a required argument."
    if entry["Source"].startswith("aws."):
        return "NotAuthorizedForSourceException", "Not authorized for the source."
    try:
        good = isinstance(json.loads(entry["Detail"]), dict)
    except ValueError:
        good = False
    return None if good else ("MalformedDetail", "Detail is malformed.")
