"""`clary logs`: what an endpoint's workers printed, in order, as CloudWatch Logs keeps it."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from clary.cli.client import Clients, explain
from clary.cli.local import Local
from clary.cli.output import DataOption, JsonOption, data_dir, fail, print_json

POLL_S = 0.3


def logs(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name; see --job and --component.")],
    job: Annotated[bool, typer.Option("--job", help="The name is a transform job's.")] = False,
    component: Annotated[bool, typer.Option("--component", help="The name is an inference component's.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print what comes.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", help="The last so many lines; 0 for all.")] = 100,
    region: Annotated[str | None, typer.Option(help="Region of the endpoint.", show_default="us-east-1")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the logs of an endpoint's, an inference component's or a job's workers."""
    client = Clients(Local(data_dir(data)), region)("logs")
    if job and component:
        fail("--job and --component exclude each other")
    kind = "InferenceComponents" if component else "Endpoints"
    group = "/aws/sagemaker/TransformJobs" if job else f"/aws/sagemaker/{kind}/{endpoint}"
    streams = f"{endpoint}/" if job else ""
    try:
        events = _events(client, group, streams, 0)
        shown = events[-tail:] if tail else events
        if as_json:
            print_json(shown)
            return
        seen = {event["eventId"] for event in events}
        _print(shown)
        newest_ms = max((event["timestamp"] for event in events), default=0)
        while follow:
            time.sleep(POLL_S)
            fresh = [event for event in _events(client, group, streams, newest_ms) if event["eventId"] not in seen]
            _print(fresh)
            seen |= {event["eventId"] for event in fresh}
            newest_ms = max((event["timestamp"] for event in fresh), default=newest_ms)
    except KeyboardInterrupt:
        return
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            fail(f"no worker of {endpoint} has printed anything yet (log group {group})")
        explain(error)
    except BotoCoreError as error:
        explain(error)


def _events(client: Any, group: str, streams: str, since_ms: int) -> list[dict[str, Any]]:
    """All events of the group's streams that begin with `streams` from `since_ms` on, in time order."""
    found: list[dict[str, Any]] = []
    token: dict[str, str] = {"logStreamNamePrefix": streams} if streams else {}
    while True:
        page = client.filter_log_events(logGroupName=group, startTime=since_ms, **token)
        found += page["events"]
        if not page.get("nextToken"):
            return found
        token["nextToken"] = page["nextToken"]


def _print(events: list[dict[str, Any]]) -> None:
    for event in events:
        at = time.strftime("%H:%M:%S", time.localtime(event["timestamp"] / 1000))
        stream = event["logStreamName"].partition("/")[2]  # the worker, and its container where there are several
        sys.stdout.write(f"{at}.{event['timestamp'] % 1000:03d} {stream} {event['message'].rstrip()}\n")
    sys.stdout.flush()
