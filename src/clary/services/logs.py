"""The `logs` service: what workers printed, and what own writers put, in groups and streams.

Events are stored in the order in which they came; reading goes by their time, where a late event counts as of the
moment it came after. Tokens are places: a forward token stays itself at the end of a stream, which is how clients know
that they have all.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from clary.domain.errors import AlreadyExists, ClaryError, InUse, Invalid, NotFound, Unsupported
from clary.domain.log_filter import parse
from clary.domain.names import Place, partition
from clary.services.base import Context, Handler, Members, common_error, present
from clary.store.log_segments import Event, NewEvent, Position, backward, forward
from clary.store.logs import LOG_STREAM, LogStore, StreamInfo, View
from clary.wire.errors import WireError

T = TypeVar("T")

DESCRIBE_LIMIT = 50
EVENTS_LIMIT = 10_000
EVENTS_BYTES = 1024 * 1024  # "as many log events as can fit in a response size of 1 MB" (GetLogEvents)
# Events that one FilterLogEvents looks at before it answers with a token to go on.
SCAN_LIMIT = 50_000
BATCH_BYTES = 1_048_576  # PutLogEvents: the sum of all messages plus 26 bytes for each
EVENT_OVERHEAD_BYTES = 26
TOO_NEW_MS = 2 * 3600 * 1000
TOO_OLD_MS = 14 * 24 * 3600 * 1000
FOREVER_MS = 1 << 62


class Logs:
    """The operations. `now_ms` is the clock, epoch milliseconds."""

    name = "logs"

    def __init__(self, store: LogStore, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self.operations: Mapping[str, Handler] = {
            "DescribeLogGroups": self.describe_log_groups,
            "DescribeLogStreams": self.describe_log_streams,
            "GetLogEvents": self.get_log_events,
            "FilterLogEvents": self.filter_log_events,
            "CreateLogGroup": self.create_log_group,
            "CreateLogStream": self.create_log_stream,
            "PutLogEvents": self.put_log_events,
            "DeleteLogGroup": self.delete_log_group,
            "DeleteLogStream": self.delete_log_stream,
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound():
                return WireError("ResourceNotFoundException", 400, f"The specified {error.kind} does not exist.")
            case AlreadyExists():
                return WireError("ResourceAlreadyExistsException", 400, f"The specified {error.kind} already exists")
            case InUse():
                return WireError("ValidationException", 400, str(error))
            case Invalid():
                return WireError("InvalidParameterException", 400, error.why)
            case Unsupported():
                return WireError("InvalidParameterException", 400, str(error))
            case _:
                return common_error(error, invalid="InvalidParameterException")

    # -- groups and streams ----------------------------------------------------------------------

    async def describe_log_groups(self, context: Context, request: Members) -> Members:
        context.authorize("logs:DescribeLogGroups", _arn(context.place, "*"))
        prefix, pattern = request.get("logGroupNamePrefix"), request.get("logGroupNamePattern")
        if prefix is not None and pattern is not None:
            raise Invalid("logGroupNamePattern", "logGroupNamePrefix and logGroupNamePattern are mutually exclusive")
        if request.get("includeLinkedAccounts") or set(request.get("accountIdentifiers", ())) - {context.place.account}:
            raise Unsupported("linked accounts", f"this clary has one account, {context.place.account}")
        wanted = {_group_name(one) for one in request.get("logGroupIdentifiers", ())}
        groups = [
            group
            for group in await self._call(self._store.groups, context.place)
            if group.name.startswith(prefix or "")
            and (pattern or "").lower() in group.name.lower()
            and (not wanted or group.name in wanted)
            and request.get("logGroupClass", "STANDARD") == "STANDARD"
        ]
        page, token = _page(groups, request)
        described = [
            {
                "logGroupName": group.name,
                "creationTime": group.created_ms,
                "metricFilterCount": 0,
                "arn": _arn(context.place, group.name) + ":*",
                "logGroupArn": _arn(context.place, group.name),
                "logGroupClass": "STANDARD",
                "storedBytes": group.stored_bytes,
                "deletionProtectionEnabled": group.deletion_protected,
            }
            for group in page
        ]
        return present(logGroups=described, nextToken=token)

    async def describe_log_streams(self, context: Context, request: Members) -> Members:
        group = self._group(context, "DescribeLogStreams", request)
        prefix, by_time = request.get("logStreamNamePrefix"), request.get("orderBy") == "LastEventTime"
        if by_time and prefix is not None:
            raise Invalid("orderBy", "Cannot order by LastEventTime with a logStreamNamePrefix.")
        streams = [
            stream
            for stream in await self._call(self._store.streams, context.place, group)
            if stream.name.startswith(prefix or "")
        ]
        if by_time:
            streams.sort(key=lambda stream: stream.last_event_ms or 0)
        if request.get("descending", False):
            streams.reverse()
        page, token = _page(streams, request)
        return present(logStreams=[_described(context.place, group, one) for one in page], nextToken=token)

    async def create_log_group(self, context: Context, request: Members) -> Members:
        name = request["logGroupName"]
        context.authorize("logs:CreateLogGroup", _arn(context.place, name))
        if request.get("kmsKeyId"):
            raise Unsupported("kmsKeyId", "log groups are not encrypted here; leave it out")
        if request.get("tags"):
            raise Unsupported("tags of a log group", "leave them out")
        if request.get("logGroupClass", "STANDARD") != "STANDARD":
            raise Unsupported(f"log group class {request['logGroupClass']}", "there is STANDARD only")
        protected = bool(request.get("deletionProtectionEnabled"))
        await self._call(partial(self._store.create_group, context.place, name, deletion_protected=protected))
        return {}

    async def create_log_stream(self, context: Context, request: Members) -> Members:
        group = self._group(context, "CreateLogStream", request)
        await self._call(self._store.create_stream, context.place, group, request["logStreamName"])
        return {}

    async def delete_log_group(self, context: Context, request: Members) -> Members:
        group = self._group(context, "DeleteLogGroup", request)
        await self._call(self._store.delete_group, context.place, group)
        return {}

    async def delete_log_stream(self, context: Context, request: Members) -> Members:
        group = self._group(context, "DeleteLogStream", request)
        await self._call(self._store.delete_stream, context.place, group, request["logStreamName"])
        return {}

    # -- events ----------------------------------------------------------------------------------

    async def put_log_events(self, context: Context, request: Members) -> Members:
        group = self._group(context, "PutLogEvents", request)
        events: list[dict[str, Any]] = request["logEvents"]
        times = [event["timestamp"] for event in events]
        if times != sorted(times):
            raise Invalid("logEvents", "Log events in a single PutLogEvents request must be in chronological order.")
        encoded = [(event["timestamp"], event["message"].encode()) for event in events]
        size_bytes = sum(len(message) + EVENT_OVERHEAD_BYTES for _, message in encoded)
        if size_bytes > BATCH_BYTES:
            raise Invalid("logEvents", f"Upload too large: {size_bytes} bytes exceeds limit of {BATCH_BYTES}")
        now_ms = self._now_ms()
        good = [
            NewEvent(at_ms, message)
            for at_ms, message in encoded
            if now_ms - TOO_OLD_MS <= at_ms <= now_ms + TOO_NEW_MS
        ]
        await self._call(self._store.append, context.place, group, request["logStreamName"], good)
        rejected = {}
        too_old = sum(1 for at_ms in times if at_ms < now_ms - TOO_OLD_MS)
        too_new = sum(1 for at_ms in times if at_ms > now_ms + TOO_NEW_MS)
        if too_old:
            rejected["tooOldLogEventEndIndex"] = too_old
        if too_new:
            rejected["tooNewLogEventStartIndex"] = len(times) - too_new
        # Sequence tokens are accepted and ignored by the service; one is still handed out for old clients.
        return present(nextSequenceToken=str(now_ms), rejectedLogEventsInfo=rejected or None)

    async def get_log_events(self, context: Context, request: Members) -> Members:
        group = self._group(context, "GetLogEvents", request)
        view = await self._call(self._store.view, context.place, group, request["logStreamName"])
        return await self._call(_get_events, view, request)

    async def filter_log_events(self, context: Context, request: Members) -> Members:
        group = self._group(context, "FilterLogEvents", request)
        names, prefix = request.get("logStreamNames"), request.get("logStreamNamePrefix")
        if names is not None and prefix is not None:
            raise Invalid("logStreamNamePrefix", "logStreamNames and logStreamNamePrefix are mutually exclusive")
        if request.get("startFromHead") is False:
            raise Unsupported("startFromHead=false", "FilterLogEvents answers the oldest events first; leave it out")
        held = [stream.name for stream in await self._call(self._store.streams, context.place, group)]
        if names is not None and set(names) - set(held):
            raise NotFound(LOG_STREAM, ", ".join(sorted(set(names) - set(held))))
        chosen = [name for name in held if name.startswith(prefix or "") and (names is None or name in names)]
        return await self._call(self._filter_events, context.place, group, chosen, request)

    def _filter_events(self, place: Place, group: str, names: list[str], request: Members) -> Members:
        matches = parse(request.get("filterPattern") or "").matches
        since_ms, until_ms = request.get("startTime", 0), request.get("endTime", FOREVER_MS)
        limit = request.get("limit", EVENTS_LIMIT)
        after = _filter_position(request.get("nextToken"))
        merged = heapq.merge(
            *(self._events_after(place, group, name, max(since_ms, after[0] if after else 0)) for name in names),
            key=lambda pair: (pair[1].key_ms, pair[0], pair[1].position),
        )
        found: list[dict[str, Any]] = []
        size_bytes = looked = 0
        token: str | None = None
        last = after
        for name, event in merged:
            place_of_it = (event.key_ms, name, event.position.segment, event.position.offset)
            if after is not None and place_of_it <= after:
                continue
            # endTime is told apart by each event's own time; keys grow, and a key is never below the event's time.
            looked += 1
            size_bytes += len(event.message)
            if len(found) == limit or (found and size_bytes > EVENTS_BYTES) or looked > SCAN_LIMIT:
                token = json.dumps(last) if last is not None else None
                break
            last = place_of_it
            if not since_ms <= event.at_ms < until_ms:
                size_bytes -= len(event.message)
                continue
            text = event.text
            if not matches(text):
                size_bytes -= len(event.message)
                continue
            found.append(
                {
                    "logStreamName": name,
                    "timestamp": event.at_ms,
                    "message": text,
                    "ingestionTime": event.ingested_ms,
                    "eventId": f"{event.key_ms:020d}{event.position.segment:012d}{event.position.offset:024d}",
                }
            )
        return present(events=found, searchedLogStreams=[], nextToken=token)

    def _events_after(self, place: Place, group: str, name: str, since_ms: int) -> Iterator[tuple[str, Event]]:
        try:
            view = self._store.view(place, group, name)
        except NotFound:
            return  # deleted while others were read
        for event in forward(view.segments, Position(), since_ms):
            if event.key_ms >= since_ms:
                yield name, event

    # -- within ----------------------------------------------------------------------------------

    def _group(self, context: Context, action: str, request: Members) -> str:
        """The group's name, from either of the two members that may name it. Raises: Invalid, AccessDenied."""
        name, identifier = request.get("logGroupName"), request.get("logGroupIdentifier")
        if (name is None) == (identifier is None):
            raise Invalid("logGroupName", "Exactly one of logGroupName and logGroupIdentifier must be given")
        found = name if name is not None else _group_name(str(identifier))
        context.authorize(f"logs:{action}", _arn(context.place, found))
        return str(found)

    @staticmethod
    async def _call(work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(work, *arguments)


def _get_events(view: View, request: Members) -> Members:
    since_ms, until_ms = request.get("startTime", 0), request.get("endTime", FOREVER_MS)
    limit = request.get("limit", EVENTS_LIMIT)
    token = _position(request.get("nextToken"))
    direction, place = token if token else ("f" if request.get("startFromHead", False) else "b", None)
    if direction == "b":
        end = place if place is not None else view.end
        events = backward(view.segments, end, limit, EVENTS_BYTES, since_ms, until_ms)
        first = events[0].position if events else end
        last = events[-1].next if events else end
        return _events(events, first, last)
    start = place if place is not None else Position(view.segments[0].number if view.segments else 1, 0)
    events, size_bytes, reached = [], 0, start
    for event in forward(view.segments, start, since_ms):
        if len(events) == limit or (events and size_bytes + len(event.message) > EVENTS_BYTES):
            break
        reached = event.next
        if since_ms <= event.at_ms < until_ms:
            size_bytes += len(event.message)
            events.append(event)
    return _events(events, events[0].position if events else start, reached)


def _events(events: list[Event], first: Position, last: Position) -> Members:
    return {
        "events": [
            {"timestamp": event.at_ms, "message": event.text, "ingestionTime": event.ingested_ms} for event in events
        ],
        "nextForwardToken": f"f/{last.segment}/{last.offset}",
        "nextBackwardToken": f"b/{first.segment}/{first.offset}",
    }


def _position(token: str | None) -> tuple[str, Position] | None:
    """Direction and place of a token of ours. Raises: Invalid."""
    if token is None:
        return None
    direction, _, rest = token.partition("/")
    segment, _, offset = rest.partition("/")
    if direction not in ("f", "b") or not (segment.isdecimal() and offset.isdecimal()):
        raise Invalid("nextToken", "The specified nextToken is invalid.")
    return direction, Position(int(segment), int(offset))


def _filter_position(token: str | None) -> tuple[int, str, int, int] | None:
    """Raises: Invalid."""
    if token is None:
        return None
    try:
        key_ms, name, segment, offset = json.loads(token)
        return int(key_ms), str(name), int(segment), int(offset)
    except (ValueError, TypeError):
        raise Invalid("nextToken", "The specified nextToken is invalid.") from None


def _page(items: list[T], request: Members) -> tuple[list[T], str | None]:
    """The page that the request asks for. Tokens count from the start of the listing. Raises: Invalid."""
    token = request.get("nextToken")
    if token is not None and not token.isdecimal():
        raise Invalid("nextToken", "The specified nextToken is invalid.")
    first = int(token or 0)
    last = first + request.get("limit", DESCRIBE_LIMIT)
    return items[first:last], str(last) if last < len(items) else None


def _described(place: Place, group: str, stream: StreamInfo) -> Members:
    return present(
        logStreamName=stream.name,
        creationTime=stream.created_ms,
        firstEventTimestamp=stream.first_event_ms,
        lastEventTimestamp=stream.last_event_ms,
        lastIngestionTime=stream.last_ingested_ms,
        uploadSequenceToken=str(stream.last_ingested_ms or stream.created_ms),
        arn=f"{_arn(place, group)}:log-stream:{stream.name}",
        storedBytes=stream.stored_bytes,
    )


def _arn(place: Place, group: str) -> str:
    return f"arn:{partition(place.region)}:logs:{place.region}:{place.account}:log-group:{group}"


def _group_name(identifier: str) -> str:
    """The name in a group's ARN; a name is one already."""
    return identifier.split(":", 6)[6].removesuffix(":*") if identifier.startswith("arn:") else identifier
