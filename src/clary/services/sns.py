"""The `sns` service: standard topics with queues and HTTP(S) endpoints as subscribers.

Other protocols, FIFO topics and mobile push are refused by name. Topic policies are kept and without effect.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from clary.domain import queues as queue_rules
from clary.domain import topics as rules
from clary.domain.errors import ClaryError, Invalid, LimitExceeded, NotFound, Unsupported
from clary.services.base import Context, Handler, Members, common_error, page_position, page_token, present
from clary.store.resources import Query, Record, Resources
from clary.store.topics import SUBSCRIPTION, TOPIC, Topics
from clary.wire.errors import WireError

PENDING = "PendingConfirmation"
TOPIC_ATTRIBUTES = ("DisplayName", "Policy", "DeliveryPolicy", "TracingConfig", "SignatureVersion")
SUBSCRIPTION_ATTRIBUTES = ("RawMessageDelivery", "FilterPolicy", "FilterPolicyScope", "DeliveryPolicy")
PAGE = 100


class Sns:
    """See the module."""

    name = "sns"

    def __init__(self, resources: Resources, topics: Topics, now: Callable[[], datetime]) -> None:
        self._resources = resources
        self._topics = topics
        self._now = now
        self.operations: Mapping[str, Handler] = {
            "CreateTopic": self.create_topic,
            "DeleteTopic": self.delete_topic,
            "ListTopics": self.list_topics,
            "GetTopicAttributes": self.get_topic_attributes,
            "SetTopicAttributes": self.set_topic_attributes,
            "Subscribe": self.subscribe,
            "ConfirmSubscription": self.confirm_subscription,
            "Unsubscribe": self.unsubscribe,
            "ListSubscriptions": self.list_subscriptions,
            "ListSubscriptionsByTopic": self.list_subscriptions_by_topic,
            "GetSubscriptionAttributes": self.get_subscription_attributes,
            "SetSubscriptionAttributes": self.set_subscription_attributes,
            "Publish": self.publish,
            "PublishBatch": self.publish_batch,
            "TagResource": self.tag_resource,
            "UntagResource": self.untag_resource,
            "ListTagsForResource": self.list_tags_for_resource,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound(kind=kind):
                return WireError("NotFound", 404, f"{kind.capitalize()} does not exist")
            case LimitExceeded():
                return WireError("Throttled", 429, str(error))
            case Unsupported():
                return WireError("InvalidParameter", 400, f"Invalid parameter: {error}")
            case Invalid(why=why, rule=rule):
                return WireError(rule or "InvalidParameter", 400, why)
            case _:
                return common_error(error, denied="AuthorizationError", invalid="InvalidParameter")

    # -- topics ----------------------------------------------------------------------------------

    async def create_topic(self, context: Context, request: Members) -> Members:
        name = request["Name"]
        rules.check_name(name)
        asked = request.get("Attributes", {})
        if asked.get("FifoTopic", "false").lower() == "true":
            raise Unsupported("a FIFO topic", "topics are standard topics here")
        arn = rules.topic_arn(context.place, name)
        context.authorize("sns:CreateTopic", arn)
        kept = _topic_attributes(asked)
        if await self._resources.find(TOPIC, context.place, name) is None:
            await self._resources.create(
                TOPIC,
                context.place,
                name,
                {"attributes": kept},
                created_by=context.caller.arn,
                token=context.token,
                tags_of_it=request.get("Tags", ()),
            )
        return {"TopicArn": arn}

    async def delete_topic(self, context: Context, request: Members) -> Members:
        arn = request["TopicArn"]
        place, name = rules.parse_topic_arn(arn)
        context.authorize("sns:DeleteTopic", arn)
        if await self._resources.find(TOPIC, place, name) is None:
            return {}  # idempotent, as on AWS
        for record in await self._topics.subscriptions(arn):
            await self._resources.remove(SUBSCRIPTION, record.place, record.name)
        await self._resources.remove(TOPIC, place, name)
        return {}

    async def list_topics(self, context: Context, request: Members) -> Members:
        context.authorize("sns:ListTopics", "*")
        records, following = await self._page(TOPIC, context, request)
        found = [{"TopicArn": rules.topic_arn(record.place, record.name)} for record in records]
        return present(Topics=found, NextToken=page_token(following))

    async def get_topic_attributes(self, context: Context, request: Members) -> Members:
        record = await self._topic(context, "GetTopicAttributes", request["TopicArn"])
        subscribed = await self._topics.subscriptions(request["TopicArn"])
        confirmed = sum(1 for one in subscribed if one.desired["confirmed"])
        return {
            "Attributes": {
                "TopicArn": request["TopicArn"],
                "Owner": record.place.account,
                "DisplayName": "",
                "SubscriptionsConfirmed": str(confirmed),
                "SubscriptionsPending": str(len(subscribed) - confirmed),
                "SubscriptionsDeleted": "0",
                **record.desired["attributes"],
            }
        }

    async def set_topic_attributes(self, context: Context, request: Members) -> Members:
        record = await self._topic(context, "SetTopicAttributes", request["TopicArn"])
        asked = _topic_attributes({request["AttributeName"]: request.get("AttributeValue", "")})

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any] | None:
            return {"attributes": {**held.desired["attributes"], **asked}}

        await self._resources.change(TOPIC, record.place, record.name, decide)
        return {}

    # -- subscriptions ---------------------------------------------------------------------------

    async def subscribe(self, context: Context, request: Members) -> Members:
        arn, protocol = request["TopicArn"], request["Protocol"]
        topic = await self._topic(context, "Subscribe", arn)
        endpoint = request.get("Endpoint", "")
        if protocol not in rules.PROTOCOLS:
            raise Unsupported(f"protocol {protocol}", f"subscribers are {', '.join(rules.PROTOCOLS)}")
        _check_endpoint(protocol, endpoint)
        kept = _subscription_attributes(request.get("Attributes", {}))
        for held in await self._topics.subscriptions(arn):
            if (held.desired["protocol"], held.desired["endpoint"]) == (protocol, endpoint):
                if held.desired["attributes"] != kept and request.get("Attributes"):
                    raise Invalid(
                        "Attributes",
                        "Invalid parameter: Attributes Reason: Subscription already exists with different attributes",
                    )
                return {"SubscriptionArn": _shown(held, request)}
        name = str(uuid.uuid4())
        own = protocol == "sqs"
        desired = {
            "topic_arn": arn,
            "protocol": protocol,
            "endpoint": endpoint,
            "attributes": kept,
            "confirmed": own,
            "token": "" if own else secrets.token_hex(32),
        }
        record = await self._resources.create(
            SUBSCRIPTION, topic.place, name, desired, created_by=context.caller.arn, token=context.token
        )
        if not own:
            message_id = str(uuid.uuid4())
            url = f"{context.base_url}/?Action=ConfirmSubscription&TopicArn={arn}&Token={desired['token']}"
            body = rules.confirmation(arn, str(desired["token"]), message_id, self._now(), url)
            await self._topics.enqueue(record.uid, message_id, body)
        return {"SubscriptionArn": _shown(record, request)}

    async def confirm_subscription(self, context: Context, request: Members) -> Members:
        arn, token = request["TopicArn"], request["Token"]
        await self._topic(context, "ConfirmSubscription", arn)
        for record in await self._topics.subscriptions(arn):
            if record.desired["token"] and secrets.compare_digest(record.desired["token"], token):

                def decide(_connection: Connection, held: Record) -> Mapping[str, Any] | None:
                    return {**held.desired, "confirmed": True}

                await self._resources.change(SUBSCRIPTION, record.place, record.name, decide)
                return {"SubscriptionArn": _arn(record)}
        raise Invalid("Token", "Invalid parameter: Token")

    async def unsubscribe(self, context: Context, request: Members) -> Members:
        arn = request["SubscriptionArn"]
        context.authorize("sns:Unsubscribe", arn)
        record = await self._subscription(arn)
        if record is not None:
            await self._resources.remove(SUBSCRIPTION, record.place, record.name)
        return {}

    async def list_subscriptions(self, context: Context, request: Members) -> Members:
        context.authorize("sns:ListSubscriptions", "*")
        records, following = await self._page(SUBSCRIPTION, context, request)
        return present(Subscriptions=[_listed(one) for one in records], NextToken=page_token(following))

    async def list_subscriptions_by_topic(self, context: Context, request: Members) -> Members:
        arn = request["TopicArn"]
        await self._topic(context, "ListSubscriptionsByTopic", arn)
        records, following = await self._page(
            SUBSCRIPTION, context, request, keep=lambda record: record.desired["topic_arn"] == arn
        )
        return present(Subscriptions=[_listed(one) for one in records], NextToken=page_token(following))

    async def get_subscription_attributes(self, context: Context, request: Members) -> Members:
        arn = request["SubscriptionArn"]
        context.authorize("sns:GetSubscriptionAttributes", arn)
        record = await self._subscription(arn)
        if record is None:
            raise NotFound(SUBSCRIPTION, arn)
        desired = record.desired
        return {
            "Attributes": {
                "SubscriptionArn": arn,
                "TopicArn": desired["topic_arn"],
                "Protocol": desired["protocol"],
                "Endpoint": desired["endpoint"],
                "Owner": record.place.account,
                "ConfirmationWasAuthenticated": "true",
                "PendingConfirmation": "false" if desired["confirmed"] else "true",
                "RawMessageDelivery": "false",
                **desired["attributes"],
            }
        }

    async def set_subscription_attributes(self, context: Context, request: Members) -> Members:
        arn = request["SubscriptionArn"]
        context.authorize("sns:SetSubscriptionAttributes", arn)
        record = await self._subscription(arn)
        if record is None:
            raise NotFound(SUBSCRIPTION, arn)
        asked = _subscription_attributes({request["AttributeName"]: request.get("AttributeValue", "")})

        def decide(_connection: Connection, held: Record) -> Mapping[str, Any] | None:
            return {**held.desired, "attributes": {**held.desired["attributes"], **asked}}

        await self._resources.change(SUBSCRIPTION, record.place, record.name, decide)
        return {}

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, context: Context, request: Members) -> Members:
        for member in ("PhoneNumber",):
            if request.get(member):
                raise Unsupported(member, "messages go to topics")
        arn = request.get("TopicArn") or request.get("TargetArn")
        if not arn:
            raise Invalid(
                "TopicArn", "Invalid parameter: TopicArn or TargetArn Reason: no value for required parameter"
            )
        await self._topic(context, "Publish", arn)
        return {"MessageId": await self._publish(arn, request)}

    async def publish_batch(self, context: Context, request: Members) -> Members:
        arn = request["TopicArn"]
        await self._topic(context, "Publish", arn)
        entries = request["PublishBatchRequestEntries"]
        ids = [entry["Id"] for entry in entries]
        if not entries:
            raise Invalid("Entries", "The batch request doesn't contain any entries.", rule="EmptyBatchRequest")
        if len(entries) > queue_rules.MAX_BATCH:
            text = "The batch request contains more entries than permissible."
            raise Invalid("Entries", text, rule="TooManyEntriesInBatchRequest")
        if len(set(ids)) < len(ids):
            text = "Two or more batch entries in the request have the same Id."
            raise Invalid("Id", text, rule="BatchEntryIdsNotDistinct")
        answer: Members = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                answer["Successful"].append({"Id": entry["Id"], "MessageId": await self._publish(arn, entry)})
            except (Invalid, Unsupported, LimitExceeded) as error:
                told = {"Code": "InvalidParameter", "Message": str(error), "SenderFault": True}
                answer["Failed"].append({"Id": entry["Id"], **told})
        return answer

    async def _publish(self, arn: str, entry: Members) -> str:
        message, for_sqs = entry["Message"], None
        if not message:
            raise Invalid("Message", "Invalid parameter: Empty message")
        if len(message.encode()) > rules.MAX_MESSAGE_BYTES:
            raise Invalid("Message", "Invalid parameter: Message too long")
        subject = entry.get("Subject", "")
        if len(subject) > 100 or "\n" in subject:
            raise Invalid("Subject", "Invalid parameter: Subject")
        if entry.get("MessageStructure"):
            message, for_sqs = _structured(entry["MessageStructure"], message)
        given = entry.get("MessageAttributes", {})
        queue_rules.check_message(message, given, rules.MAX_MESSAGE_BYTES)
        message_id = str(uuid.uuid4())
        await self._topics.publish(arn, message, message_id, subject=subject, attributes=dict(given), for_sqs=for_sqs)
        return message_id

    # -- tags ------------------------------------------------------------------------------------

    async def tag_resource(self, context: Context, request: Members) -> Members:
        record = await self._topic(context, "TagResource", request["ResourceArn"])
        await self._resources.add_tags(record.place.arn(TOPIC, record.name), request["Tags"])
        return {}

    async def untag_resource(self, context: Context, request: Members) -> Members:
        record = await self._topic(context, "UntagResource", request["ResourceArn"])
        await self._resources.delete_tags(record.place.arn(TOPIC, record.name), request["TagKeys"])
        return {}

    async def list_tags_for_resource(self, context: Context, request: Members) -> Members:
        record = await self._topic(context, "ListTagsForResource", request["ResourceArn"])
        held = await self._resources.tags(record.place.arn(TOPIC, record.name))
        return {"Tags": [{"Key": key, "Value": value} for key, value in held.items()]}

    # -- small steps -----------------------------------------------------------------------------

    async def _topic(self, context: Context, action: str, arn: str) -> Record:
        context.authorize(f"sns:{action}", arn)
        place, name = rules.parse_topic_arn(arn)
        record = await self._resources.find(TOPIC, place, name)
        if record is None or place.account != context.place.account:
            raise NotFound(TOPIC, arn)
        return record

    async def _subscription(self, arn: str) -> Record | None:
        topic, _, name = arn.rpartition(":")
        place, _ = rules.parse_topic_arn(topic)
        record = await self._resources.find(SUBSCRIPTION, place, name)
        return record if record is not None and record.desired["topic_arn"] == topic else None

    async def _page(
        self, kind: str, context: Context, request: Members, keep: Callable[[Record], bool] | None = None
    ) -> tuple[list[Record], list[Any] | None]:
        query = Query(sort_by="Name", descending=False)
        position = page_position(request.get("NextToken"))
        return await self._resources.list(kind, context.place, query, PAGE, position, keep=keep)


def _topic_attributes(asked: Mapping[str, str]) -> dict[str, str]:
    for name, text in asked.items():
        if name == "KmsMasterKeyId" and text:
            raise Unsupported(name, "messages are not encrypted with KMS keys here")
        if name not in (*TOPIC_ATTRIBUTES, "KmsMasterKeyId", "FifoTopic"):
            raise Invalid(name, f"Invalid parameter: AttributeName Reason: {name} is not served")
    return {name: text for name, text in asked.items() if name in TOPIC_ATTRIBUTES}


def _subscription_attributes(asked: Mapping[str, str]) -> dict[str, str]:
    for name, text in asked.items():
        if name not in SUBSCRIPTION_ATTRIBUTES:
            raise Invalid(name, f"Invalid parameter: AttributeName Reason: {name} is not served")
        if name == "FilterPolicy" and text:
            rules.check_filter(text)
        if name == "FilterPolicyScope" and text != "MessageAttributes":
            raise Unsupported(f"FilterPolicyScope {text}", "filters look at MessageAttributes")
        if name == "RawMessageDelivery" and text.lower() not in ("true", "false"):
            raise Invalid(name, "Invalid parameter: Attributes Reason: RawMessageDelivery: Invalid value")
    return {name: text.lower() if name == "RawMessageDelivery" else text for name, text in asked.items()}


def _check_endpoint(protocol: str, endpoint: str) -> None:
    if protocol == "sqs":
        if queue_rules.name_of_arn(endpoint) is None:
            raise Invalid("Endpoint", "Invalid parameter: SQS endpoint ARN")
    elif not endpoint.startswith(f"{protocol}://"):
        raise Invalid("Endpoint", f"Invalid parameter: Endpoint must match the specified protocol {protocol}")


def _structured(structure: str, message: str) -> tuple[str, str | None]:
    """(default message, that of queues). Raises: Invalid."""
    if structure != "json":
        raise Invalid("MessageStructure", "Invalid parameter: MessageStructure Reason: it is json or absent")
    try:
        parts = json.loads(message)
        default = parts["default"]
    except (ValueError, KeyError, TypeError):
        text = "Invalid parameter: Message Structure - No default entry in JSON message body"
        raise Invalid("Message", text) from None
    return str(default), parts.get("sqs")


def _arn(record: Record) -> str:
    return f"{record.desired['topic_arn']}:{record.name}"


def _shown(record: Record, request: Members) -> str:
    if record.desired["confirmed"] or request.get("ReturnSubscriptionArn"):
        return _arn(record)
    return "pending confirmation"


def _listed(record: Record) -> Members:
    return {
        "SubscriptionArn": _arn(record) if record.desired["confirmed"] else PENDING,
        "Owner": record.place.account,
        "Protocol": record.desired["protocol"],
        "Endpoint": record.desired["endpoint"],
        "TopicArn": record.desired["topic_arn"],
    }
