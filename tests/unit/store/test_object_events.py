"""Changes that are to be told: written with the change, by the configuration of that moment, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from clary.domain.errors import NotFound, PreconditionFailed
from clary.store.object_events import NOTIFICATION
from clary.store.object_info import CompletedPart, ObjectMetadata
from clary.store.objects import ObjectStore

QUEUE = "arn:aws:sqs:us-east-1:1:q"


def put(store: ObjectStore, key: str, body: bytes = b"hello", bucket: str = "b-1") -> None:
    session = store.begin_put(bucket, key, metadata=ObjectMetadata())
    session.write(body)
    session.commit()


def configure(store: ObjectStore, *events: str, prefix: str = "") -> None:
    rules = [{"Name": "prefix", "Value": prefix}] if prefix else []
    one = {"Id": "one", "QueueArn": QUEUE, "Events": list(events), "Filter": {"Key": {"FilterRules": rules}}}
    store.put_bucket_document("b-1", NOTIFICATION, json.dumps({"QueueConfigurations": [one]}))


def told(store: ObjectStore) -> list[tuple[str, str]]:
    return [(one.event.event, one.event.key) for one in store.events_after(0, 100)]


def test_nothing_is_written_for_buckets_without_a_configuration(store: ObjectStore) -> None:
    put(store, "a")
    assert told(store) == []
    configure(store, "s3:ObjectCreated:*")
    store.put_bucket_document("b-1", NOTIFICATION, None)
    put(store, "a")
    assert told(store) == []


def test_every_way_of_change_is_told_in_order(store: ObjectStore) -> None:
    heard: list[int] = []
    store.told = lambda: heard.append(1)
    configure(store, "s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    put(store, "a")
    store.copy("b-1", "a", "b-1", "b")
    upload = store.create_upload("b-1", "c", metadata=ObjectMetadata())
    session = store.begin_part("b-1", "c", upload.upload_id, 1)
    session.write(b"part")
    part = session.commit()
    for _ in range(2):  # asked again, it is the same completion
        store.complete("b-1", "c", upload.upload_id, [CompletedPart(1, part.etag)])
    store.delete_many("b-1", ["a", "never there"])
    assert told(store) == [
        ("ObjectCreated:Put", "a"),
        ("ObjectCreated:Copy", "b"),
        ("ObjectCreated:CompleteMultipartUpload", "c"),
        ("ObjectRemoved:Delete", "a"),
    ]
    first, *_, last = store.events_after(0, 100)
    assert (first.event.size_bytes, first.goes_to) == (5, (("one", QUEUE),))
    assert len(heard) >= 4
    store.forget_events(first.event.number)
    assert store.events_after(0, 100)[0].event.number == first.event.number + 1
    assert store.events_after(last.event.number, 100) == []


def test_a_change_that_fails_tells_nothing(store: ObjectStore) -> None:
    configure(store, "s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    with pytest.raises(NotFound):
        store.copy("b-1", "none", "b-1", "b")
    put(store, "a")
    with pytest.raises(PreconditionFailed):
        store.delete("b-1", "a", if_match="other")
    assert told(store) == [("ObjectCreated:Put", "a")]


def test_filters_and_kinds_decide_and_a_restart_forgets_nothing(
    store: ObjectStore, open_store: Callable[[], ObjectStore]
) -> None:
    configure(store, "s3:ObjectCreated:Copy", prefix="in/")
    put(store, "in/a")
    store.copy("b-1", "in/a", "b-1", "out/a")
    store.copy("b-1", "in/a", "b-1", "in/b")
    assert told(store) == [("ObjectCreated:Copy", "in/b")]
    store.close()
    again = open_store()
    again.copy("b-1", "in/a", "b-1", "in/c")
    assert told(again) == [("ObjectCreated:Copy", "in/b"), ("ObjectCreated:Copy", "in/c")]
