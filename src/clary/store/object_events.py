"""What is to be told of changes: rows written in the transaction of the change itself, taken out once they are told.

Only buckets with a notification configuration pay for it: the names of those are held in memory, and the configuration
in force at the moment of the change decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from clary.domain.bucket_notification import ObjectEvent, rules_of
from clary.domain.errors import StoreFailed
from clary.store import object_schema as t
from clary.store.object_rows import key_bytes, microseconds, moment, need_bucket

NOTIFICATION = "notification"  # the kind of the bucket's document

MAX_WAITING = 1_000_000  # then a change is refused: nobody takes over what is to be told


@dataclass(frozen=True, slots=True)
class Told:
    """A change and where it goes: (configuration id, ARN), the ARN "" for EventBridge."""

    event: ObjectEvent
    goes_to: tuple[tuple[str, str], ...]


def watched_buckets(connection: Connection) -> set[str]:
    """The buckets that have a configuration."""
    c = t.bucket_document.c
    return set(connection.execute(select(c.bucket).where(c.kind == NOTIFICATION)).scalars())


def note(
    connection: Connection, kind: str, bucket: str, key: str, at: datetime, *, size_bytes: int = 0, etag: str = ""
) -> None:
    """Writes a change down for those who are to be told of it; to be called in the change's own job.

    Raises: StoreFailed when too much waits to be told.
    """
    c = t.bucket_document.c
    query = select(c.body).where(c.bucket == bucket, c.kind == NOTIFICATION)
    text = connection.execute(query).scalar_one_or_none()
    if text is None:
        return
    goes_to = [(rule.id, rule.arn) for rule in rules_of(json.loads(text)) if rule.takes(kind, key)]
    if not goes_to:
        return
    first, last = connection.execute(select(func.min(t.event.c.number), func.max(t.event.c.number))).one()
    if first is not None and last - first >= MAX_WAITING:
        raise StoreFailed("noting a change for the bucket's notifications", detail=f"{MAX_WAITING} wait to be told")
    connection.execute(
        insert(t.event).values(
            kind=kind,
            bucket=bucket,
            region=need_bucket(connection, bucket).region,
            key=key_bytes(key),
            size_bytes=size_bytes,
            etag=etag,
            at_us=microseconds(at),
            rules=json.dumps(goes_to),
        )
    )


def events_after(connection: Connection, number: int, count: int) -> list[Told]:
    """Up to `count` changes, oldest first."""
    rows = connection.execute(select(t.event).where(t.event.c.number > number).order_by(t.event.c.number).limit(count))
    return [
        Told(
            ObjectEvent(
                row.number,
                row.kind,
                row.bucket,
                row.region,
                row.key.decode(),
                row.size_bytes,
                row.etag,
                moment(row.at_us),
            ),
            tuple((rule, arn) for rule, arn in json.loads(row.rules)),
        )
        for row in rows
    ]


def forget_events(connection: Connection, up_to: int) -> None:
    connection.execute(delete(t.event).where(t.event.c.number <= up_to))
