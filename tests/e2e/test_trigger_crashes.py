"""Control killed with -9 between what causes something and what it causes: nothing is lost, queues hear once.

The steps are read from the source: one that gets a failpoint is killed here from then on, and has to be reached.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import ROLE, Clary, wait_for
from test_triggers import packed

import clary

SOURCE = Path(clary.__file__).parent
STEPS = sorted(
    {name for file in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("(trigger\.[^"]+)"\)', file.read_text())}
)
RAN = """
import boto3, os, urllib.parse

def handler(event, context):
    record = event["Records"][0]["s3"]
    key = urllib.parse.unquote_plus(record["object"]["key"])
    boto3.client("s3").put_object(Bucket=record["bucket"]["name"], Key=f"ran/{key}/{os.urandom(4).hex()}", Body=b"")
"""


class Story:
    """Something that is uploaded and something that is scheduled, with a control that dies once."""

    def __init__(self, one: Clary) -> None:
        self.one = one
        self.bucket = f"b-{uuid.uuid4().hex[:10]}"
        self.name = f"n-{uuid.uuid4().hex[:10]}"
        self.heard: Counter[tuple[str, str]] = Counter()  # (key, sequencer)

    def patiently(self, service: str, operation: str, **request: Any) -> Any:
        """A call that is made again while control is away; done already counts as done."""

        def tried() -> Any:
            try:
                return getattr(self.one.client(service), operation)(**request)
            except BotoCoreError:
                return None
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("ConflictException", "ResourceConflictException"):
                    return {"done": "before"}
                if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    raise
                return None

        return wait_for(tried, 60, f"{operation} to be answered")

    def tell(self) -> None:
        """Everything that is to have a consequence."""
        url = self.patiently("sqs", "create_queue", QueueName=self.name)["QueueUrl"]
        attributes = self.patiently("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
        self.url, arn = url, attributes["Attributes"]["QueueArn"]
        self.patiently(
            "lambda",
            "create_function",
            FunctionName=self.name,
            Runtime="python3.11",
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": packed(app=RAN)},
            Timeout=60,
        )
        wait_for(
            lambda: (
                self.patiently("lambda", "get_function", FunctionName=self.name)["Configuration"]["State"] == "Active"
            ),
            60,
            "the function",
        )
        function = f"arn:aws:lambda:us-east-1:123456789012:function:{self.name}"
        self.patiently("s3", "create_bucket", Bucket=self.bucket)
        configurations = {
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": prefix("in/")}],
            "LambdaFunctionConfigurations": [
                {"LambdaFunctionArn": function, "Events": ["s3:ObjectCreated:*"], "Filter": prefix("work/")}
            ],
        }
        self.patiently(
            "s3",
            "put_bucket_notification_configuration",
            Bucket=self.bucket,
            NotificationConfiguration=configurations,
        )
        for folder in ("in", "work"):
            for number in range(2):
                key = f"{folder}/{number}"
                self.patiently("s3", "put_object", Bucket=self.bucket, Key=key, Body=b"x")
        self.patiently(
            "scheduler",
            "create_schedule",
            Name=self.name,
            ScheduleExpression="rate(1 hour)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": arn, "RoleArn": ROLE, "Input": '{"fired": true}'},
        )

    def hear(self) -> None:
        """Takes the messages that are there."""
        found = self.patiently("sqs", "receive_message", QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in found.get("Messages", []):
            body = json.loads(message["Body"])
            if "fired" in body:
                self.heard["fired", ""] += 1
            else:
                told = body["Records"][0]["s3"]["object"]
                self.heard[told["key"], told["sequencer"]] += 1

    def ran(self) -> set[str]:
        """The keys for which the function ran."""
        listed = self.patiently("s3", "list_objects_v2", Bucket=self.bucket, Prefix="ran/").get("Contents", [])
        return {entry["Key"].removeprefix("ran/").rpartition("/")[0] for entry in listed}


def prefix(text: str) -> dict[str, Any]:
    return {"Key": {"FilterRules": [{"Name": "prefix", "Value": text}]}}


@pytest.fixture(scope="module")
def mortal(start_clary: Callable[..., Clary], tmp_path_factory: pytest.TempPathFactory) -> tuple[Clary, Path]:
    armed = tmp_path_factory.mktemp("failpoint") / "armed"
    return start_clary(CLARY_FAILPOINT_FILE=str(armed), CLARY_FUNCTION_RETRY_S="0.2"), armed


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_nothing_is_lost_and_queues_hear_once(mortal: tuple[Clary, Path], step: str) -> None:
    one, armed = mortal
    story = Story(one)
    armed.write_text(step)
    story.tell()
    wait_for(lambda: not armed.exists(), 30, f"{step} to be reached")

    def all_heard() -> bool:
        story.hear()
        keys = {key for key, _ in story.heard}
        return keys == {"in/0", "in/1", "fired"} and story.ran() >= {"work/0", "work/1"}

    wait_for(all_heard, 60, "everything to be told")
    story.hear()
    # A put that control's death left unanswered is made again by its client: two changes, each told once.
    assert max(story.heard.values()) == 1, story.heard
