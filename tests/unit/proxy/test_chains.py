"""The proxy, as a process, before the containers of a pipeline: what each is sent, and what time, deaths and updates
do to a request on its way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proxy_world import World

from clary.domain.routing import VariantRoute

ACCOUNT = "us-east-1/e/v/1"
FIRST, SECOND, THIRD = "us-east-1/e/v+a/1", "us-east-1/e/v+b/1", "us-east-1/e/v+c/1"


def pipeline(*containers: str, number: int = 1, **members: Any) -> VariantRoute:
    made = VariantRoute("v", f"us-east-1/e/v/{number}", 1.0, request_timeout_s=2.0, queue_timeout_s=5.0)
    made = replace(made, **members)
    parts = tuple(replace(made, fleet=f"us-east-1/e/v+{one}/{number}", container=one) for one in containers)
    return replace(made, containers=parts)


class Container:
    """Answers with what it got and its name. `waits_s` before it does; `status` other than 200 is all it says."""

    def __init__(self, name: str, waits_s: float = 0.0, status: int = 200) -> None:
        self.name = name
        self.waits_s = waits_s
        self.status = status
        self.heads: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.asked = threading.Event()

    def talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while file.readline():
                head: dict[str, str] = {}
                while line := file.readline().decode().strip():
                    name, _, value = line.partition(":")
                    head[name.lower()] = value.strip()
                body = file.read(int(head.get("content-length", 0)))
                if not body:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue  # a ping
                self.heads.append(head)
                self.asked.set()
                self.hold.wait(20)
                time.sleep(self.waits_s)
                made = body + self.name.encode()
                fields = f"Content-Type: x/{self.name}\r\nX-Amzn-SageMaker-Custom-Attributes: {self.name}\r\n"
                told = f"HTTP/1.1 {self.status} X\r\n{fields}Content-Length: {len(made)}\r\n\r\n"
                connection.sendall(told.encode() + made)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def of(variant: VariantRoute, *containers: tuple[str, Container]) -> World:
        world = World(tmp_path, variant)
        made.append(world)
        for fleet, container in containers:
            world.worker(container.talk, fleet=fleet)
        world.start()
        world.listening()
        return world

    yield of
    for world in made:
        world.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def drained(world: World) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(one["inside"] or one["waiting"] for one in world.facts().values()):
            return True
        time.sleep(0.02)
    return False


def test_only_the_last_container_gets_the_callers_accept(start: Callable[..., World]) -> None:
    one, two, three = Container("a"), Container("b"), Container("c")
    world = start(pipeline("a", "b", "c"), (FIRST, one), (SECOND, two), (THIRD, three))
    more = {"Content-Type": "x/mine", "Accept": "x/wanted", "X-Amzn-SageMaker-Custom-Attributes": "me"}
    more |= {"X-Amzn-SageMaker-Inference-Id": "i", "X-Other": "dropped"}
    assert world.invoke(b"-", more=more)[:2] == (200, b"-abc")
    seen = [(c.heads[0].get("content-type"), c.heads[0].get("accept")) for c in (one, two, three)]
    assert seen == [("x/mine", None), ("x/a", None), ("x/b", "x/wanted")]
    attributes = [c.heads[0]["x-amzn-sagemaker-custom-attributes"] for c in (one, two, three)]
    assert attributes == ["me", "a", "b"]
    assert all(c.heads[0]["x-amzn-sagemaker-inference-id"] == "i" for c in (one, two, three))
    assert not any("x-other" in c.heads[0] for c in (one, two, three))
    assert drained(world)


def test_the_containers_share_one_requests_time(start: Callable[..., World]) -> None:
    slow = Container("b", waits_s=1.4)  # either alone would be in time
    world = start(pipeline("a", "b"), (FIRST, Container("a", waits_s=1.4)), (SECOND, slow))
    status, text, took_s = world.invoke(b"-")
    assert status == 424
    assert b"waiting for a response from container b" in text
    assert took_s >= 2.0
    assert world.stopped() == [("w1", "Hung")]
    assert drained(world)


def test_an_error_in_the_middle_ends_it(start: Callable[..., World]) -> None:
    last = Container("c")
    middle = Container("b", status=418)
    world = start(pipeline("a", "b", "c"), (FIRST, Container("a")), (SECOND, middle), (THIRD, last))
    status, text, _ = world.invoke(b"-")
    assert status == 424
    assert b"Received client error (418) from b with message" in text
    assert b"log-stream:v/w1/b" in text
    assert not last.asked.is_set()
    assert drained(world)


def test_a_client_that_leaves_frees_the_places_ahead(start: Callable[..., World]) -> None:
    held = Container("a")
    held.hold.clear()
    world = start(pipeline("a", "b"), (FIRST, held), (SECOND, Container("b")))
    port = world._front.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n-")
    assert held.asked.wait(5)
    assert {fleet: one["inside"] for fleet, one in world.facts().items()} == {FIRST: 1, SECOND: 1}
    client.close()
    assert drained(world)


def test_sleeping_containers_are_all_asked_for_at_once(start: Callable[..., World], pool: ThreadPoolExecutor) -> None:
    world = start(pipeline("a", "b", "c"))
    asked: Future[Any] = pool.submit(world.invoke, b"-")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and len({one["fleet"] for one in world.asked if one["op"] == "ensure"}) < 3:
        time.sleep(0.01)
    assert {one["fleet"] for one in world.asked if one["op"] == "ensure"} == {FIRST, SECOND, THIRD}
    for fleet, name in ((THIRD, "c"), (FIRST, "a"), (SECOND, "b")):
        world.join(Container(name).talk, fleet)
    assert asked.result()[:2] == (200, b"-abc")
    assert drained(world)


def test_one_that_waits_in_vain_says_for_which_container(start: Callable[..., World]) -> None:
    world = start(pipeline("a", "b", queue_timeout_s=0.3), (FIRST, Container("a")))
    status, text, _ = world.invoke(b"-")
    assert status == 503
    assert b"No worker of container b of variant v became free" in text
    assert drained(world)


def test_a_step_that_was_not_read_is_tried_on_another_worker(start: Callable[..., World]) -> None:
    dead = Container("b")
    world = start(pipeline("a", "b"), (FIRST, Container("a")), (SECOND, dead))
    (world.layout.worker_sockets / "w1.sock").unlink()
    world.join(Container("b").talk, SECOND)
    assert world.invoke(b"-")[:2] == (200, b"-ab")
    assert drained(world)


def test_an_update_lets_those_inside_pass_to_their_end(start: Callable[..., World], pool: ThreadPoolExecutor) -> None:
    old = Container("a")
    old.hold.clear()
    world = start(pipeline("a", "b"), (FIRST, old), (SECOND, Container("b")))
    inside = pool.submit(world.invoke, b"-")
    assert old.asked.wait(5)
    world.join(Container("z").talk, "us-east-1/e/v/2")
    world.reroute(VariantRoute("v", "us-east-1/e/v/2", 1.0))
    assert world.invoke(b"+")[:2] == (200, b"+z")
    old.hold.set()
    assert inside.result()[:2] == (200, b"-ab")
    assert drained(world)


@pytest.mark.parametrize("before", [pipeline("a", "b"), VariantRoute("v", ACCOUNT, 1.0)])
@pytest.mark.parametrize("after", [pipeline("c", "d", number=2), VariantRoute("v", "us-east-1/e/v/2", 1.0)])
def test_those_who_wait_go_where_the_update_leads(
    start: Callable[..., World], pool: ThreadPoolExecutor, before: VariantRoute, after: VariantRoute
) -> None:
    world = start(before)
    waiting = [pool.submit(world.invoke, b"%d" % number) for number in range(4)]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and sum(one["waiting"] for one in world.facts().values()) < 4:
        time.sleep(0.01)
    for route in after.routes:
        world.join(Container(route.container or "z").talk, route.fleet)
    world.reroute(after)
    end = b"cd" if after.containers else b"z"
    assert [one.result()[:2] for one in waiting] == [(200, b"%d" % number + end) for number in range(4)]
    assert drained(world)


def test_one_that_waits_in_the_middle_stays_with_its_pipeline(
    start: Callable[..., World], pool: ThreadPoolExecutor
) -> None:
    world = start(pipeline("a", "b"), (FIRST, Container("a")))
    waiting = pool.submit(world.invoke, b"-")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not world.facts()[SECOND]["waiting"]:
        time.sleep(0.01)
    world.reroute(VariantRoute("v", "us-east-1/e/v/2", 1.0))
    world.join(Container("b").talk, SECOND)
    assert waiting.result()[:2] == (200, b"-ab")
    assert drained(world)
