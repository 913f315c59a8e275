"""Event source mappings of queues; `controllers.source_mappings` polls them. Other sources are refused by name."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from clary.domain.errors import AlreadyExists, Invalid, NotFound, Unsupported
from clary.domain.functions import function_arn
from clary.domain.queues import name_of_arn
from clary.domain.source_mapping import DEFAULT_BATCH, MAPPING, MAX_BATCH, PARTIAL, SourceMapping, mapping_arn
from clary.services.base import Context, Members, page_position, page_token, present
from clary.services.functions.room import Room
from clary.store.codec import decode, encode
from clary.store.resources import Query, Record, Resources
from clary.store.topics import QUEUE

REFUSED = (
    "FilterCriteria", "KMSKeyArn", "MetricsConfig", "LoggingConfig", "ScalingConfig", "MaximumBatchingWindowInSeconds",
    "ParallelizationFactor", "StartingPosition", "StartingPositionTimestamp", "DestinationConfig",
    "MaximumRecordAgeInSeconds", "BisectBatchOnFunctionError", "MaximumRetryAttempts", "TumblingWindowInSeconds",
    "Topics", "Queues", "SourceAccessConfigurations", "SelfManagedEventSource", "AmazonManagedKafkaEventSourceConfig",
    "SelfManagedKafkaEventSourceConfig", "DocumentDBEventSourceConfig", "ProvisionedPollerConfig",
)  # fmt: skip
PAGE = 100


class Mappings(Room):
    """See the module. Whoever makes one must be allowed to receive from the queue and to invoke the function."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.operations = {
            "CreateEventSourceMapping": self.create_event_source_mapping,
            "GetEventSourceMapping": self.get_event_source_mapping,
            "ListEventSourceMappings": self.list_event_source_mappings,
            "UpdateEventSourceMapping": self.update_event_source_mapping,
            "DeleteEventSourceMapping": self.delete_event_source_mapping,
        }

    async def create_event_source_mapping(self, context: Context, request: Members) -> Members:
        context.authorize("lambda:CreateEventSourceMapping", mapping_arn(context.place, "*"))
        _refuse(request)
        function = await self.function(context, "InvokeFunction", request)
        arn = request.get("EventSourceArn", "")
        named = name_of_arn(arn)
        if named is None:
            raise Unsupported(f"the event source {arn or 'that is missing'}", "name the ARN of an SQS queue")
        for action in ("ReceiveMessage", "DeleteMessage"):
            context.authorize(f"sqs:{action}", arn)
        if await self.resources.find(QUEUE, *named) is None:
            raise Invalid("EventSourceArn", f"Error occurred while ReceiveMessage. The queue {arn} does not exist.")
        wanted = _changed(SourceMapping(arn, function_arn(function.place, function.name)), request)
        for record in await self.resources.all(MAPPING):
            held = decode(SourceMapping, record.desired)
            if (held.queue_arn, held.function_arn) == (wanted.queue_arn, wanted.function_arn):
                raise AlreadyExists("event source mapping", record.name)
        made = await self.resources.create(
            MAPPING,
            context.place,
            str(uuid.uuid4()),
            encode(wanted),
            created_by=context.caller.arn,
            tags_of_it=[{"Key": key, "Value": value} for key, value in request.get("Tags", {}).items()],
        )
        return _described(made)

    async def get_event_source_mapping(self, context: Context, request: Members) -> Members:
        return _described(await self._mapping(context, "GetEventSourceMapping", request))

    async def list_event_source_mappings(self, context: Context, request: Members) -> Members:
        context.authorize("lambda:ListEventSourceMappings", "*")
        function = await self.function(context, "GetFunction", request) if request.get("FunctionName") else None
        arn = function_arn(function.place, function.name) if function is not None else None

        def keep(record: Record) -> bool:
            held = decode(SourceMapping, record.desired)
            return arn in (None, held.function_arn) and request.get("EventSourceArn") in (None, held.queue_arn)

        records, following = await self.resources.list(
            MAPPING,
            context.place,
            Query(),
            min(request.get("MaxItems", PAGE), PAGE),
            page_position(request.get("Marker")),
            keep=keep,
        )
        return present(EventSourceMappings=[_described(one) for one in records], NextMarker=page_token(following))

    async def update_event_source_mapping(self, context: Context, request: Members) -> Members:
        record = await self._mapping(context, "UpdateEventSourceMapping", request)
        _refuse(request)
        if request.get("FunctionName"):
            function = await self.function(context, "InvokeFunction", request)
            arn = function_arn(function.place, function.name)
        else:
            arn = decode(SourceMapping, record.desired).function_arn

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any]:
            changed = _changed(replace(decode(SourceMapping, held.desired), function_arn=arn), request)
            found: Mapping[str, Any] = encode(changed)
            return found

        return _described(await self.resources.change(MAPPING, record.place, record.name, decide))

    async def delete_event_source_mapping(self, context: Context, request: Members) -> Members:
        record = await self._mapping(context, "DeleteEventSourceMapping", request)
        await self.resources.remove(MAPPING, record.place, record.name)
        return {**_described(record), "State": "Deleting"}

    async def _mapping(self, context: Context, action: str, request: Members) -> Record:
        context.authorize(f"lambda:{action}", mapping_arn(context.place, request["UUID"]))
        record = await self.resources.find(MAPPING, context.place, request["UUID"])
        if record is None:
            raise NotFound("event source mapping", request["UUID"])
        return record


def _refuse(request: Members) -> None:
    for member in REFUSED:
        if request.get(member):
            raise Unsupported(member, "a mapping takes messages of an SQS queue in batches as they come")


def _changed(held: SourceMapping, request: Members) -> SourceMapping:
    """With the members of a request that are there. Raises: Invalid."""
    batch = request.get("BatchSize", held.batch or DEFAULT_BATCH)
    if batch > MAX_BATCH:
        raise Invalid(
            "BatchSize", f"Maximum batch window must be greater than 0 if batch size is greater than {MAX_BATCH}"
        )
    partial = PARTIAL in request["FunctionResponseTypes"] if "FunctionResponseTypes" in request else held.partial
    return replace(held, batch=batch, enabled=request.get("Enabled", held.enabled), partial=partial)


def _described(record: Record) -> Members:
    held = decode(SourceMapping, record.desired)
    return present(
        UUID=record.name,
        BatchSize=held.batch,
        MaximumBatchingWindowInSeconds=0,
        EventSourceArn=held.queue_arn,
        FunctionArn=held.function_arn,
        LastModified=record.modified_at,
        State="Enabled" if held.enabled else "Disabled",
        StateTransitionReason="USER_INITIATED",
        FunctionResponseTypes=[PARTIAL] if held.partial else [],
        EventSourceMappingArn=mapping_arn(record.place, record.name),
    )
