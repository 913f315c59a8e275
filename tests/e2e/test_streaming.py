"""Streamed responses and sessions with unmodified boto3: pieces as they are made, ends that are told."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError
from conftest import Clary, instance, signal_to, wait_for

SCRIPT = """
import json, os, time

def model_fn(model_dir):
    return {}

def transform_fn(model, body, content_type, accept, context):
    text = body if isinstance(body, str) else body.decode()
    word, _, rest = text.partition(" ")
    session = context.get_request_header(0, "X-Amzn-SageMaker-Session-Id")
    if session == "NEW_SESSION":
        name = "s%d" % (len(model) + 1)
        model[name] = 0
        context.set_response_header(0, "X-Amzn-SageMaker-New-Session-Id", name + "; Expires=2099-01-01T00:00:00Z")
        return name, "text/plain"
    if session:
        model[session] += 1
        if word == "close":
            context.set_response_header(0, "X-Amzn-SageMaker-Closed-Session-Id", session)
        return "%s %d %d" % (session, model[session], os.getpid()), "text/plain"
    if word == "fail":
        raise ValueError("before the first piece")
    return pieces(word, int(rest or 3)), accept

def pieces(word, count):
    for number in range(count):
        if number:
            time.sleep(0.3 if word == "slow" else 0)
        if word == "large":
            yield b"x" * 300_000
        else:
            yield "%s%d " % (word, number)
        if word == "break":
            raise ValueError("in the middle")
        if word == "die":
            os._exit(3)
"""


@pytest.fixture(scope="module")
def endpoint(clary: Clary) -> str:
    model = clary.model(clary.upload({"code/inference.py": SCRIPT}), "clary/sklearn")
    return clary.endpoint(clary.config(instance(model)))


def stream(clary: Clary, endpoint: str, body: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = clary.client("sagemaker-runtime").invoke_endpoint_with_response_stream(
        EndpointName=endpoint, Body=body, ContentType="text/plain", Accept="text/words", **options
    )
    return answer


def read(answer: dict[str, Any]) -> list[bytes]:
    return [event["PayloadPart"]["Bytes"] for event in answer["Body"]]


def test_each_piece_arrives_when_it_is_made(clary: Clary, endpoint: str) -> None:
    answer = stream(clary, endpoint, "slow 3")
    assert answer["ContentType"] == "text/words"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    pieces, times = [], []
    for event in answer["Body"]:
        pieces.append(event["PayloadPart"]["Bytes"])
        times.append(time.monotonic())
    assert pieces == [b"slow0 ", b"slow1 ", b"slow2 "]
    # Held back until the end they would all come at once, however slow the machine.
    assert times[2] - times[0] > 0.3


def test_a_plain_call_gets_the_same_as_one(clary: Clary, endpoint: str) -> None:
    assert clary.invoke(endpoint, "word 4", "text/plain") == b"word0 word1 word2 word3 "


def test_a_large_stream_is_whole(clary: Clary, endpoint: str) -> None:
    assert b"".join(read(stream(clary, endpoint, "large 40"))) == b"x" * 12_000_000


def test_a_failure_before_the_first_piece_is_a_model_error(clary: Clary, endpoint: str) -> None:
    with pytest.raises(ClientError, match="before the first piece") as caught:
        stream(clary, endpoint, "fail")
    assert caught.value.response["Error"]["Code"] == "ModelError"


@pytest.mark.parametrize("word", ["break", "die"])
def test_a_failure_in_the_middle_is_an_event(clary: Clary, endpoint: str, word: str) -> None:
    answer = stream(clary, endpoint, f"{word} 5")
    events = iter(answer["Body"])
    assert next(events)["PayloadPart"]["Bytes"] == f"{word}0 ".encode()
    with pytest.raises(EventStreamError) as caught:
        next(events)
    assert "ModelStreamError" in str(caught.value)
    wait_for(lambda: clary.ready(endpoint), 20, "a worker")
    assert read(stream(clary, endpoint, "good 1")) == [b"good0 "]


def test_a_client_that_leaves_frees_the_worker(clary: Clary, endpoint: str) -> None:
    answer = stream(clary, endpoint, "slow 200")
    next(iter(answer["Body"]))
    answer["Body"].close()
    assert read(stream(clary, endpoint, "good 1")) == [b"good0 "]


def test_many_streams_at_once(clary: Clary, endpoint: str) -> None:
    found: list[bytes] = []

    def ask(number: int) -> None:
        client = clary._client("sagemaker-runtime", "us-east-1")
        answer = client.invoke_endpoint_with_response_stream(
            EndpointName=endpoint, Body=f"n{number}: 5", ContentType="text/plain"
        )
        found.append(b"".join(read(answer)))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    assert sorted(found) == sorted(
        "".join(f"n{number}:{piece} " for piece in range(5)).encode() for number in range(40)
    )


def test_a_session_stays_with_its_worker_until_it_is_closed(clary: Clary) -> None:
    environment = {"SAGEMAKER_MODEL_SERVER_WORKERS": "2"}
    model = clary.model(clary.upload({"code/inference.py": SCRIPT}), "clary/sklearn", environment)
    name = clary.endpoint(clary.config(instance(model)))
    runtime = clary.client("sagemaker-runtime")

    def ask(body: str, session: str) -> dict[str, Any]:
        answer: dict[str, Any] = runtime.invoke_endpoint(
            EndpointName=name, Body=body, ContentType="text/plain", SessionId=session
        )
        return answer

    opened = ask("x", "NEW_SESSION")
    session = opened["Body"].read().decode()
    assert opened["NewSessionId"] == f"{session}; Expires=2099-01-01T00:00:00Z"
    told = [ask("x", session)["Body"].read().decode().split() for _ in range(6)]
    assert [int(count) for _, count, _ in told] == [1, 2, 3, 4, 5, 6]
    assert len({pid for _, _, pid in told}) == 1
    with pytest.raises(ClientError, match="is not open"):
        ask("x", "nobody")
    assert ask("close", session)["ClosedSessionId"] == session
    with pytest.raises(ClientError, match="is not open"):
        ask("x", session)
    other = ask("x", "NEW_SESSION")["Body"].read().decode()
    pid = int(ask("x", other)["Body"].read().decode().split()[2])
    pids = [worker["pid"] for worker in clary.ready(name)]
    assert pid in pids, pids
    signal_to(pid, signal.SIGKILL)
    wait_for(lambda: pid not in (now := [w["pid"] for w in clary.ready(name)]) and len(now) == 2, 30, "a new worker")
    with pytest.raises(ClientError, match="has ended"):
        ask("x", other)
    clary.delete(name)


def test_what_is_not_served_is_refused(clary: Clary, endpoint: str) -> None:
    with pytest.raises(ClientError, match="cannot open a session"):
        stream(clary, endpoint, "x", SessionId="NEW_SESSION")
