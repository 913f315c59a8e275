"""Messages of SQS queues in the control database: durable when sent, hidden while somebody works on them.

A receipt names one reception: the message's number and a token that the next reception replaces.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from clary.domain.errors import LimitExceeded
from clary.store.database import Database
from clary.store.schema import messages


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way in. `attributes` as `domain.queues.stored_attributes` writes them."""

    id: str
    body: str
    attributes: str = "{}"
    sender: str = ""
    delay_s: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message as one reception has it. Times in microseconds since the epoch."""

    id: str
    receipt: str
    body: str
    attributes: str
    sender: str
    sent_us: int
    first_received_us: int
    receives: int
    source_arn: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages may be received, are being worked on, or wait for their delay."""

    visible: int = 0
    hidden: int = 0
    delayed: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Where messages of a queue go that were received `most` times, and under which name they come there."""

    queue_uid: int
    most: int
    source_arn: str


class Queues:
    """See the module. `most` is how many messages a queue holds."""

    def __init__(self, database: Database, now: Callable[[], datetime], most: int) -> None:
        self._database = database
        self._now = now
        self._most = most
        self._sent: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    def _now_us(self) -> int:
        return round(self._now().timestamp() * 1_000_000)

    async def send(self, queue_uid: int, sent: Sequence[Sent], retention_s: int) -> None:
        """Durable when it returns. Raises: LimitExceeded, StoreFailed."""
        await self._database.write(lambda connection: self.put(connection, queue_uid, sent, retention_s))
        self.woken(queue_uid)

    def put(self, connection: Connection, queue_uid: int, sent: Sequence[Sent], retention_s: int) -> None:
        """`send` within the caller's transaction; who calls says `woken` when it has committed."""
        now_us = self._now_us()
        held = connection.execute(
            select(func.count()).select_from(messages).where(messages.c.queue_uid == queue_uid)
        ).scalar_one()
        if held + len(sent) > self._most:
            raise LimitExceeded(
                "messages of a queue", maximum=self._most, asked=held + len(sent), setting="queue_messages_limit"
            )
        rows = [
            {
                "id": one.id,
                "queue_uid": queue_uid,
                "body": one.body,
                "attributes": one.attributes,
                "sender": one.sender,
                "sent_us": now_us,
                "visible_us": now_us + one.delay_s * 1_000_000,
                "expires_us": now_us + retention_s * 1_000_000,
                "first_received_us": 0,
                "receives": 0,
                "receipt": "",
                "source_arn": "",
            }
            for one in sent
        ]
        connection.execute(insert(messages), rows)

    def woken(self, queue_uid: int) -> None:
        """Somebody may be waiting for what was just committed."""
        self._sent[queue_uid].set()

    async def receive(
        self, queue_uid: int, count: int, visibility_s: int, wait_s: float, dead: DeadLetters | None
    ) -> list[Received]:
        """Up to `count` messages, hidden for `visibility_s`; waits up to `wait_s` for the first."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        while True:
            event = self._sent[queue_uid]
            event.clear()
            next_us = await self._database.read(lambda c: _next_visible_us(c, queue_uid))
            now_us = self._now_us()
            if next_us is not None and next_us <= now_us:
                found = await self._database.write(lambda c: self._take(c, queue_uid, count, visibility_s, dead))
                if dead is not None:
                    self.woken(dead.queue_uid)
                if found:
                    return found
                continue  # what was there was expired, or went to the dead letters
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                return []
            if next_us is not None:
                left_s = min(left_s, (next_us - now_us) / 1_000_000)
            try:
                async with asyncio.timeout(left_s):
                    await event.wait()
            except TimeoutError:
                pass  # look again: a delayed or hidden one is due now, or the wait is over

    def _take(
        self, connection: Connection, queue_uid: int, count: int, visibility_s: int, dead: DeadLetters | None
    ) -> list[Received]:
        now_us = self._now_us()
        connection.execute(delete(messages).where(messages.c.queue_uid == queue_uid, messages.c.expires_us <= now_us))
        query = (
            select(messages)
            .where(messages.c.queue_uid == queue_uid, messages.c.visible_us <= now_us)
            .order_by(messages.c.number)
            .limit(count)
        )
        found = []
        for row in connection.execute(query).all():
            at = update(messages).where(messages.c.number == row.number)
            if dead is not None and row.receives >= dead.most:
                values = {"queue_uid": dead.queue_uid, "visible_us": now_us, "receives": 0, "receipt": ""}
                connection.execute(at.values(**values, source_arn=dead.source_arn))
                continue
            token = secrets.token_hex(16)
            first_us = row.first_received_us or now_us
            connection.execute(
                at.values(
                    visible_us=now_us + visibility_s * 1_000_000,
                    receives=row.receives + 1,
                    first_received_us=first_us,
                    receipt=token,
                )
            )
            found.append(
                Received(
                    row.id,
                    f"{row.number}-{token}",
                    row.body,
                    row.attributes,
                    row.sender,
                    row.sent_us,
                    first_us,
                    row.receives + 1,
                    row.source_arn,
                )
            )
        return found

    async def delete(self, queue_uid: int, receipt: str) -> bool:
        """Deletes a received message, also twice and after a later reception; False for what is no receipt."""
        number = _number(receipt)
        if number is None:
            return False
        await self._database.write(
            lambda c: c.execute(delete(messages).where(messages.c.queue_uid == queue_uid, messages.c.number == number))
        )
        return True

    async def change_visibility(self, queue_uid: int, receipt: str, visibility_s: int) -> bool | None:
        """Hides a message for `visibility_s` from now; False when it is not hidden now, None for no receipt."""
        number = _number(receipt)
        if number is None:
            return None
        now_us = self._now_us()

        def work(connection: Connection) -> bool:
            at = messages.c.queue_uid == queue_uid, messages.c.number == number, messages.c.visible_us > now_us
            values = {"visible_us": now_us + visibility_s * 1_000_000}
            return connection.execute(update(messages).where(*at).values(**values)).rowcount > 0

        changed = await self._database.write(work)
        self.woken(queue_uid)
        return changed

    async def purge(self, queue_uid: int) -> None:
        await self._database.write(lambda c: c.execute(delete(messages).where(messages.c.queue_uid == queue_uid)))

    async def counts(self, queue_uid: int) -> Counts:
        now_us = self._now_us()

        def work(connection: Connection) -> Counts:
            mine = messages.c.queue_uid == queue_uid, messages.c.expires_us > now_us
            counted = select(func.count()).select_from(messages).where(*mine)
            hidden = messages.c.visible_us > now_us
            return Counts(
                connection.execute(counted.where(~hidden)).scalar_one(),
                connection.execute(counted.where(hidden, messages.c.receives > 0)).scalar_one(),
                connection.execute(counted.where(hidden, messages.c.receives == 0)).scalar_one(),
            )

        return await self._database.read(work)


def _next_visible_us(connection: Connection, queue_uid: int) -> int | None:
    query = select(func.min(messages.c.visible_us)).where(messages.c.queue_uid == queue_uid)
    found: int | None = connection.execute(query).scalar_one()
    return found


def _number(receipt: str) -> int | None:
    number, dash, token = receipt.partition("-")
    return int(number) if dash and number.isdigit() and len(token) == 32 else None
