"""The cheap way to run batches: uploads and schedules start functions, those start transform jobs, ends are told."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import ROLE, Clary, Trained, serverless, wait_for
from test_rights import TRUST, client, policy, refusal


@pytest.fixture(scope="module")
def one(start_clary: Callable[..., Clary]) -> Clary:
    return start_clary(CLARY_FUNCTION_RETRY_S="0.2")


def packed(**files: str) -> bytes:
    """A zip of `name.py` for every name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.py", text)
    return content.getvalue()


def function(one: Clary, code: str, **members: Any) -> str:
    """An active function whose handler is `app.handler`."""
    name = f"f-{uuid.uuid4().hex[:10]}"
    client = one.client("lambda")
    client.create_function(
        FunctionName=name,
        **{
            "Runtime": "python3.11",
            "Role": ROLE,
            "Handler": "app.handler",
            "Code": {"ZipFile": packed(app=code)},
            "Timeout": 30,
            **members,
        },
    )
    wait_for(lambda: client.get_function(FunctionName=name)["Configuration"]["State"] != "Pending", 120, f"{name}")
    state = client.get_function(FunctionName=name)["Configuration"]
    assert state["State"] == "Active", state
    return name


def arn_of(one: Clary, name: str) -> str:
    arn: str = one.client("lambda").get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    return arn


def invoke(one: Clary, name: str, event: Any, **options: Any) -> tuple[dict[str, Any], Any]:
    answer = one.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event), **options)
    body = answer["Payload"].read()
    return answer, json.loads(body) if body else None


def bucket(one: Clary) -> str:
    name = f"b-{uuid.uuid4().hex[:10]}"
    one.client("s3").create_bucket(Bucket=name)
    return name


def found(one: Clary, place: str, key: str) -> bytes | None:
    """An object's content; None while there is none."""
    try:
        body: bytes = one.client("s3").get_object(Bucket=place, Key=key)["Body"].read()
    except ClientError:
        return None
    return body


# -- functions --------------------------------------------------------------------------------------

MIRROR = """
import os, sys, boto3

def handler(event, context):
    print("hello from", context.function_name)
    who = boto3.client("sts").get_caller_identity()["Arn"]
    return {
        "event": event, "who": who, "uid": os.getuid(), "word": os.environ["WORD"],
        "left_ms": context.get_remaining_time_in_millis(), "id": context.aws_request_id,
        "environ": dict(os.environ),
    }
"""


def test_a_function_runs_with_its_roles_session_and_answers(one: Clary) -> None:
    name = function(one, MIRROR, Environment={"Variables": {"WORD": "yes"}}, Tags={"a": "b"})
    answer, body = invoke(one, name, {"x": [1, "ü"]}, LogType="Tail")
    assert (answer["StatusCode"], answer.get("FunctionError"), answer["ExecutedVersion"]) == (200, None, "$LATEST"), (
        body
    )
    assert body["event"] == {"x": [1, "ü"]}
    assert body["who"] == f"arn:aws:sts::123456789012:assumed-role/clary-execution-role/{name}"
    assert body["word"] == "yes"
    assert 0 < body["left_ms"] <= 30_000
    environ = body["environ"]
    assert environ["AWS_ACCESS_KEY_ID"] != one.variables["AWS_ACCESS_KEY_ID"]
    assert one.variables["AWS_SECRET_ACCESS_KEY"] not in json.dumps(environ)
    group = environ["AWS_LAMBDA_LOG_GROUP_NAME"]
    assert group == f"/aws/lambda/{name}"
    logs = one.client("logs")
    events = logs.get_log_events(logGroupName=group, logStreamName=environ["AWS_LAMBDA_LOG_STREAM_NAME"])["events"]
    lines = [event["message"] for event in events]
    assert f"hello from {name}" in lines
    assert lines[-1].startswith(f"REPORT RequestId: {body['id']}")
    client = one.client("lambda")
    assert client.list_tags(Resource=arn_of(one, name))["Tags"] == {"a": "b"}
    assert name in [entry["FunctionName"] for entry in client.list_functions()["Functions"]]
    assert client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204


FAULTY = """
import os, time

def handler(event, context):
    match event:
        case {"raise": text}:
            raise ValueError(text)
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"exit": code}:
            os._exit(code)
        case {"return": "set"}:
            return {1, 2}
        case {"memory": mib}:
            return len(b"x" * (mib << 20))
        case {"connect": place}:
            import socket
            return socket.create_connection(tuple(place), timeout=3).getpeername()
        case {"large": count}:
            return "x" * count
    return sorted(os.listdir("/")), os.getuid()
"""


def test_failures_are_told_in_lambdas_own_shape(one: Clary) -> None:
    name = function(one, FAULTY, Timeout=2, MemorySize=128)

    def failed(event: Any) -> dict[str, Any]:
        answer, body = invoke(one, name, event)
        assert answer["FunctionError"] == "Unhandled", body
        told: dict[str, Any] = body
        return told

    told = failed({"raise": "no"})
    assert (told["errorType"], told["errorMessage"]) == ("ValueError", "no")
    assert any("in handler" in line for line in told["stackTrace"])
    assert "Task timed out after 2.00 seconds" in failed({"sleep": 20})["errorMessage"]
    assert failed({"exit": 3})["errorType"] == "Runtime.ExitError"
    assert failed({"return": "set"})["errorType"] == "Runtime.MarshalError"
    assert failed({"large": 7 << 20})["errorType"] == "Function.ResponseSizeTooLarge"
    if one.isolation()["cgroup_version"]:
        assert failed({"memory": 400})["errorType"] in ("Runtime.OutOfMemory", "MemoryError")
    assert invoke(one, name, {"large": 5 << 20})[1] == "x" * (5 << 20)
    missing = function(one, "import nothing_such")
    body = invoke(one, missing, {})[1]
    assert body["errorType"] == "Runtime.ImportModuleError"
    assert "nothing_such" in body["errorMessage"]


def test_a_function_reaches_clary_and_nothing_else(one: Clary) -> None:
    walls = one.isolation()
    if not walls["private_network"]:
        pytest.skip("no network walls on this host")
    name = function(one, FAULTY)
    assert invoke(one, name, {"connect": ["127.0.0.1", one.port]})[1] == ["127.0.0.1", one.port]
    assert invoke(one, name, {"connect": ["127.0.0.1", 22]})[0]["FunctionError"] == "Unhandled"
    assert invoke(one, name, {"connect": ["10.0.0.1", 80]})[0]["FunctionError"] == "Unhandled"
    folders, uid = invoke(one, name, {})[1]
    assert "root" not in folders
    assert "home" not in folders
    if walls["own_uid"]:
        assert uid >= 52000


def test_what_is_not_served_is_refused_by_name(one: Clary) -> None:
    client = one.client("lambda")

    def refused(match: str, code: str = "InvalidParameterValueException", **members: Any) -> None:
        request: dict[str, Any] = {
            "FunctionName": "refused",
            "Runtime": "python3.11",
            "Role": ROLE,
            "Handler": "app.handler",
            "Code": {"ZipFile": packed(app="")},
        }
        with pytest.raises(ClientError, match=match) as caught:
            client.create_function(**{**request, **members})
        assert caught.value.response["Error"]["Code"] == code

    refused("nodejs20.x", Runtime="nodejs20.x")
    refused("Layers", Layers=["arn:aws:lambda:us-east-1:123456789012:layer:x:1"])
    refused("reserved keys", Environment={"Variables": {"AWS_REGION": "x"}})
    refused("unzip", Code={"ZipFile": b"nothing"})
    refused("NoSuchKey", Code={"S3Bucket": bucket(one), "S3Key": "x.zip"})
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="Function not found: arn:aws:lambda"):
        client.get_function(FunctionName="nothing")
    with pytest.raises(ClientError, match="version or alias"):
        client.invoke(FunctionName="nothing:prod")


def test_code_and_configuration_change_and_a_function_goes(one: Clary) -> None:
    client = one.client("lambda")
    place = bucket(one)
    code = """import os
def handler(event, context):
    return %d, os.environ.get("WORD"), context.memory_limit_in_mb
"""
    one.client("s3").put_object(Bucket=place, Key="one.zip", Body=packed(app=code % 1))
    name = function(one, "", Code={"S3Bucket": place, "S3Key": "one.zip"})
    assert invoke(one, name, {})[1] == [1, None, "128"]
    updated = client.update_function_code(FunctionName=name, ZipFile=packed(app=code % 2))
    assert updated["LastUpdateStatus"] == "InProgress"
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
    client.update_function_configuration(FunctionName=name, MemorySize=256, Environment={"Variables": {"WORD": "b"}})
    assert invoke(one, name, {})[1] == [2, "b", "256"]
    client.update_function_code(FunctionName=name, ZipFile=b"PK broken")
    wait_for(
        lambda: client.get_function_configuration(FunctionName=name)["LastUpdateStatus"] == "Failed", 30, "the refusal"
    )
    assert invoke(one, name, {})[1] == [2, "b", "256"]
    client.add_permission(
        FunctionName=name, StatementId="s3", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com"
    )
    policy = json.loads(client.get_policy(FunctionName=name)["Policy"])
    assert policy["Statement"][0]["Principal"] == {"Service": "s3.amazonaws.com"}
    client.remove_permission(FunctionName=name, StatementId="s3")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName=name)
    client.delete_function(FunctionName=name)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName=name)


COUNTS = """
import boto3, os

def handler(event, context):
    s3 = boto3.client("s3")
    s3.put_object(Bucket=event["bucket"], Key=f"{context.aws_request_id}/{os.urandom(4).hex()}", Body=b"")
    if event.get("fail"):
        raise RuntimeError("again")
"""


@pytest.mark.parametrize("by", ["an invocation", "a rule"])
def test_what_fails_asynchronously_is_tried_three_times_and_then_goes_to_its_queue(one: Clary, by: str) -> None:
    sqs = one.client("sqs")
    queue = sqs.create_queue(QueueName=f"dead-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    name = function(one, COUNTS, DeadLetterConfig={"TargetArn": arn})
    place = bucket(one)
    event = {"bucket": place, "fail": True}
    if by == "a rule":
        rule(one, {"source": [name]}, {"Id": "f", "Arn": arn_of(one, name), "InputPath": "$.detail"})
        one.client("events").put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": json.dumps(event)}])
    else:
        answer, body = invoke(one, name, event, InvocationType="Event")
        assert (answer["StatusCode"], body) == (202, None)
    (letter,) = wait_for(
        lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages"), 60, "the dead letter"
    )
    assert json.loads(letter["Body"]) == event
    keys = [entry["Key"] for entry in one.client("s3").list_objects_v2(Bucket=place)["Contents"]]
    assert len(keys) == 3
    assert len({key.split("/")[0] for key in keys}) == 1


BATCHES = """
import boto3, json, os

def handler(event, context):
    failed = []
    for record in event["Records"]:
        body = json.loads(record["body"])
        if body.get("bad"):
            failed.append({"itemIdentifier": record["messageId"]})
        else:
            word = record["messageAttributes"]["word"]["stringValue"]
            boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=f"{body['n']}", Body=word)
    return {"batchItemFailures": failed}
"""


def test_a_queues_messages_come_to_a_function_in_batches(one: Clary) -> None:
    sqs, client, place = one.client("sqs"), one.client("lambda"), bucket(one)
    urls = [sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"] for _ in range(2)]
    arns = [
        sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"] for url in urls
    ]
    redrive = json.dumps({"deadLetterTargetArn": arns[1], "maxReceiveCount": 1})
    sqs.set_queue_attributes(QueueUrl=urls[0], Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "1"})
    name = function(one, BATCHES, Environment={"Variables": {"BUCKET": place}}, Timeout=3)
    attributes = {"word": {"DataType": "String", "StringValue": "yes"}}
    for body in ({"n": 1}, {"n": 2}, {"bad": True}):
        sqs.send_message(QueueUrl=urls[0], MessageBody=json.dumps(body), MessageAttributes=attributes)
    partial = {"FunctionResponseTypes": ["ReportBatchItemFailures"], "BatchSize": 5}
    mapping = client.create_event_source_mapping(EventSourceArn=arns[0], FunctionName=name, **partial)
    assert mapping["State"] == "Enabled"
    for key in ("1", "2"):
        assert wait_for(lambda k=key: found(one, place, k), 30, f"message {key}") == b"yes"
    assert drained(one, urls[1], 1) == [{"bad": True}]
    counts = sqs.get_queue_attributes(QueueUrl=urls[0], AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == counts["ApproximateNumberOfMessagesNotVisible"] == "0"
    (listed,) = client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    assert listed["UUID"] == mapping["UUID"]
    assert client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)["State"] == "Disabled"
    with pytest.raises(client.exceptions.ResourceConflictException):
        client.create_event_source_mapping(EventSourceArn=arns[0], FunctionName=name)
    with pytest.raises(ClientError, match="FilterCriteria"):
        client.update_event_source_mapping(UUID=mapping["UUID"], FilterCriteria={"Filters": [{"Pattern": "{}"}]})
    client.delete_event_source_mapping(UUID=mapping["UUID"])
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_event_source_mapping(UUID=mapping["UUID"])


# -- buckets ----------------------------------------------------------------------------------------

START = """
import boto3, os, urllib.parse

def handler(event, context):
    record = event["Records"][0]
    bucket = record["s3"]["bucket"]["name"]
    key = urllib.parse.unquote_plus(record["s3"]["object"]["key"])
    boto3.client("sagemaker").create_transform_job(
        TransformJobName="t-" + context.aws_request_id,
        ModelName=os.environ["MODEL"],
        TransformInput={
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/{key}"}},
            "ContentType": "text/csv", "SplitType": "Line",
        },
        TransformOutput={"S3OutputPath": f"s3://{bucket}/out", "AssembleWith": "Line"},
        TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
    )
"""


def test_an_upload_starts_a_transform_job(one: Clary, forest: Trained) -> None:
    model = one.model(one.upload(dict(forest.files)), "clary/sklearn")
    name = function(one, START, Environment={"Variables": {"MODEL": model}})
    place = bucket(one)
    s3 = one.client("s3")
    s3.put_bucket_notification_configuration(
        Bucket=place,
        NotificationConfiguration={
            "LambdaFunctionConfigurations": [
                {
                    "LambdaFunctionArn": arn_of(one, name),
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}},
                }
            ]
        },
    )
    (kept,) = s3.get_bucket_notification_configuration(Bucket=place)["LambdaFunctionConfigurations"]
    assert kept["Id"]
    s3.put_object(Bucket=place, Key="other.csv", Body=forest.csv())
    s3.put_object(Bucket=place, Key="in/a file.csv", Body=forest.csv())
    output = wait_for(lambda: found(one, place, "out/a file.csv.out"), 120, "the job's output")
    assert len(output.splitlines()) == 5
    jobs = one.client("sagemaker").list_transform_jobs(NameContains="t-")["TransformJobSummaries"]
    assert len(jobs) == 1


# -- the bus ----------------------------------------------------------------------------------------


@pytest.fixture
def queue(one: Clary) -> tuple[str, str]:
    """(URL, ARN) of a queue."""
    sqs = one.client("sqs")
    url = sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def rule(one: Clary, pattern: dict[str, Any], *targets: dict[str, Any]) -> str:
    name = f"r-{uuid.uuid4().hex[:8]}"
    events = one.client("events")
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    assert events.put_targets(Rule=name, Targets=list(targets))["FailedEntryCount"] == 0
    return name


def drained(one: Clary, url: str, count: int, limit_s: float = 20) -> list[Any]:
    """`count` messages' bodies, in the order they came, deleted."""
    sqs, bodies = one.client("sqs"), []

    def enough() -> bool:
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            bodies.append(json.loads(message["Body"]))
        return len(bodies) >= count

    wait_for(enough, limit_s, f"{count} messages")
    assert len(bodies) == count
    return bodies


def test_events_go_to_the_targets_of_the_rules_that_they_match(one: Clary, queue: tuple[str, str]) -> None:
    url, arn = queue
    events = one.client("events")
    transformer = {"InputPathsMap": {"n": "$.detail.n"}, "InputTemplate": '{"told": "<n> came"}'}
    pattern = {"source": ["my.app"], "detail": {"n": [{"numeric": [">", 1]}]}}
    name = rule(one, pattern, {"Id": "all", "Arn": arn}, {"Id": "part", "Arn": arn, "InputTransformer": transformer})
    entries = [{"Source": "my.app", "DetailType": "Counted", "Detail": json.dumps({"n": n})} for n in (1, 2)]
    answer = events.put_events(Entries=[*entries, {"Source": "my.app", "DetailType": "x", "Detail": "no"}])
    assert answer["FailedEntryCount"] == 1
    assert answer["Entries"][2]["ErrorCode"] == "MalformedDetail"
    whole, part = sorted(drained(one, url, 2), key=lambda body: "told" in body)
    assert part == {"told": "2 came"}
    assert (whole["id"], whole["detail-type"], whole["detail"]) == (
        answer["Entries"][1]["EventId"],
        "Counted",
        {"n": 2},
    )
    assert events.list_rule_names_by_target(TargetArn=arn)["RuleNames"] == [name]
    assert json.loads(events.describe_rule(Name=name)["EventPattern"]) == pattern
    assert [target["Id"] for target in events.list_targets_by_rule(Rule=name)["Targets"]] == ["all", "part"]
    events.disable_rule(Name=name)
    events.put_events(Entries=entries)
    with pytest.raises(ClientError, match="has targets"):
        events.delete_rule(Name=name)
    events.remove_targets(Rule=name, Ids=["all", "part"])
    events.delete_rule(Name=name)
    with pytest.raises(events.exceptions.ResourceNotFoundException):
        events.describe_rule(Name=name)
    with pytest.raises(events.exceptions.InvalidEventPatternException):
        events.put_rule(Name="bad", EventPattern='{"source": "x"}')
    with pytest.raises(ClientError, match="event bus mine"):
        events.put_rule(Name="bad", EventPattern="{}", EventBusName="mine")
    assert "Messages" not in one.client("sqs").receive_message(QueueUrl=url)


def test_buckets_tell_queues_topics_and_the_bus(one: Clary, queue: tuple[str, str]) -> None:
    url, arn = queue
    s3, sns, place = one.client("s3"), one.client("sns"), bucket(one)
    topic = sns.create_topic(Name=f"t-{uuid.uuid4().hex[:8]}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    rule(one, {"source": ["aws.s3"], "detail": {"bucket": {"name": [place]}}}, {"Id": "q", "Arn": arn})
    s3.put_bucket_notification_configuration(
        Bucket=place,
        NotificationConfiguration={
            "QueueConfigurations": [{"Id": "made", "QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}],
            "TopicConfigurations": [{"Id": "gone", "TopicArn": topic, "Events": ["s3:ObjectRemoved:*"]}],
            "EventBridgeConfiguration": {},
        },
    )
    etag = s3.put_object(Bucket=place, Key="ü b.txt", Body=b"hello")["ETag"].strip('"')
    made, on_bus = sorted(drained(one, url, 2), key=lambda body: "detail" in body)
    record = made["Records"][0]
    assert (record["eventName"], record["s3"]["configurationId"]) == ("ObjectCreated:Put", "made")
    assert record["s3"]["object"]["key"] == "%C3%BC+b.txt"
    assert (record["s3"]["object"]["size"], record["s3"]["object"]["eTag"]) == (5, etag)
    assert (on_bus["detail-type"], on_bus["detail"]["object"]["key"]) == ("Object Created", "ü b.txt")
    s3.copy_object(Bucket=place, Key="copy", CopySource={"Bucket": place, "Key": "ü b.txt"})
    assert {body["Records"][0]["eventName"] for body in drained(one, url, 2) if "Records" in body} == {
        "ObjectCreated:Copy"
    }
    s3.delete_objects(Bucket=place, Delete={"Objects": [{"Key": "copy"}, {"Key": "never was"}]})
    gone = drained(one, url, 2)
    assert {body["Records"][0]["eventName"] for body in gone if "Records" in body} == {"ObjectRemoved:Delete"}
    upload = s3.create_multipart_upload(Bucket=place, Key="large")["UploadId"]
    part = s3.upload_part(Bucket=place, Key="large", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    for _ in range(2):
        s3.complete_multipart_upload(Bucket=place, Key="large", UploadId=upload, MultipartUpload=parts)
    names = [body["Records"][0]["eventName"] for body in drained(one, url, 2) if "Records" in body]
    assert names == ["ObjectCreated:CompleteMultipartUpload"]
    with pytest.raises(ClientError, match="Unable to validate the following destination"):
        s3.put_bucket_notification_configuration(
            Bucket=place,
            NotificationConfiguration={
                "QueueConfigurations": [{"QueueArn": arn + "x", "Events": ["s3:ObjectCreated:*"]}]
            },
        )
    s3.put_bucket_notification_configuration(Bucket=place, NotificationConfiguration={})
    s3.put_object(Bucket=place, Key="untold", Body=b"")
    assert "Messages" not in one.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1)


END = """
import boto3, json, os

def handler(event, context):
    name = event["detail"]["TransformJobName"]
    boto3.client("s3").put_object(Bucket=os.environ["BUCKET"], Key=f"ends/{name}", Body=json.dumps(event))
"""


def job_of(model: str, place: str, name: str) -> dict[str, Any]:
    """The members of a CreateTransformJob over `in/` of a bucket."""
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{place}/in/"}}
    return {
        "TransformJobName": name,
        "ModelName": model,
        "TransformInput": {"DataSource": source, "ContentType": "text/csv", "SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": f"s3://{place}/out", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }


def test_a_schedule_starts_a_transform_job_without_a_function_and_a_function_records_its_end(
    one: Clary, forest: Trained
) -> None:
    place = bucket(one)
    one.client("s3").put_object(Bucket=place, Key="in/a.csv", Body=forest.csv())
    model = one.model(one.upload(dict(forest.files)), "clary/sklearn")
    end = function(one, END, Environment={"Variables": {"BUCKET": place}})
    ended = {"TransformJobStatus": ["Completed", "Failed"], "ModelName": [model]}
    pattern = {"detail-type": ["SageMaker Transform Job State Change"], "detail": ended}
    rule(one, pattern, {"Id": "end", "Arn": arn_of(one, end)})
    scheduler = one.client("scheduler")
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:sagemaker:createTransformJob",
        "RoleArn": ROLE,
        "Input": json.dumps(job_of(model, place, "nightly-<aws.scheduler.execution-id>")),
    }
    request = {
        "Name": "nightly",
        "ScheduleExpression": "rate(1 hour)",
        "ScheduleExpressionTimezone": "Asia/Seoul",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": target,
    }
    scheduler.create_schedule(**request)
    assert scheduler.get_schedule(Name="nightly")["Target"]["Input"] == target["Input"]
    assert [entry["Name"] for entry in scheduler.list_schedules()["Schedules"]] == ["nightly"]
    with pytest.raises(scheduler.exceptions.ConflictException):
        scheduler.create_schedule(**request)
    jobs = one.client("sagemaker").list_transform_jobs
    (job,) = wait_for(lambda: jobs(NameContains="nightly")["TransformJobSummaries"], 30, "the job")
    name = job["TransformJobName"]
    told = json.loads(wait_for(lambda: found(one, place, f"ends/{name}"), 60, "the end to be recorded"))
    assert told["source"] == "aws.sagemaker"
    assert (told["detail"]["TransformJobName"], told["detail"]["TransformJobStatus"]) == (name, "Completed")
    assert told["resources"] == [job["TransformJobArn"]]
    assert told["detail"]["TransformOutput"]["S3OutputPath"] == f"s3://{place}/out"
    assert told["detail"]["TransformEndTime"] >= told["detail"]["CreationTime"]
    assert len(jobs(NameContains="nightly")["TransformJobSummaries"]) == 1
    for members, match in (
        ({"FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5}}, "flexible"),
        ({"ScheduleExpressionTimezone": "Mars/Olympus"}, "time zone"),
        ({"ScheduleExpression": "cron(0 9 * * *)"}, "six fields"),
        ({"Target": {**target, "Input": "{}"}}, "transformJobName"),
        ({"Target": {**target, "Arn": "arn:aws:scheduler:::aws-sdk:ec2:runInstances"}}, "createTransformJob"),
        ({"GroupName": "mine"}, "group mine"),
    ):
        with pytest.raises(scheduler.exceptions.ValidationException, match=match):
            scheduler.update_schedule(**{**request, **members})
    scheduler.delete_schedule(Name="nightly")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.get_schedule(Name="nightly")


def test_an_endpoints_states_are_on_the_bus(one: Clary, queue: tuple[str, str], echo_files: dict[str, str]) -> None:
    url, arn = queue
    rule(one, {"detail-type": ["SageMaker Endpoint State Change"]}, {"Id": "q", "Arn": arn})
    name = one.endpoint(one.config(serverless(one.model(one.upload(dict(echo_files)), "clary/sklearn"))))
    one.delete(name)
    told = [body["detail"]["EndpointStatus"] for body in drained(one, url, 3)]
    assert sorted(told) == ["CREATING", "DELETING", "IN_SERVICE"]


# -- rights -----------------------------------------------------------------------------------------

WRITES = """
import boto3

def handler(event, context):
    boto3.client("s3").put_object(Bucket=event["bucket"], Key="x", Body=b"")
"""

LISTS = """
import boto3

def handler(event, context):
    return boto3.client(event).list_buckets()["Owner"] if event == "s3" else boto3.client(event).list_users()
"""


def test_a_function_may_what_its_role_may_and_nobody_lends_what_he_lacks(one: Clary, queue: tuple[str, str]) -> None:
    iam, place, word = one.client("iam"), bucket(one), uuid.uuid4().hex[:8]
    role = iam.create_role(RoleName=f"poor-{word}", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    basic = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    iam.attach_role_policy(RoleName=f"poor-{word}", PolicyArn=basic)
    name = function(one, WRITES, Role=role)
    body = invoke(one, name, {"bucket": place})[1]
    assert "(AccessDenied)" in body["errorMessage"]
    allowed = policy("s3:PutObject", resource=f"arn:aws:s3:::{place}/*")
    iam.put_role_policy(RoleName=f"poor-{word}", PolicyName="write", PolicyDocument=allowed)
    assert "FunctionError" not in invoke(one, name, {"bucket": place})[0]

    iam.create_user(UserName=f"maker-{word}")
    makes = policy("lambda:CreateFunction", "lambda:GetFunction", "events:*", "s3:*", "scheduler:*")
    iam.put_user_policy(UserName=f"maker-{word}", PolicyName="makes", PolicyDocument=makes)
    key = iam.create_access_key(UserName=f"maker-{word}")["AccessKey"]
    code = {"ZipFile": packed(app=WRITES)}
    wanted = {"FunctionName": f"no-{word}", "Runtime": "python3.11", "Handler": "app.handler", "Code": code}
    refused = refusal(lambda: client(one, "lambda", key).create_function(**wanted, Role=ROLE))
    assert refused[:2] == ("AccessDeniedException", 403)
    assert "iam:PassRole" in refused[2]
    events = client(one, "events", key)
    events.put_rule(Name=f"no-{word}", ScheduleExpression="rate(1 minute)")
    for arn, action in ((queue[1], "sqs:SendMessage"), (arn_of(one, name), "lambda:InvokeFunction")):
        target = {"Id": "x", "Arn": arn}
        assert action in refusal(lambda t=target: events.put_targets(Rule=f"no-{word}", Targets=[t]))[2]
    told = {"QueueConfigurations": [{"QueueArn": queue[1], "Events": ["s3:ObjectCreated:*"]}]}
    s3 = client(one, "s3", key)
    put = refusal(lambda: s3.put_bucket_notification_configuration(Bucket=place, NotificationConfiguration=told))
    assert put[0] == "AccessDenied"
    events.delete_rule(Name=f"no-{word}")
    # A role that IAM does not hold lends nothing: the function has its maker's rights, no more.
    iam.put_user_policy(UserName=f"maker-{word}", PolicyName="pass", PolicyDocument=policy("iam:PassRole"))
    unknown = "arn:aws:iam::123456789012:role/unknown"
    client(one, "lambda", key).create_function(**{**wanted, "Code": {"ZipFile": packed(app=LISTS)}}, Role=unknown)
    wait_for(
        lambda: one.client("lambda").get_function(FunctionName=f"no-{word}")["Configuration"]["State"] == "Active",
        60,
        "the function",
    )
    assert "AccessDenied" in invoke(one, f"no-{word}", "iam")[1]["errorMessage"]
    assert "FunctionError" not in invoke(one, f"no-{word}", "s3")[0]


def test_functions_run_without_walls_and_without_signatures(start_clary: Callable[..., Clary]) -> None:
    one = start_clary("--isolation", "none", "--no-auth")
    name = function(one, MIRROR, Environment={"Variables": {"WORD": "yes"}})
    answer, body = invoke(one, name, {"x": 1})
    assert "FunctionError" not in answer, body
    assert body["event"] == {"x": 1}
    assert body["environ"]["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{one.port}"
