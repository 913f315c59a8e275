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
from conftest import ROLE, Clary, Trained, wait_for


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
    code = (
        "def handler(event, context):\n    return %d, __import__('os').environ.get('WORD'), context.memory_limit_in_mb\n"
    )
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


def test_an_asynchronous_invocation_is_tried_three_times_and_then_goes_to_its_queue(one: Clary) -> None:
    sqs = one.client("sqs")
    queue = sqs.create_queue(QueueName=f"dead-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    name = function(one, COUNTS, DeadLetterConfig={"TargetArn": arn})
    place = bucket(one)
    event = {"bucket": place, "fail": True}
    answer, body = invoke(one, name, event, InvocationType="Event")
    assert (answer["StatusCode"], body) == (202, None)
    (letter,) = wait_for(
        lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5).get("Messages"), 60, "the dead letter"
    )
    assert json.loads(letter["Body"]) == event
    keys = [entry["Key"] for entry in one.client("s3").list_objects_v2(Bucket=place)["Contents"]]
    assert len(keys) == 3
    assert len({key.split("/")[0] for key in keys}) == 1


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
