"""The `sqs` service: standard queues. FIFO queues are refused by name; queue policies are kept and without effect."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection

from clary.domain import queues as rules
from clary.domain.errors import AlreadyExists, ClaryError, Invalid, LimitExceeded, NotFound, Unsupported
from clary.services.base import Context, Handler, Members, common_error, page_position, page_token, present
from clary.store.queues import DeadLetters, Queues, Received, Sent
from clary.store.resources import Query, Record, Resources
from clary.wire.errors import WireError

KIND = "queue"
RULES = {
    "InvalidAttributeName",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "ReceiptHandleIsInvalid",
    "MessageNotInflight",
    "EmptyBatchRequest",
    "TooManyEntriesInBatchRequest",
    "BatchEntryIdsNotDistinct",
    "BatchRequestTooLong",
    "MissingParameter",
}


class Sqs:
    """See the module."""

    name = "sqs"

    def __init__(self, resources: Resources, queues: Queues) -> None:
        self._resources = resources
        self._queues = queues
        self.operations: Mapping[str, Handler] = {
            "CreateQueue": self.create_queue,
            "DeleteQueue": self.delete_queue,
            "GetQueueUrl": self.get_queue_url,
            "ListQueues": self.list_queues,
            "GetQueueAttributes": self.get_queue_attributes,
            "SetQueueAttributes": self.set_queue_attributes,
            "ListDeadLetterSourceQueues": self.list_dead_letter_source_queues,
            "SendMessage": self.send_message,
            "SendMessageBatch": self.send_message_batch,
            "ReceiveMessage": self.receive_message,
            "DeleteMessage": self.delete_message,
            "DeleteMessageBatch": self.delete_message_batch,
            "ChangeMessageVisibility": self.change_message_visibility,
            "ChangeMessageVisibilityBatch": self.change_message_visibility_batch,
            "PurgeQueue": self.purge_queue,
            "TagQueue": self.tag_queue,
            "UntagQueue": self.untag_queue,
            "ListQueueTags": self.list_queue_tags,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound():
                return WireError("QueueDoesNotExist", 400, "The specified queue does not exist.")
            case AlreadyExists():
                text = "A queue already exists with the same name and a different value for an attribute."
                return WireError("QueueNameExists", 400, text)
            case LimitExceeded():
                return WireError("OverLimit", 403, str(error))
            case Unsupported():
                return WireError("UnsupportedOperation", 400, str(error))
            case Invalid(why=why, rule=rule):
                return WireError(rule if rule in RULES else "InvalidParameterValue", 400, why)
            case _:
                return common_error(error, denied="AccessDenied", invalid="InvalidParameterValue")

    # -- queues ----------------------------------------------------------------------------------

    async def create_queue(self, context: Context, request: Members) -> Members:
        name = request["QueueName"]
        asked = request.get("Attributes", {})
        if asked.get("FifoQueue", "false").lower() == "true":
            raise Unsupported("a FIFO queue", rules.REFUSED["FifoQueue"])
        rules.check_name(name)
        context.authorize("sqs:CreateQueue", rules.queue_arn(context.place, name))
        kept = rules.attributes(asked)
        held = await self._resources.find(KIND, context.place, name)
        if held is not None:
            if any(_value(held, key) != value for key, value in kept.items()):
                raise AlreadyExists(KIND, name)
            return {"QueueUrl": _url(context, held.name)}
        tags = [{"Key": key, "Value": value} for key, value in request.get("tags", {}).items()]
        try:
            await self._resources.create(
                KIND, context.place, name, {"attributes": kept}, created_by=context.caller.arn, tags_of_it=tags
            )
        except AlreadyExists:
            return await self.create_queue(context, request)  # somebody made it meanwhile: compared as above
        return {"QueueUrl": _url(context, name)}

    async def delete_queue(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "DeleteQueue", request)
        await self._resources.remove(KIND, context.place, record.name)
        await self._queues.purge(record.uid)
        return {}

    async def get_queue_url(self, context: Context, request: Members) -> Members:
        name = request["QueueName"]
        context.authorize("sqs:GetQueueUrl", rules.queue_arn(context.place, name))
        owner = request.get("QueueOwnerAWSAccountId")
        if owner and owner != context.place.account:
            raise NotFound(KIND, name)
        record = await self._resources.get(KIND, context.place, name)
        return {"QueueUrl": _url(context, record.name)}

    async def list_queues(self, context: Context, request: Members) -> Members:
        context.authorize("sqs:ListQueues", "*")
        prefix = request.get("QueueNamePrefix", "")
        records, following = await self._resources.list(
            KIND,
            context.place,
            Query(sort_by="Name", descending=False),
            request.get("MaxResults", 1000),
            page_position(request.get("NextToken")),
            keep=(lambda record: record.name.startswith(prefix)) if prefix else None,
        )
        urls = [_url(context, record.name) for record in records]
        return present(QueueUrls=urls or None, NextToken=page_token(following))

    async def get_queue_attributes(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "GetQueueAttributes", request)
        wanted = request.get("AttributeNames", ())
        kept = record.desired["attributes"]
        counts = await self._queues.counts(record.uid)
        held = {name: str(rules.number(kept, name)) for name in rules.NUMBERS}
        held |= {name: text for name, text in kept.items() if text}
        held |= {
            "QueueArn": rules.queue_arn(context.place, record.name),
            "ApproximateNumberOfMessages": str(counts.visible),
            "ApproximateNumberOfMessagesNotVisible": str(counts.hidden),
            "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            "CreatedTimestamp": str(int(record.created_at.timestamp())),
            "LastModifiedTimestamp": str(int(record.modified_at.timestamp())),
            "SqsManagedSseEnabled": "false",
        }
        if "All" not in wanted:
            held = {name: text for name, text in held.items() if name in wanted}
        return {"Attributes": held} if held else {}

    async def set_queue_attributes(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "SetQueueAttributes", request)
        asked = rules.attributes(request["Attributes"])
        if dead := rules.redrive(asked):
            await self._dead_letters(context, dead, record)

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any] | None:
            return {"attributes": {**held.desired["attributes"], **asked}}

        await self._resources.change(KIND, context.place, record.name, decide)
        return {}

    async def list_dead_letter_source_queues(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "ListDeadLetterSourceQueues", request)
        arn = rules.queue_arn(context.place, record.name)
        found = []
        for other in await self._resources.all(KIND):
            policy = rules.redrive(other.desired["attributes"])
            if policy is not None and policy.arn == arn:
                found.append(_url(context, other.name))
        return {"queueUrls": found}

    # -- messages --------------------------------------------------------------------------------

    async def send_message(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "SendMessage", request)
        return await self._send(context, record, request)

    async def send_message_batch(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "SendMessage", request)
        return await _batch(request, lambda entry: self._send(context, record, entry))

    async def _send(self, context: Context, record: Record, entry: Members) -> Members:
        kept = record.desired["attributes"]
        given = entry.get("MessageAttributes", {})
        for member in ("MessageGroupId", "MessageDeduplicationId"):
            if entry.get(member):
                raise Invalid(member, f"The request include parameter {member} which is not valid for this queue type")
        rules.check_message(entry["MessageBody"], given, rules.number(kept, "MaximumMessageSize"))
        delay_s = entry.get("DelaySeconds", rules.number(kept, "DelaySeconds"))
        if not 0 <= delay_s <= 900:
            raise Invalid("DelaySeconds", f"Value {delay_s} for parameter DelaySeconds is invalid. Must be 0 to 900.")
        sent = Sent(
            str(uuid.uuid4()), entry["MessageBody"], rules.stored_attributes(given), context.caller.arn, delay_s
        )
        await self._queues.send(record.uid, [sent], rules.number(kept, "MessageRetentionPeriod"))
        return present(
            MessageId=sent.id,
            MD5OfMessageBody=rules.md5_of_body(sent.body),
            MD5OfMessageAttributes=rules.md5_of_attributes(given),
        )

    async def receive_message(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "ReceiveMessage", request)
        kept = record.desired["attributes"]
        count = request.get("MaxNumberOfMessages", 1)
        wait_s = request.get("WaitTimeSeconds", rules.number(kept, "ReceiveMessageWaitTimeSeconds"))
        visibility_s = request.get("VisibilityTimeout", rules.number(kept, "VisibilityTimeout"))
        for name, value, smallest, largest in (
            ("MaxNumberOfMessages", count, 1, 10),
            ("WaitTimeSeconds", wait_s, 0, 20),
            ("VisibilityTimeout", visibility_s, 0, 43_200),
        ):
            if not smallest <= value <= largest:
                raise Invalid(
                    name,
                    f"Value {value} for parameter {name} is invalid. Reason: Must be between {smallest} and {largest}, "
                    "if provided.",
                )
        dead = rules.redrive(kept)
        letters = await self._dead_letters(context, dead, record) if dead else None
        found = await self._queues.receive(record.uid, count, visibility_s, wait_s, letters)
        system = {*request.get("AttributeNames", ()), *request.get("MessageSystemAttributeNames", ())}
        named = request.get("MessageAttributeNames", ())
        return {"Messages": [_message(one, system, named) for one in found]} if found else {}

    async def _dead_letters(self, context: Context, dead: rules.Redrive, record: Record) -> DeadLetters:
        target = rules.name_of_arn(dead.arn)
        found = await self._resources.find(KIND, *target) if target else None
        if found is None:
            raise Invalid(
                "RedrivePolicy",
                f"Value {dead.arn} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist.",
                rule="InvalidAttributeValue",
            )
        return DeadLetters(found.uid, dead.most, rules.queue_arn(context.place, record.name))

    async def delete_message(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "DeleteMessage", request)
        return await self._delete(record, request)

    async def delete_message_batch(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "DeleteMessage", request)
        return await _batch(request, lambda entry: self._delete(record, entry))

    async def _delete(self, record: Record, entry: Members) -> Members:
        if not await self._queues.delete(record.uid, entry["ReceiptHandle"]):
            raise _no_receipt(entry)
        return {}

    async def change_message_visibility(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "ChangeMessageVisibility", request)
        return await self._change(record, request)

    async def change_message_visibility_batch(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "ChangeMessageVisibility", request)
        return await _batch(request, lambda entry: self._change(record, entry))

    async def _change(self, record: Record, entry: Members) -> Members:
        seconds = entry.get("VisibilityTimeout", 0)
        if not 0 <= seconds <= 43_200:
            raise Invalid("VisibilityTimeout", f"Value {seconds} for parameter VisibilityTimeout is invalid.")
        changed = await self._queues.change_visibility(record.uid, entry["ReceiptHandle"], seconds)
        if changed is None:
            raise _no_receipt(entry)
        if not changed:
            raise Invalid("ReceiptHandle", "The message is not in flight.", rule="MessageNotInflight")
        return {}

    async def purge_queue(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "PurgeQueue", request)
        await self._queues.purge(record.uid)
        return {}

    # -- tags ------------------------------------------------------------------------------------

    async def tag_queue(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "TagQueue", request)
        tags = [{"Key": key, "Value": value} for key, value in request["Tags"].items()]
        await self._resources.add_tags(context.place.arn(KIND, record.name), tags)
        return {}

    async def untag_queue(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "UntagQueue", request)
        await self._resources.delete_tags(context.place.arn(KIND, record.name), request["TagKeys"])
        return {}

    async def list_queue_tags(self, context: Context, request: Members) -> Members:
        record = await self._queue(context, "ListQueueTags", request)
        held = await self._resources.tags(context.place.arn(KIND, record.name))
        return {"Tags": held} if held else {}

    # -- small steps -----------------------------------------------------------------------------

    async def _queue(self, context: Context, action: str, request: Members) -> Record:
        """The queue that QueueUrl names. Raises: NotFound, AccessDenied."""
        parts = [part for part in urlsplit(request["QueueUrl"]).path.split("/") if part]
        name = parts[-1] if parts else ""
        context.authorize(f"sqs:{action}", rules.queue_arn(context.place, name))
        if len(parts) > 1 and parts[-2] != context.place.account:
            raise NotFound(KIND, name)
        return await self._resources.get(KIND, context.place, name)


def _url(context: Context, name: str) -> str:
    return f"{context.base_url}/{context.place.account}/{name}"


def _value(record: Record, name: str) -> str:
    kept: Mapping[str, str] = record.desired["attributes"]
    return str(rules.number(kept, name)) if name in rules.NUMBERS else kept.get(name, "")


def _message(one: Received, system: set[str], named: Any) -> Members:
    held = {
        "SenderId": one.sender or "anonymous",
        "SentTimestamp": str(one.sent_us // 1000),
        "ApproximateReceiveCount": str(one.receives),
        "ApproximateFirstReceiveTimestamp": str(one.first_received_us // 1000),
    }
    if one.source_arn:
        held["DeadLetterQueueSourceArn"] = one.source_arn
    if "All" not in system:
        held = {name: text for name, text in held.items() if name in system}
    given = rules.chosen(rules.read_attributes(one.attributes), named)
    return present(
        MessageId=one.id,
        ReceiptHandle=one.receipt,
        MD5OfBody=rules.md5_of_body(one.body),
        Body=one.body,
        Attributes=held or None,
        MD5OfMessageAttributes=rules.md5_of_attributes(given),
        MessageAttributes=given or None,
    )


def _no_receipt(entry: Members) -> Invalid:
    text = f"The input receipt handle {entry['ReceiptHandle']!r} is not a valid receipt handle."
    return Invalid("ReceiptHandle", text, rule="ReceiptHandleIsInvalid")


async def _batch(request: Members, work: Callable[[Members], Awaitable[Members]]) -> Members:
    """Every entry by itself: what fails is told beside what succeeded. Raises: Invalid for a batch that is none."""
    entries = request["Entries"]
    ids = [entry["Id"] for entry in entries]
    if not entries:
        raise Invalid("Entries", "There should be at least one entry in the request.", rule="EmptyBatchRequest")
    if len(entries) > rules.MAX_BATCH:
        text = f"Maximum number of entries per request are {rules.MAX_BATCH}. You have sent {len(entries)}."
        raise Invalid("Entries", text, rule="TooManyEntriesInBatchRequest")
    if len(set(ids)) < len(ids):
        raise Invalid("Id", "Two or more batch entries have the same Id.", rule="BatchEntryIdsNotDistinct")
    size = sum(len(entry.get("MessageBody", "").encode()) for entry in entries)
    if size > rules.MAX_MESSAGE_BYTES:
        text = f"Batch requests cannot be longer than {rules.MAX_MESSAGE_BYTES} bytes. You have sent {size} bytes."
        raise Invalid("Entries", text, rule="BatchRequestTooLong")
    done: list[Members] = []
    failed: list[Members] = []
    for entry in entries:
        try:
            done.append({"Id": entry["Id"], **await work(entry)})
        except (Invalid, LimitExceeded) as error:
            code = error.rule if isinstance(error, Invalid) and error.rule in RULES else "InvalidParameterValue"
            told = {"Code": code, "Message": str(error), "SenderFault": True}
            failed.append({"Id": entry["Id"], **told})
    return present(Successful=done or None, Failed=failed or None)
