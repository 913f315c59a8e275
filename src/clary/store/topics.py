"""SNS topics, their subscriptions, and what is yet to be delivered. Topics and subscriptions are resources.

Publishing is one transaction: messages of our own queues are put there, deliveries to elsewhere are written down. A
message id that was published before adds nothing, so who cannot know whether it had published says it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from clary.domain import queues as queue_rules
from clary.domain.errors import NotFound
from clary.domain.topics import Notification, envelope, parse_topic_arn, passes
from clary.store.database import Database
from clary.store.queues import Queues, Sent
from clary.store.resources import Record, Resources, find
from clary.store.schema import deliveries

TOPIC = "topic"
SUBSCRIPTION = "subscription"
QUEUE = "queue"
REMEMBERED_S = 24 * 3600  # how long a message that was published again is known


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that has to go out over HTTP."""

    number: int
    message_id: str
    subscription_uid: int
    body: str
    attributes: str
    attempts: int


class Topics:
    """See the module."""

    def __init__(
        self, database: Database, resources: Resources, queues: Queues, base_url: str, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._resources = resources
        self._queues = queues
        self._base_url = base_url
        self._now = now
        self.due = asyncio.Event()  # something is to be delivered

    async def subscriptions(self, arn: str) -> list[Record]:
        return [one for one in await self._resources.all(SUBSCRIPTION) if one.desired["topic_arn"] == arn]

    async def publish(
        self,
        arn: str,
        message: str,
        message_id: str,
        *,
        subject: str = "",
        attributes: dict[str, Any] | None = None,
        for_sqs: str | None = None,
    ) -> None:
        """Durable for every subscription when it returns. `for_sqs`: what queues get instead (MessageStructure json).

        Raises: NotFound, LimitExceeded, StoreFailed.
        """
        place, name = parse_topic_arn(arn)
        if await self._resources.find(TOPIC, place, name) is None:
            raise NotFound(TOPIC, arn)
        one = Notification(message_id, arn, message, self._now(), subject, attributes or {})
        subscribed = [
            record
            for record in await self.subscriptions(arn)
            if record.desired["confirmed"]
            and passes(record.desired["attributes"].get("FilterPolicy", ""), one.attributes)
        ]
        woken: list[int] = []

        def work(connection: Connection) -> None:
            for record in subscribed:
                self._put(connection, record, one, for_sqs, woken)

        if subscribed:
            await self._database.write(work)
        for uid in woken:
            self._queues.woken(uid)
        self.due.set()

    def _put(
        self, connection: Connection, record: Record, one: Notification, for_sqs: str | None, woken: list[int]
    ) -> None:
        said = select(deliveries.c.number).where(
            deliveries.c.message_id == one.message_id, deliveries.c.subscription_uid == record.uid
        )
        if connection.execute(said).first() is not None:
            return
        raw = record.desired["attributes"].get("RawMessageDelivery", "false") == "true"
        to_queue = record.desired["protocol"] == "sqs"
        if to_queue and for_sqs is not None:
            one = Notification(one.message_id, one.topic_arn, for_sqs, one.at, one.subject, one.attributes)
        body = one.message if raw else envelope(one, self._unsubscribe_url(record))
        kept = queue_rules.stored_attributes(one.attributes) if raw else "{}"
        now_us = round(self._now().timestamp() * 1_000_000)
        if to_queue:
            target = queue_rules.name_of_arn(record.desired["endpoint"])
            queue = find(connection, QUEUE, *target) if target else None
            if queue is not None:
                retention_s = queue_rules.number(queue.desired["attributes"], "MessageRetentionPeriod")
                sent = Sent(one.message_id, body, kept, "sns.amazonaws.com")
                self._queues.put(connection, queue.uid, [sent], retention_s)
                woken.append(queue.uid)
        connection.execute(
            insert(deliveries).values(
                message_id=one.message_id,
                subscription_uid=record.uid,
                body="" if to_queue else body,
                attributes="{}" if to_queue else json.dumps({"raw": raw}),
                attempts=0,
                due_us=now_us,
                done=int(to_queue),
            )
        )

    def _unsubscribe_url(self, record: Record) -> str:
        arn = f"{record.desired['topic_arn']}:{record.name}"
        return f"{self._base_url}/?Action=Unsubscribe&SubscriptionArn={arn}"

    async def enqueue(self, subscription_uid: int, message_id: str, body: str) -> None:
        """One message for one subscription: the question whether it wants any."""
        now_us = round(self._now().timestamp() * 1_000_000)
        values = {
            "message_id": message_id,
            "subscription_uid": subscription_uid,
            "body": body,
            "attributes": json.dumps({"raw": False, "type": "SubscriptionConfirmation"}),
            "attempts": 0,
            "due_us": now_us,
            "done": 0,
        }
        await self._database.write(lambda connection: connection.execute(insert(deliveries).values(**values)))
        self.due.set()

    # -- deliveries ------------------------------------------------------------------------------

    async def next_due_us(self) -> int | None:
        query = select(deliveries.c.due_us).where(deliveries.c.done == 0).order_by(deliveries.c.due_us).limit(1)
        return await self._database.read(lambda c: c.execute(query).scalar_one_or_none())

    async def due_now(self, count: int) -> list[Delivery]:
        now_us = round(self._now().timestamp() * 1_000_000)

        def work(connection: Connection) -> list[Delivery]:
            query = (
                select(deliveries)
                .where(deliveries.c.done == 0, deliveries.c.due_us <= now_us)
                .order_by(deliveries.c.due_us)
                .limit(count)
            )
            return [
                Delivery(row.number, row.message_id, row.subscription_uid, row.body, row.attributes, row.attempts)
                for row in connection.execute(query)
            ]

        return await self._database.read(work)

    async def delivered(self, delivery: Delivery) -> None:
        """Also for one that was given up."""
        await self._change(delivery, done=1, body="")

    async def later(self, delivery: Delivery, after_s: float) -> None:
        now_us = round(self._now().timestamp() * 1_000_000)
        await self._change(delivery, attempts=delivery.attempts + 1, due_us=now_us + int(after_s * 1_000_000))

    async def _change(self, delivery: Delivery, **values: Any) -> None:
        at = update(deliveries).where(deliveries.c.number == delivery.number).values(**values)
        await self._database.write(lambda connection: connection.execute(at))

    async def forget_old(self) -> None:
        before_us = round((self._now().timestamp() - REMEMBERED_S) * 1_000_000)
        old = delete(deliveries).where(deliveries.c.done == 1, deliveries.c.due_us < before_us)
        await self._database.write(lambda connection: connection.execute(old))
