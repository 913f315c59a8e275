"""The logs service as boto3 sees it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from telemetry_served import ACCOUNT, TelemetryServed

from clary.domain.names import Place
from clary.services.logs import Logs
from clary.store import log_segments
from clary.store.log_segments import NewEvent
from clary.store.logs import LogStore

GROUP = "/aws/sagemaker/Endpoints/e"
NOW_MS = int(time.time() * 1000)


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "groups")


@pytest.fixture
def served(store: LogStore) -> Iterator[TelemetryServed]:
    with TelemetryServed({"logs": Logs(store, lambda: NOW_MS)}) as one:
        yield one


@pytest.fixture
def logs(served: TelemetryServed) -> Any:
    return served.client("logs")


def put(logs: Any, stream: str, *messages: str, at_ms: int = NOW_MS, step_ms: int = 1, group: str = GROUP) -> None:
    for make in (
        lambda: logs.create_log_group(logGroupName=group),
        lambda: logs.create_log_stream(logGroupName=group, logStreamName=stream),
    ):
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            make()
    events = [{"timestamp": at_ms + n * step_ms, "message": message} for n, message in enumerate(messages)]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def messages(answer: Any) -> list[str]:
    return [event["message"] for event in answer["events"]]


def test_from_the_head_page_by_page_until_the_token_stays(logs: Any) -> None:
    put(logs, "v/w1", *(f"line {n}" for n in range(25)))
    seen: list[str] = []
    token: dict[str, str] = {}
    for _ in range(10):
        answer = logs.get_log_events(logGroupName=GROUP, logStreamName="v/w1", startFromHead=True, limit=10, **token)
        seen += messages(answer)
        if token.get("nextToken") == answer["nextForwardToken"]:
            break
        token = {"nextToken": answer["nextForwardToken"]}
    assert seen == [f"line {n}" for n in range(25)]
    assert answer["events"] == []
    put(logs, "v/w1", "one more")
    again = logs.get_log_events(logGroupName=GROUP, logStreamName="v/w1", **token)
    assert messages(again) == ["one more"]


def test_the_latest_first_and_then_backwards(logs: Any) -> None:
    put(logs, "s", *(f"line {n}" for n in range(25)))
    last = logs.get_log_events(logGroupName=GROUP, logStreamName="s", limit=10)
    assert messages(last) == [f"line {n}" for n in range(15, 25)]
    before = logs.get_log_events(logGroupName=GROUP, logStreamName="s", limit=10, nextToken=last["nextBackwardToken"])
    assert messages(before) == [f"line {n}" for n in range(5, 15)]
    after = logs.get_log_events(logGroupName=GROUP, logStreamName="s", limit=10, nextToken=before["nextForwardToken"])
    assert messages(after) == messages(last)


def test_backwards_over_many_segments(logs: Any, store: LogStore) -> None:
    put(logs, "s", "first")
    for n in range(6):
        put(logs, "s", *(f"{n}-{m} " + "x" * 9000 for m in range(50)), at_ms=NOW_MS + n * 1000)
    (info,) = store.streams(Place(ACCOUNT), GROUP)
    assert info.stored_bytes > 2 * log_segments.SEGMENT_BYTES
    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = logs.get_log_events(logGroupName=GROUP, logStreamName="s", limit=70, **token)
        if not answer["events"]:
            break
        seen = [text.split(" ")[0] for text in messages(answer)] + seen
        token = {"nextToken": answer["nextBackwardToken"]}
    assert seen == ["first", *(f"{n}-{m}" for n in range(6) for m in range(50))]


def test_times_bound_what_is_read(logs: Any) -> None:
    put(logs, "s", *(f"{n}" for n in range(10)), step_ms=1000)
    for head in (True, False):
        answer = logs.get_log_events(
            logGroupName=GROUP,
            logStreamName="s",
            startTime=NOW_MS + 3000,
            endTime=NOW_MS + 6000,
            startFromHead=head,
        )
        assert messages(answer) == ["3", "4", "5"]


def test_a_late_event_is_found_by_its_own_time(logs: Any) -> None:
    put(logs, "s", "now")
    put(logs, "s", "late", at_ms=NOW_MS - 60_000)
    for head in (True, False):
        answer = logs.get_log_events(logGroupName=GROUP, logStreamName="s", endTime=NOW_MS - 1, startFromHead=head)
        assert messages(answer) == ["late"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["ERROR disk full", "INFO all well", "ERROR net down", "WARN slow disk"]),
        ("ERROR", ["ERROR disk full", "ERROR net down"]),
        ("ERROR disk", ["ERROR disk full"]),
        ('"slow disk"', ["WARN slow disk"]),
        ("?ERROR ?WARN", ["ERROR disk full", "ERROR net down", "WARN slow disk"]),
        ("disk -ERROR", ["WARN slow disk"]),
        ('-"all well" -net', ["ERROR disk full", "WARN slow disk"]),
        ("error", []),
    ],
)
def test_filter_patterns(logs: Any, pattern: str, expected: list[str]) -> None:
    put(logs, "a", "ERROR disk full", "INFO all well", step_ms=10)
    put(logs, "b", "ERROR net down", "WARN slow disk", at_ms=NOW_MS + 100)
    extra = {"filterPattern": pattern} if pattern else {}
    answer = logs.filter_log_events(logGroupName=GROUP, **extra)
    assert messages(answer) == expected


def test_streams_are_interleaved_by_time_over_pages(logs: Any) -> None:
    put(logs, "a", *(f"a{n}" for n in range(0, 20, 2)), step_ms=20)
    put(logs, "b", *(f"b{n}" for n in range(1, 20, 2)), at_ms=NOW_MS + 10, step_ms=20)
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=GROUP, PaginationConfig={"PageSize": 3})
    found = [event for page in pages for event in page["events"]]
    assert [event["message"][1:] for event in found] == [str(n) for n in range(20)]
    assert {event["logStreamName"] for event in found} == {"a", "b"}
    assert len({event["eventId"] for event in found}) == 20


def test_filter_by_stream_names_and_prefix(logs: Any) -> None:
    for stream in ("v1/w1", "v1/w2", "v2/w1"):
        put(logs, stream, f"from {stream}")
    by_prefix = logs.filter_log_events(logGroupName=GROUP, logStreamNamePrefix="v1/")
    assert sorted(messages(by_prefix)) == ["from v1/w1", "from v1/w2"]
    by_name = logs.filter_log_events(logGroupName=GROUP, logStreamNames=["v2/w1"])
    assert messages(by_name) == ["from v2/w1"]


def test_streams_are_described_in_both_orders_page_by_page(logs: Any) -> None:
    for n, stream in enumerate(("b", "a", "c")):
        put(logs, stream, "x", at_ms=NOW_MS + n)
    by_name = logs.describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert [one["logStreamName"] for one in by_name] == ["a", "b", "c"]
    assert by_name[0]["lastEventTimestamp"] == NOW_MS + 1
    assert by_name[0]["arn"] == f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{GROUP}:log-stream:a"
    newest = logs.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True, limit=1)
    assert [one["logStreamName"] for one in newest["logStreams"]] == ["c"]
    assert newest["nextToken"]
    assert len(logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix="c")["logStreams"]) == 1
    pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=GROUP, PaginationConfig={"PageSize": 2})
    assert [len(page["logStreams"]) for page in pages] == [2, 1]


def test_groups_are_described_by_prefix_and_by_region(served: TelemetryServed, logs: Any) -> None:
    for group in ("/a/1", "/a/2", "/b"):
        logs.create_log_group(logGroupName=group)
    found = logs.describe_log_groups(logGroupNamePrefix="/a/")["logGroups"]
    assert [group["logGroupName"] for group in found] == ["/a/1", "/a/2"]
    assert found[0]["arn"] == f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:/a/1:*"
    assert served.client("logs", "eu-west-1").describe_log_groups()["logGroups"] == []


def test_a_group_may_be_named_by_its_arn(logs: Any) -> None:
    put(logs, "s", "x")
    arn = logs.describe_log_groups()["logGroups"][0]["logGroupArn"]
    assert messages(logs.filter_log_events(logGroupIdentifier=arn)) == ["x"]


def test_deleted_is_gone(logs: Any) -> None:
    put(logs, "s", "x")
    logs.delete_log_stream(logGroupName=GROUP, logStreamName="s")
    assert logs.describe_log_streams(logGroupName=GROUP)["logStreams"] == []
    logs.delete_log_group(logGroupName=GROUP)
    assert logs.describe_log_groups()["logGroups"] == []


def test_what_was_written_is_there_after_a_restart(tmp_path: Path, logs: Any, store: LogStore) -> None:
    long_name = "s" * 400
    put(logs, long_name, "kept ☃")
    put(logs, "..", "kept too")
    segment = next(iter(tmp_path.rglob("*.seg")))
    with segment.open("ab") as file:
        file.write(b"torn")
    with TelemetryServed({"logs": Logs(LogStore(tmp_path / "groups"), lambda: NOW_MS)}) as again:
        client = again.client("logs")
        put(client, long_name, "and more")
        put(client, "..", "and more")
        assert messages(client.get_log_events(logGroupName=GROUP, logStreamName=long_name)) == ["kept ☃", "and more"]
        assert messages(client.get_log_events(logGroupName=GROUP, logStreamName="..")) == ["kept too", "and more"]


def test_events_of_the_wrong_time_are_rejected_by_index(logs: Any) -> None:
    put(logs, "s", "x")
    day_ms = 24 * 3600 * 1000
    answer = logs.put_log_events(
        logGroupName=GROUP,
        logStreamName="s",
        logEvents=[
            {"timestamp": NOW_MS - 15 * day_ms, "message": "old"},
            {"timestamp": NOW_MS, "message": "good"},
            {"timestamp": NOW_MS + day_ms, "message": "new"},
        ],
    )
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}
    assert messages(logs.get_log_events(logGroupName=GROUP, logStreamName="s")) == ["x", "good"]


MISSING, INVALID = "ResourceNotFoundException", "InvalidParameterException"
REFUSED = [
    (
        "get_log_events",
        {"logGroupName": "none", "logStreamName": "s"},
        MISSING,
        "log group does not",
    ),
    (
        "get_log_events",
        {"logGroupName": GROUP, "logStreamName": "no"},
        MISSING,
        "log stream does not",
    ),
    (
        "filter_log_events",
        {"logGroupName": "none"},
        MISSING,
        "The specified log group does not exist.",
    ),
    ("describe_log_streams", {"logGroupName": "none"}, MISSING, "log group does not exist."),
    ("create_log_group", {"logGroupName": GROUP}, "ResourceAlreadyExistsException", "already exists"),
    ("create_log_group", {"logGroupName": "k", "kmsKeyId": "key"}, INVALID, "not encrypted"),
    ("filter_log_events", {"logGroupName": GROUP, "filterPattern": "{ $.a = 1 }"}, INVALID, "JSON"),
    (
        "filter_log_events",
        {"logGroupName": GROUP, "filterPattern": '"open'},
        INVALID,
        "does not end",
    ),
    (
        "filter_log_events",
        {"logGroupName": GROUP, "nextToken": "x"},
        INVALID,
        "nextToken is invalid",
    ),
    (
        "get_log_events",
        {"logGroupName": GROUP, "logStreamName": "s", "nextToken": "zz"},
        INVALID,
        "nextToken is invalid",
    ),
    (
        "describe_log_streams",
        {"logGroupName": GROUP, "orderBy": "LastEventTime", "logStreamNamePrefix": "a"},
        INVALID,
        "Cannot order by LastEventTime with a logStreamNamePrefix.",
    ),
    (
        "put_log_events",
        {
            "logGroupName": GROUP,
            "logStreamName": "s",
            "logEvents": [{"timestamp": 2, "message": "b"}, {"timestamp": 1, "message": "a"}],
        },
        INVALID,
        "chronological order",
    ),
]


@pytest.mark.parametrize(("operation", "request_members", "code", "text"), REFUSED)
def test_refusals_say_what(logs: Any, operation: str, request_members: dict[str, Any], code: str, text: str) -> None:
    put(logs, "s", "x")
    with pytest.raises(ClientError) as caught:
        getattr(logs, operation)(**request_members)
    assert caught.value.response["Error"]["Code"] == code
    assert text in caught.value.response["Error"]["Message"]


def test_a_protected_group_stays(logs: Any) -> None:
    logs.create_log_group(logGroupName="p", deletionProtectionEnabled=True)
    with pytest.raises(ClientError) as caught:
        logs.delete_log_group(logGroupName="p")
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_full_group_loses_its_oldest_text_only(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "g", group_bytes=4 * log_segments.SEGMENT_BYTES)
    place = Place()
    for n in range(100):
        store.take(place, GROUP, "s", [NewEvent(NOW_MS + n, b"%04d" % n + b"x" * 100_000)])
    view = store.view(place, GROUP, "s")
    kept = [event.text[:4] for event in log_segments.forward(view.segments, log_segments.Position())]
    assert kept[-1] == "0099"
    assert kept == [f"{n:04d}" for n in range(100 - len(kept), 100)]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.seg")) <= 5 * log_segments.SEGMENT_BYTES
