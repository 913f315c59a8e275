"""Requests that arrive together are predicted together, and nobody can tell by the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_client import Answer, Worker, talk
from worker_models import IRIS, ROWS, csv_of

from clary_worker.batching import Batcher
from clary_worker.contract import Request, Response

CONNECTIONS = 64


def together(worker: Worker, orders: list[tuple[bytes, str]], rounds: int = 4) -> list[list[Answer]]:
    """Each order `rounds` times on its own connection, all connections at once."""
    answers: list[list[Answer]] = [[] for _ in orders]
    gate = threading.Barrier(len(orders))

    def go(place: int) -> None:
        body, kind = orders[place]
        connection = worker.connect()
        gate.wait()
        for _ in range(rounds):
            answers[place].append(
                talk(connection, "POST", "/invocations", body, Content_Type=kind, Accept="application/json")
            )
        connection.close()

    threads = [threading.Thread(target=go, args=(place,)) for place in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("name", ["forest", "binary", "softprob", "lightgbm", "mixed"])
def test_batched_answers_equal_unbatched_ones(start: Callable[..., Worker], models: dict[str, Path], name: str) -> None:
    if name == "mixed":
        orders = [(b"%d,%b,%d" % (i % 7, b"red" if i % 3 else b"blue", i % 5), "text/csv") for i in range(CONNECTIONS)]
    else:
        orders = [(csv_of(ROWS[i : i + 1 + i % 3]), "text/csv") for i in range(CONNECTIONS)]
        orders[5] = (json.dumps(ROWS[5:7].tolist()).encode(), "application/json")
        orders[6] = (json.dumps({"instances": ROWS[6:7].tolist()}).encode(), "application/json")
    plain = start(models[name], batching="off")
    assert plain.detail["batchable"] is False
    expected = [plain.invoke(body, kind, "application/json") for body, kind in orders]
    worker = start(models[name])
    assert worker.detail["batchable"] is True
    for place, answers in enumerate(together(worker, orders)):
        for answer in answers:
            assert answer == expected[place]


def test_one_bad_request_in_a_batch_fails_alone(start: Callable[..., Worker], models: dict[str, Path]) -> None:
    worker = start(models["forest"])
    orders = [(csv_of(ROWS[i : i + 1]), "text/csv") for i in range(CONNECTIONS)]
    wrong = {3: (b"1,2,3", 400), 9: (b"1,2,3,word", 400), 20: (b"1,2,3,1e400", 500), 33: (b"1,2\n3", 400)}
    for place, (body, _) in wrong.items():
        orders[place] = (body, "text/csv")
    orders[40] = (b"x", "image/png")
    statuses = [{answer.status for answer in answers} for answers in together(worker, orders)]
    for place, found in enumerate(statuses):
        assert found == {415 if place == 40 else wrong[place][1] if place in wrong else 200}, place


COUNTING = """
import os, joblib
class Counting:
    def __init__(self, inner):
        self.inner, self.calls = inner, []
def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))
"""


def test_a_script_with_only_a_model_fn_is_batched(
    start: Callable[..., Worker], models: dict[str, Path], script: Callable[..., Path], estimators: dict[str, Any]
) -> None:
    folder = script(COUNTING)
    (folder / "model.joblib").write_bytes((models["forest"] / "model.joblib").read_bytes())
    worker = start(folder, "sklearn")
    assert worker.detail["batchable"] is True
    assert worker.detail["loader"] == "script inference.py"
    answer = worker.invoke(csv_of(IRIS), accept="application/json")
    assert answer.json == estimators["forest"].predict(IRIS).tolist()


class Recorder:
    """A handler that keeps how many requests came in each call."""

    loader = "recorder"
    note = ""
    warmed = True
    batchable = True

    def __init__(self) -> None:
        self.calls: list[int] = []

    def invoke(self, request: Request) -> Response:
        self.calls.append(1)
        return Response(request.body, "text/plain")

    def invoke_many(self, requests: list[Request]) -> list[Response]:
        self.calls.append(len(requests))
        return [Response(request.body, "text/plain") for request in requests]


class Waiting:
    def __init__(self, body: bytes) -> None:
        self.request = Request(body)
        self.cancelled = False
        self.found: Response | None = None

    def answer(self, response: Response) -> None:
        self.found = response


class Turns:
    """A loop turned by hand."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


@pytest.mark.parametrize(
    ("count", "limit", "enabled", "calls"),
    [
        (1, 256, True, [1]),
        (5, 256, True, [5]),
        (5, 2, True, [2, 2, 1]),
        (3, 256, False, [1, 1, 1]),
        (3, 1, True, [1, 1, 1]),
    ],
)
def test_what_waits_goes_in_one_call_up_to_the_limit(count: int, limit: int, enabled: bool, calls: list[int]) -> None:
    handler, turns = Recorder(), Turns()
    batcher = Batcher(handler, turns.call_soon, limit, enabled)
    waiting = [Waiting(b"%d" % number) for number in range(count)]
    for slot in waiting:
        batcher.submit(slot)
    assert len(turns.due) == 1
    for _ in range(10):
        turns.turn()
    assert handler.calls == calls
    assert [slot.found.body for slot in waiting if slot.found] == [b"%d" % number for number in range(count)]
    assert turns.due == []


def test_large_requests_do_not_wait_for_each_other() -> None:
    handler, turns = Recorder(), Turns()
    batcher = Batcher(handler, turns.call_soon, 256, True)
    for size in (600_000, 600_000, 600_000, 10, 10):
        batcher.submit(Waiting(b"x" * size))
    for _ in range(5):
        turns.turn()
    assert handler.calls == [2, 3]


def test_a_caller_that_left_is_not_predicted_for() -> None:
    handler, turns = Recorder(), Turns()
    batcher = Batcher(handler, turns.call_soon, 256, True)
    waiting = [Waiting(b"a"), Waiting(b"b"), Waiting(b"c")]
    for slot in waiting:
        batcher.submit(slot)
    waiting[1].cancelled = True
    turns.turn()
    assert handler.calls == [2]
    assert waiting[1].found is None
