"""The event bus: an event becomes calls of the targets of all rules that it matches, in one transaction."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from clary.domain import event_pattern
from clary.domain.event_target import Target, body_of, rule_arn
from clary.domain.names import Place
from clary.store.calls import Call, Calls, Terms
from clary.store.codec import decode
from clary.store.database import Database
from clary.store.resources import Record, all_of
from clary.store.schema import resources

RULE = "rule"
SCHEDULE = "schedule"
_SPACE = uuid.UUID("6e8d2c5a-0f0b-4d1c-9d4a-3a5b8f8f3f10")  # of ids that are made from a cause


def call_id(*cause: object) -> str:
    """The id of the call that a cause leads to: the same for the same cause."""
    return str(uuid.uuid5(_SPACE, "/".join(map(str, cause))))


class Bus:
    """The default bus of every account and region."""

    def __init__(self, database: Database, calls: Calls) -> None:
        self._database = database
        self._calls = calls

    def listens(self, connection: Connection) -> bool:
        """Whether there is any rule at all."""
        return connection.execute(select(resources.c.uid).where(resources.c.kind == RULE).limit(1)).first() is not None

    def put(self, connection: Connection, place: Place, told: Mapping[str, Any]) -> int:
        """How many targets will get an event. The caller says `Calls.woken` after its commit. Raises: LimitExceeded."""
        wanted = self.calls_of(connection, place, told)
        self._calls.put(connection, wanted)
        return len(wanted)

    def calls_of(self, connection: Connection, place: Place, told: Mapping[str, Any]) -> list[Call]:
        """The calls that an event leads to, by the rules as they are now."""
        found: list[Call] = []
        for rule in all_of(connection, RULE, place):
            pattern = rule.desired.get("pattern")
            if rule.desired["state"] != "ENABLED" or not pattern:
                continue
            if event_pattern.matches(json.loads(pattern), told):
                found += target_calls(rule, told, str(told["id"]))
        return found

    async def put_all(self, place: Place, events: Sequence[Mapping[str, Any]]) -> None:
        """Durable when it returns. Raises: LimitExceeded, StoreFailed."""

        def work(connection: Connection) -> None:
            for told in events:
                self.put(connection, place, told)

        await self._database.write(work)
        self._calls.woken()


def target_calls(rule: Record, told: Mapping[str, Any], cause: str) -> list[Call]:
    """A rule's targets as calls for one event."""
    arn = rule_arn(rule.place, rule.name)
    targets = [decode(Target, one) for one in rule.desired["targets"]]
    return [
        Call(
            call_id(cause, rule.uid, target.id),
            rule.place,
            target.arn,
            body_of(target, told, arn),
            Terms(
                role_arn=target.role_arn,
                user=rule.desired.get("user", ""),
                user_role=rule.desired.get("user_role", ""),
                retries=target.retries,
                max_age_s=target.max_age_s,
                dead_letter_arn=target.dead_letter_arn,
            ),
        )
        for target in targets
    ]
