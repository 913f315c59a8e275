"""The models of one process: loaded, asked, refused, unloaded."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import numpy
import pytest
from sklearn.linear_model import LinearRegression

from clary_worker.contract import Request, Response
from clary_worker.memory import resident_bytes, trim
from clary_worker.multimodel import Models
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
    def __init__(self, memory_bytes: int = 0, code_dir: str = "") -> None:
        spec = WorkerSpec(
            "w", "e", "v", "sklearn", "/nowhere", code_dir=code_dir, multi_model=True, memory_bytes=memory_bytes
        )
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


ECHO = """
def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    from lib.words import WORD
    return WORD, "text/plain"
"""


def scripted(path: Path, inference: str, word: str = "") -> Path:
    (path / "code" / "lib").mkdir(parents=True)
    (path / "code" / "inference.py").write_text(inference)
    (path / "code" / "lib" / "words.py").write_text(f"WORD = {word!r}")
    return path


async def test_folders_of_the_same_name_without_an_init_file_stay_apart(tmp_path: Path) -> None:
    worker = Worker()
    for word in ("one", "two"):
        assert (await worker.load(word, scripted(tmp_path / word, ECHO, word)))[0] == 200
    for word in ("one", "two", "one"):
        assert await worker.ask("POST", f"/models/{word}/invoke") == (200, word)
    assert not {"inference", "lib", "lib.words"} & set(sys.modules)


async def test_a_script_may_be_shared_and_a_model_s_own_comes_first(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "inference.py").write_text(ECHO.replace("from lib.words import WORD", "WORD = 'shared'"))
    worker = Worker(code_dir=str(shared))
    assert (await worker.load("bare", folder_of(tmp_path / "bare", 1.0)))[0] == 200
    assert (await worker.load("own", scripted(tmp_path / "own", ECHO, "own")))[0] == 200
    for name, word in (("bare", "shared"), ("own", "own"), ("bare", "shared")):
        assert await worker.ask("POST", f"/models/{name}/invoke") == (200, word)


@pytest.mark.parametrize("raised", ["MemoryError()", "RuntimeError('std::bad_alloc')"])
async def test_a_load_that_runs_out_of_memory_asks_for_room(tmp_path: Path, raised: str) -> None:
    worker = Worker(limit_for(900 << 20))
    script = f"def model_fn(model_dir):\n    raise {raised}\n"
    status, told = await worker.load("a", scripted(tmp_path / "a", script))
    assert (status, told["loadedModels"]) == (507, 0)
    assert told["lackingBytes"] > 0


BALLAST = "import numpy\n\ndef model_fn(model_dir):\n    return numpy.ones(15_000_000)\n"  # 120 MB


def settled_bytes() -> int:
    """What this process holds when what the last test held is the system's again: its thread of loads may still be
    letting go of a model."""
    deadline_s, last, now = time.monotonic() + 10, -1, resident_bytes()
    while now != last and time.monotonic() < deadline_s:
        gc.collect()
        trim()
        time.sleep(0.05)
        last, now = now, resident_bytes()
    return now


def limit_for(models_bytes: int) -> int:
    """A limit of memory under which models may take so much."""
    now = settled_bytes()
    return max(now + models_bytes + (48 << 20), int((now + models_bytes) / 0.9))


async def test_of_two_loads_at_once_the_second_is_measured_when_the_first_is_in(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / name, 1.0, 7_500_000) for name in "ab"]  # 60 MB each
    worker = Worker(limit_for(100 << 20))
    first, second = await asyncio.gather(*(worker.load(folder.name, folder) for folder in folders))
    assert (first[0], second[0]) == (200, 507)


async def test_what_does_not_fit_is_refused_and_fits_when_another_has_gone(tmp_path: Path) -> None:
    folders = [scripted(tmp_path / name, BALLAST + ECHO.partition("return None")[2]) for name in "ab"]
    worker = Worker(limit_for(200 << 20))
    assert (await worker.load("a", folders[0]))[0] == 200
    status, told = await worker.load("b", folders[1])
    assert (status, told["loadedModels"]) == (507, 1)
    assert 0 < told["budgetBytes"] <= 200 << 20
    assert told["lackingBytes"] >= 240_000_000 - (200 << 20)
    assert (await worker.ask("DELETE", "/models/a"))[0] == 200
    assert (await worker.load("b", folders[1]))[0] == 200


async def test_a_model_that_is_alone_is_tried_if_its_files_fit(tmp_path: Path) -> None:
    worker = Worker(limit_for(64 << 20))
    status, told = await worker.load("a", folder_of(tmp_path / "a", 1.0, 10_000_000))  # 80 MB
    assert (status, told["loadedModels"]) == (507, 0)


async def test_a_model_that_lies_where_another_lay_is_measured_all_the_same(tmp_path: Path) -> None:
    """Small arrays, which malloc keeps in its heap; packed so well that their files say nothing of their size."""
    folders = [packed(tmp_path / name, arrays=300, cells=10_000) for name in "abc"]  # 24 MB in memory
    worker = Worker()
    told = [(await worker.load(folder.name, folder))[1] for folder in folders[:2]]
    assert (await worker.ask("DELETE", "/models/a"))[0] == 200
    told.append((await worker.load("c", folders[2]))[1])
    assert all(20_000_000 < one["bytes"] < 40_000_000 for one in told), told


async def test_what_will_not_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folders = [packed(tmp_path / str(number), arrays=4, cells=3_000_000) for number in range(6)]  # 96 MB each
    worker = Worker(limit_for(300 << 20))  # a process of many tests lets go of some megabytes at any time
    answers = [await worker.load(folder.name, folder) for folder in folders]
    assert [status for status, _ in answers] == [200, 200, 200, 507, 507, 507]
    lacking = answers[-1][1]["lackingBytes"]
    assert 30_000_000 < lacking < 120_000_000, "as much as one of them takes, not what its files take"
    size_bytes = (folders[-1] / "model.joblib").stat().st_size
    (folders[-1] / "model.joblib").write_bytes(b"?" * size_bytes)
    assert (await worker.load(folders[-1].name, folders[-1]))[0] == 507, "nobody has tried to load it"


async def test_the_memory_of_large_arrays_is_the_system_s_when_their_model_goes(tmp_path: Path) -> None:
    folders = [packed(tmp_path / str(number), arrays=1, cells=15_000_000) for number in range(4)]
    worker = Worker()  # 120 MB each: more than any hole that other tests left in this process's heap
    for folder in folders:
        assert (await worker.load(folder.name, folder))[0] == 200
    before = resident_bytes()
    for folder in folders[:3]:
        assert (await worker.ask("DELETE", f"/models/{folder.name}"))[0] == 200
    gc.unfreeze()
    gc.collect()
    assert before - resident_bytes() > 300_000_000


def packed(path: Path, arrays: int, cells: int) -> Path:
    """A model with arrays of the same numbers, compressed."""
    path.mkdir()
    model = LinearRegression().fit(numpy.array([[0.0], [1.0]]), numpy.array([0.0, 1.0]))
    model.ballast_ = [numpy.ones(cells) for _ in range(arrays)]
    file = io.BytesIO()
    joblib.dump(model, file, compress=("zlib", 1))
    (path / "model.joblib").write_bytes(file.getvalue())
    return path
