"""Queues and topics with unmodified boto3: sent, received, published, filtered, posted; outcomes that are told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError
from conftest import Clary, wait_for
from test_async import BUCKET, Async


@pytest.fixture(scope="module")
def one(start_clary: Callable[..., Clary]) -> Clary:
    return start_clary(CLARY_WEBHOOK_NETWORKS="127.0.0.0/8")


@pytest.fixture
def queue(one: Clary) -> str:
    url: str = one.client("sqs").create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    return url


@pytest.fixture
def topic(one: Clary) -> str:
    arn: str = one.client("sns").create_topic(Name=f"t-{uuid.uuid4().hex[:8]}")["TopicArn"]
    return arn


def arn_of(one: Clary, queue: str) -> str:
    found = one.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    arn: str = found["Attributes"]["QueueArn"]
    return arn


def receive(one: Clary, queue: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = one.client("sqs").receive_message(QueueUrl=queue, **options).get("Messages", [])
    return found


# -- queues ----------------------------------------------------------------------------------------


def test_a_message_is_sent_received_hidden_and_deleted(one: Clary, queue: str) -> None:
    sqs = one.client("sqs")
    attributes = {
        "word": {"DataType": "String", "StringValue": "yes"},
        "raw": {"DataType": "Binary", "BinaryValue": b"\x00\x01"},
    }
    sent = sqs.send_message(QueueUrl=queue, MessageBody="hello ü", MessageAttributes=attributes)
    assert sent["MD5OfMessageBody"] == hashlib.md5("hello ü".encode()).hexdigest()
    (found,) = receive(one, queue, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"])
    assert (found["MessageId"], found["Body"]) == (sent["MessageId"], "hello ü")
    assert found["MessageAttributes"] == attributes
    assert found["Attributes"]["ApproximateReceiveCount"] == "1"
    assert receive(one, queue) == []
    counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == "0"
    assert counts["ApproximateNumberOfMessagesNotVisible"] == "1"
    sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=found["ReceiptHandle"], VisibilityTimeout=0)
    (again,) = receive(one, queue, MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert again["Attributes"] == {"ApproximateReceiveCount": "2"}
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=again["ReceiptHandle"])
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=again["ReceiptHandle"])
    with pytest.raises(ClientError) as caught:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle="nothing")
    assert caught.value.response["Error"]["Code"] == "ReceiptHandleIsInvalid"


def test_who_waits_hears_of_a_message_when_it_is_sent(one: Clary, queue: str) -> None:
    found: list[dict[str, Any]] = []
    client = one._client("sqs", "us-east-1")

    def wait() -> None:
        found.extend(client.receive_message(QueueUrl=queue, WaitTimeSeconds=20).get("Messages", []))

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.3)
    one.client("sqs").send_message(QueueUrl=queue, MessageBody="now")
    waiter.join(10)
    assert [message["Body"] for message in found] == ["now"]


def test_delays_dead_letters_and_batches(one: Clary, queue: str) -> None:
    sqs = one.client("sqs")
    dead = sqs.create_queue(QueueName=f"dead-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": arn_of(one, dead), "maxReceiveCount": 1})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "0"})
    entries = [{"Id": str(number), "MessageBody": f"m{number}"} for number in range(3)]
    entries.append({"Id": "late", "MessageBody": "late", "DelaySeconds": 2})
    entries.append({"Id": "bad", "MessageBody": "no\x00"})
    told = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    assert {one["Id"] for one in told["Successful"]} == {"0", "1", "2", "late"}
    assert [(one["Id"], one["Code"]) for one in told["Failed"]] == [("bad", "InvalidMessageContents")]
    assert len(receive(one, queue, MaxNumberOfMessages=10)) == 3
    assert receive(one, queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)[0]["Body"] == "late"
    found = receive(one, dead, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"])
    assert [message["Body"] for message in found] == ["m0", "m1", "m2"]
    assert found[0]["Attributes"]["DeadLetterQueueSourceArn"] == arn_of(one, queue)


def test_queues_are_made_once_listed_and_gone(one: Clary) -> None:
    sqs = one.client("sqs")
    name = f"z-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "1"}, tags={"a": "b"})["QueueUrl"]
    assert sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "1"})["QueueUrl"] == url
    with pytest.raises(sqs.exceptions.QueueNameExists):
        sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "2"})
    assert sqs.get_queue_url(QueueName=name)["QueueUrl"] == url
    assert sqs.list_queues(QueueNamePrefix=name)["QueueUrls"] == [url]
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"a": "b"}
    sqs.delete_queue(QueueUrl=url)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName=name)
    with pytest.raises(ClientError, match="FIFO"):
        sqs.create_queue(QueueName="x.fifo", Attributes={"FifoQueue": "true"})


def test_four_consumers_get_each_message_once(one: Clary, queue: str) -> None:
    sqs = one.client("sqs")
    for start in range(0, 200, 10):
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(start, start + 10)]
        assert "Failed" not in sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    found: list[str] = []

    def consume() -> None:
        client = one._client("sqs", "us-east-1")
        while messages := client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(message["Body"])
                client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join(60)
    assert sorted(map(int, found)) == list(range(200))


# -- topics ----------------------------------------------------------------------------------------


def test_a_topic_reaches_its_queues(one: Clary, topic: str, queue: str) -> None:
    sns = one.client("sns")
    raw = one.client("sqs").create_queue(QueueName=f"raw-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of(one, queue))["SubscriptionArn"]
    assert subscription.startswith(topic)
    policy = json.dumps({"kind": ["good"], "size": [{"numeric": [">", 1]}]})
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=arn_of(one, raw),
        Attributes={"RawMessageDelivery": "true", "FilterPolicy": policy},
    )
    for kind, size in (("good", "1"), ("good", "5"), ("bad", "5")):
        given = {
            "kind": {"DataType": "String", "StringValue": kind},
            "size": {"DataType": "Number", "StringValue": size},
        }
        sns.publish(TopicArn=topic, Message=f"{kind}{size}", Subject="about", MessageAttributes=given)
    (filtered,) = receive(one, raw, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    assert filtered["Body"] == "good5"
    assert filtered["MessageAttributes"]["kind"] == {"DataType": "String", "StringValue": "good"}
    found = [json.loads(message["Body"]) for message in receive(one, queue, MaxNumberOfMessages=10)]
    assert [message["Message"] for message in found] == ["good1", "good5", "bad5"]
    assert {message["Type"] for message in found} == {"Notification"}
    assert (found[0]["TopicArn"], found[0]["Subject"]) == (topic, "about")
    assert found[0]["MessageAttributes"]["kind"] == {"Type": "String", "Value": "good"}
    listed = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert len(listed) == 2
    sns.unsubscribe(SubscriptionArn=subscription)
    sns.publish(TopicArn=topic, Message="unheard")
    assert receive(one, queue) == []
    sns.delete_topic(TopicArn=topic)
    with pytest.raises(ClientError) as caught:
        sns.publish(TopicArn=topic, Message="x")
    assert caught.value.response["Error"]["Code"] == "NotFound"


@contextmanager
def webhook() -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """A server's URL and what it was told: (type, body). Its first answer is a 500."""
    told: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((self.headers["x-amz-sns-message-type"], body))
            self.send_response(500 if len(told) == 1 else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", told
    finally:
        server.shutdown()
        thread.join()


def test_a_webhook_confirms_and_is_posted_to(one: Clary, topic: str) -> None:
    sns = one.client("sns")
    with webhook() as (url, told):
        assert sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=url)["SubscriptionArn"] == "pending confirmation"
        sns.publish(TopicArn=topic, Message="too early")
        wait_for(lambda: len(told) == 2, 15, "the question, asked again")
        assert [kind for kind, _ in told] == ["SubscriptionConfirmation"] * 2
        arn = sns.confirm_subscription(TopicArn=topic, Token=told[1][1]["Token"])["SubscriptionArn"]
        assert arn.startswith(topic)
        sns.publish(TopicArn=topic, Message="hello")
        wait_for(lambda: len(told) == 3, 15, "the message")
        assert (told[2][0], told[2][1]["Message"]) == ("Notification", "hello")


def test_private_addresses_are_not_posted_to_without_leave(clary: Clary) -> None:
    sns = clary.client("sns")
    topic = sns.create_topic(Name="private")["TopicArn"]
    with webhook() as (url, told):
        sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=url)
        log = clary.data / "logs" / "control.log"
        wait_for(lambda: "webhook_networks" in log.read_text(), 15, "the refusal in the log")
        assert told == []


def test_asynchronous_outcomes_are_told(one: Clary, topic: str, queue: str, echo_files: dict[str, str]) -> None:
    one.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=arn_of(one, queue), Attributes={"RawMessageDelivery": "true"}
    )
    work = Async(one)
    told = {"SuccessTopic": topic, "ErrorTopic": topic, "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"]}
    model = one.model(one.upload(dict(echo_files)), "clary/sklearn")
    name = one.endpoint(work.config(model, NotificationConfig=told))
    good = work.invoke(name, Body=b"hello", ContentType="text/plain")
    bad = work.invoke(name, Body=b"raise no", ContentType="text/plain")
    found: dict[str, Any] = {}

    def both() -> bool:
        for message in receive(one, queue, MaxNumberOfMessages=10, WaitTimeSeconds=1):
            body = json.loads(message["Body"])
            found[body["inferenceId"]] = body
        return len(found) == 2

    wait_for(both, 30, "two notifications")
    success, failure = found[good["InferenceId"]], found[bad["InferenceId"]]
    assert success["invocationStatus"] == "Completed"
    assert success["responseParameters"]["outputLocation"] == good["OutputLocation"]
    assert success["responseParameters"]["body"]["content"] == "hello"
    assert failure["invocationStatus"] == "Failed"
    assert failure["responseParameters"] == {
        "failureLocation": bad["FailureLocation"],
        "body": {"content": failure["failureReason"], "encoding": "UTF-8"},
    } or failure["responseParameters"] == {"failureLocation": bad["FailureLocation"]}
    assert f"s3://{BUCKET}/" in failure["responseParameters"]["failureLocation"]
