"""The models of one process: loaded, asked, refused, unloaded."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
from sklearn.linear_model import LinearRegression

from clary_worker.contract import Request, Response
from clary_worker.multimodel import Models, resident_bytes
from clary_worker.spec import WorkerSpec


class Exchange:
    """Stands for a request that waits on a connection."""

    def __init__(self, body: bytes = b"", content_type: str = "text/csv") -> None:
        self.request = Request(body, content_type, "text/csv")
        self.cancelled = False
        self.answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def answer(self, response: Response) -> None:
        self.answered.set_result(response)


class Worker:
    def __init__(self, memory_bytes: int = 0) -> None:
        spec = WorkerSpec("w", "e", "v", "sklearn", "/nowhere", multi_model=True, memory_bytes=memory_bytes)
        self.models = Models(spec, asyncio.get_running_loop())

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        exchange = Exchange(body)
        self.models.take(method.encode(), path.encode(), exchange)
        async with asyncio.timeout(60):
            response = await exchange.answered
        assert isinstance(response.body, bytes)
        try:
            return response.status, json.loads(response.body)
        except ValueError:
            return response.status, response.body.decode()

    async def load(self, name: str, folder: Path) -> tuple[int, Any]:
        return await self.ask("POST", "/models", json.dumps({"model_name": name, "url": str(folder)}).encode())


def folder_of(path: Path, slope: float, ballast: int = 0) -> Path:
    path.mkdir()
    model = LinearRegression().fit(numpy.array([[0.0], [1.0]]), numpy.array([0.0, slope]))
    model.ballast_ = numpy.ones(ballast)
    file = io.BytesIO()
    joblib.dump(model, file)
    (path / "model.joblib").write_bytes(file.getvalue())
    return path


async def test_the_api_of_multi_model_containers(tmp_path: Path) -> None:
    worker = Worker()
    assert await worker.ask("GET", "/models") == (200, {"models": []})
    assert (await worker.ask("POST", "/models/a/invoke", b"2\n"))[0] == 404
    assert (await worker.load("a", folder_of(tmp_path / "a", 3.0)))[0] == 200
    assert (await worker.load("a", tmp_path / "a"))[0] == 409
    status, listed = await worker.ask("GET", "/models")
    assert [one["modelName"] for one in listed["models"]] == ["a"]
    assert (await worker.ask("GET", "/models/a"))[1]["modelUrl"] == str(tmp_path / "a")
    status, answer = await worker.ask("POST", "/models/a/invoke", b"2\n")
    assert (status, float(answer)) == (200, pytest.approx(6.0))
    assert (await worker.ask("DELETE", "/models/a"))[0] == 200
    assert (await worker.ask("DELETE", "/models/a"))[0] == 404
    assert (await worker.ask("GET", "/models/a"))[0] == 404
    assert (await worker.ask("POST", "/models", b"[]"))[0] == 400
    assert (await worker.ask("PUT", "/models/a"))[0] == 405


async def test_loads_of_the_same_model_at_once_are_one(tmp_path: Path) -> None:
    worker = Worker()
    folder = folder_of(tmp_path / "a", 1.0)
    answers = await asyncio.gather(*(worker.load("a", folder) for _ in range(3)))
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len((await worker.ask("GET", "/models"))[1]["models"]) == 1


async def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    worker = Worker()
    (tmp_path / "model.joblib").write_bytes(b"nothing of the kind")
    status, words = await worker.load("a", tmp_path)
    assert status == 500
    assert "cannot be unpickled" in words
    assert (await worker.ask("GET", "/models"))[1] == {"models": []}


async def test_what_does_not_fit_is_refused_and_fits_when_another_has_gone(tmp_path: Path) -> None:
    worker = Worker(
        memory_bytes=resident_bytes() + (48 << 20) + int((resident_bytes() + (900 << 20)) * 0.1) + (500 << 20)
    )
    for name in "abc":
        folder_of(tmp_path / name, 1.0, 30_000_000)  # 240 MB
    assert (await worker.load("a", tmp_path / "a"))[0] == 200
    status, told = await worker.load("b", tmp_path / "b")
    assert status == 507
    assert told["budgetBytes"] > 0
    assert (await worker.ask("DELETE", "/models/a"))[0] == 200
    assert (await worker.load("b", tmp_path / "b"))[0] == 200
