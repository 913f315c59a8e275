"""The proxy, as a process, before workers that hold many models: who is asked, who loads, and who goes for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proxy_world import FLEET, World

from clary.domain.routing import VariantRoute

ROUTE = VariantRoute("v", FLEET, 1.0, max_workers=4, request_timeout_s=10.0, queue_timeout_s=10.0, multi_model=True)


class Many:
    """A worker that speaks the API of multi-model containers. `room`: how many models fit."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.models: dict[str, str] = {}
        self.seen: list[str] = []  # "LOAD a", "UNLOAD a", "CALL a"
        self.load_s = 0.0
        self.answer_delete = 200
        self.began = threading.Event()  # to load
        self.may_load = threading.Event()  # a load goes no further before it is set
        self.may_load.set()
        self.before_answer: Callable[[str], tuple[int, bytes] | None] = lambda _name: None
        self._lock = threading.Lock()

    def talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while line := file.readline().decode():
                length = 0
                while field := file.readline().strip().lower():
                    if field.startswith(b"content-length:"):
                        length = int(field.partition(b":")[2])
                status, body = self.answer(line.split()[0], line.split()[1], file.read(length))
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/ping":
            return 200, b""
        if (method, path) == ("POST", "/models"):
            return self.load(**json.loads(body))
        if path == "/models":
            return 200, json.dumps({"models": [{"modelName": name} for name in self.models]}).encode()
        name = path.split("/")[2]
        if path.endswith("/invoke"):
            return self.invoke(name, body)
        if name not in self.models:
            return 404, b""
        if method == "DELETE":
            self.seen.append(f"UNLOAD {name}")
            if self.answer_delete != 200:
                return self.answer_delete, b"no"
            del self.models[name]
        return 200, b"{}"

    def load(self, model_name: str, url: str) -> tuple[int, bytes]:
        self.began.set()
        time.sleep(self.load_s)
        assert self.may_load.wait(60)
        with self._lock:
            if len(self.models) >= self.room:
                return 507, b"full"
            self.seen.append(f"LOAD {model_name}")
            self.models[model_name] = url
        return 200, b"{}"

    def invoke(self, name: str, body: bytes) -> tuple[int, bytes]:
        self.seen.append(f"CALL {name}")
        if name not in self.models:
            return 404, b"unknown"
        return self.before_answer(name) or (200, name.encode() + b":" + body)


class Control:
    """Plays control: the files of every target are there, but for those that begin with "no"."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(100)
        self._path = path
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            for line in file:
                target = json.loads(line)["target"]
                told: dict[str, Any] = {"ok": True, "name": target, "url": f"/files/{target}", "bytes": 1}
                if target.startswith("no"):
                    told = {"ok": True, "invalid": f"Failed to download model data(key: {target})."}
                connection.sendall(json.dumps(told).encode() + b"\n")

    def die(self) -> None:
        self._path.unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Stage:
    """A proxy with a control and workers."""

    def __init__(self, data: Path, *workers: Many, **route: Any) -> None:
        self.world = World(data, replace(ROUTE, **route))
        self.control = Control(self.world.layout.control_socket)
        for worker in workers:
            self.world.worker(worker.talk)
        self.world.start()
        self.invoke = self.world.invoke

    def at_once(self, *targets: str) -> list[tuple[int, bytes, float]]:
        with ThreadPoolExecutor(len(targets)) as threads:
            return list(threads.map(lambda target: self.invoke(b"x", target), targets))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(*workers: Many, **route: Any) -> Stage:
        made.append(Stage(tmp_path, *workers, **route))
        return made[-1]

    yield make
    for one in made:
        one.world.stop()


def test_a_model_is_loaded_once_for_all_who_wait(stage: Callable[..., Stage]) -> None:
    worker = Many()
    worker.load_s = 0.2
    found = stage(worker).at_once(*["a"] * 8, *["b"] * 8)
    assert sorted(body for _, body, _ in found) == [b"a:x"] * 8 + [b"b:x"] * 8
    assert sorted(line for line in worker.seen if line.startswith("LOAD")) == ["LOAD a", "LOAD b"]


def test_calls_wait_for_a_holder_that_is_busy(stage: Callable[..., Stage]) -> None:
    worker = Many()
    worker.before_answer = lambda _name: time.sleep(0.1)  # type: ignore[func-returns-value]
    one = stage(worker, worker_concurrency=1)
    assert one.invoke(b"x", "a")[0] == 200
    assert [status for status, _, _ in one.at_once(*["a"] * 6)] == [200] * 6
    assert worker.seen.count("LOAD a") == 1


def test_another_worker_helps_out(stage: Callable[..., Stage]) -> None:
    workers = Many(), Many()
    for worker in workers:
        worker.before_answer = lambda _name: time.sleep(0.2)  # type: ignore[func-returns-value]
    one = stage(*workers)
    assert [status for status, _, _ in one.at_once(*["a"] * 30)] == [200] * 30
    assert [status for status, _, _ in one.at_once(*["a"] * 30)] == [200] * 30
    assert all("CALL a" in worker.seen for worker in workers)


def test_who_has_waited_too_long_is_told_to_come_again_and_the_load_goes_on(stage: Callable[..., Stage]) -> None:
    worker = Many()
    worker.may_load.clear()
    one = stage(worker, queue_timeout_s=0.3)
    status, text, _ = one.invoke(b"x", "a")
    assert status == 429, text
    assert worker.seen == []
    worker.may_load.set()
    deadline = time.monotonic() + 20
    while (answer := one.invoke(b"x", "a"))[0] == 429 and time.monotonic() < deadline:
        pass
    assert answer[:2] == (200, b"a:x")
    assert worker.seen.count("LOAD a") == 1


def test_the_least_recently_used_goes_when_there_is_no_room(stage: Callable[..., Stage]) -> None:
    worker = Many(room=2)
    one = stage(worker)
    for target in ("a", "b", "a", "c"):
        assert one.invoke(b"x", target)[0] == 200
    assert [line for line in worker.seen if not line.startswith("CALL")] == ["LOAD a", "LOAD b", "UNLOAD b", "LOAD c"]


def test_a_model_in_use_is_waited_for_rather_than_refused(stage: Callable[..., Stage]) -> None:
    worker = Many(room=1)
    worker.before_answer = lambda name: time.sleep(0.5) if name == "a" else None  # type: ignore[func-returns-value]
    found = stage(worker).at_once("a", "b")
    assert [status for status, _, _ in found] == [200, 200]


def test_what_never_fits_is_refused_with_the_worker_s_words(stage: Callable[..., Stage]) -> None:
    status, text, _ = stage(Many(room=0)).invoke(b"x", "a")
    assert status == 503
    assert b"does not fit: full" in text


def test_models_of_a_proxy_that_has_died_make_room(stage: Callable[..., Stage]) -> None:
    worker = Many(room=1)
    worker.models["left-behind"] = ""
    assert stage(worker).invoke(b"x", "a")[0] == 200
    assert "UNLOAD left-behind" in worker.seen


def test_a_worker_that_keeps_what_it_was_told_to_let_go_is_not_asked_for_ever(stage: Callable[..., Stage]) -> None:
    worker = Many(room=0)
    worker.answer_delete = 500
    worker.models["left-behind"] = ""
    assert stage(worker).invoke(b"x", "a")[0] == 503


def test_a_model_s_own_404_is_told_and_asked_for_once(stage: Callable[..., Stage]) -> None:
    worker = Many()
    worker.before_answer = lambda _name: (404, b"no such customer")
    status, text, _ = stage(worker).invoke(b"x", "a")
    assert status == 424
    assert b"no such customer" in text
    assert worker.seen == ["LOAD a", "CALL a"]


def test_a_model_that_a_worker_lost_is_loaded_again(stage: Callable[..., Stage]) -> None:
    worker = Many()
    one = stage(worker)
    assert one.invoke(b"x", "a")[0] == 200
    worker.models.clear()
    assert one.invoke(b"x", "a")[:2] == (200, b"a:x")
    assert worker.seen.count("LOAD a") == 2


def test_a_call_without_memory_is_tried_again_when_another_model_has_gone(stage: Callable[..., Stage]) -> None:
    worker = Many()
    worker.before_answer = lambda name: (507, b"no memory") if name == "b" and "a" in worker.models else None
    one = stage(worker)
    assert one.invoke(b"x", "a")[0] == 200
    assert one.invoke(b"x", "b")[:2] == (200, b"b:x")
    worker.before_answer = lambda _name: (507, b"no memory")
    assert one.invoke(b"x", "b")[0] == 424


def test_without_a_cache_every_call_loads_and_lets_go(stage: Callable[..., Stage]) -> None:
    worker = Many()
    one = stage(worker, cache_models=False)
    for _ in range(3):
        assert one.invoke(b"x", "a")[0] == 200
    assert worker.seen[:7] == ["LOAD a", "CALL a", "UNLOAD a"] * 2 + ["LOAD a"]


def test_what_control_once_told_is_loaded_without_it(stage: Callable[..., Stage]) -> None:
    one = stage(Many(room=1))
    assert [one.invoke(b"x", target)[0] for target in ("a", "b")] == [200, 200]
    one.control.die()
    assert one.invoke(b"x", "a")[0] == 200
    status, text, _ = one.invoke(b"x", "c")
    assert status == 503
    assert b"cannot be asked" in text


def test_a_target_that_is_none_is_the_caller_s_mistake(stage: Callable[..., Stage]) -> None:
    one = stage(Many())
    status, text, _ = one.invoke(b"x", "nothing")
    assert status == 400
    assert b"Failed to download model data" in text
    status, text, _ = one.invoke(b"x")
    assert status == 400
    assert b"is a multi-model endpoint" in text
    status, text, _ = one.invoke(b"x", "a", {"X-Amzn-SageMaker-Session-Id": "s"})
    assert status == 400
    assert b"SessionId" in text
    status, text, _ = one.invoke(b"x", "a" * 1025)
    assert status == 400
    assert b"targetModel" in text


def test_who_waits_when_the_endpoint_moves_is_served_where_it_is_now(stage: Callable[..., Stage]) -> None:
    old, new = Many(), Many()
    old.may_load.clear()
    one = stage(old)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(one.invoke, b"x", "a")
        assert old.began.wait(10)
        one.world.move(replace(ROUTE, fleet="us-east-1/e/v/2"), new.talk)
        status, body, _ = call.result()
    assert (status, body) == (200, b"a:x")
    assert old.seen == []
    old.may_load.set()
    assert new.seen == ["LOAD a", "CALL a"]
