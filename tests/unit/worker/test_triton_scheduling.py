"""Which calls are executed together, and when: the rule as a table, the queue on a real loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from clary_worker.triton import tensors
from clary_worker.triton.calls import Call, Meta, Result
from clary_worker.triton.config import DynamicBatching, ModelConfig, Port
from clary_worker.triton.errors import InferError
from clary_worker.triton.model import Model, Tensors
from clary_worker.triton.pytorch_backend import input_order, output_places
from clary_worker.triton.scheduling import Queue, Rule, plan

GREEDY = Rule(8)
PREFERS = Rule(8, (4, 6))
PATIENT = Rule(8, (4,), 1000)


@pytest.mark.parametrize(
    ("rows", "grows", "waited_us", "rule", "expected"),
    [
        ([], True, 0, GREEDY, (0, 0)),
        ([1, 1, 1], True, 0, Rule(1), (1, 0)),  # no dynamic batching: each alone
        ([1], True, 0, GREEDY, (1, 0)),  # a delay of 0 waits for nobody
        ([1, 2, 3], True, 0, GREEDY, (3, 0)),
        ([4, 3, 2], True, 0, GREEDY, (2, 0)),  # 9 rows would be too many
        ([1] * 20, True, 0, GREEDY, (8, 0)),
        ([1] * 5, True, 0, PREFERS, (4, 0)),  # the largest preferred size that can be made
        ([1] * 7, True, 0, PREFERS, (6, 0)),
        ([1] * 3, True, 0, PREFERS, (3, 0)),  # none can be made
        ([3, 3, 1], True, 0, PREFERS, (2, 0)),
        ([1, 1], True, 0, PATIENT, (0, 1000)),
        ([1, 1], True, 400, PATIENT, (0, 600)),
        ([1, 1], True, 1000, PATIENT, (2, 0)),  # waited long enough
        ([1, 1], False, 0, PATIENT, (2, 0)),  # nothing that comes could join
        ([1, 1, 2], True, 0, PATIENT, (3, 0)),  # a preferred size goes at once
        ([5, 4], True, 0, PATIENT, (1, 0)),  # full: the next would not fit
        ([8], True, 0, PATIENT, (1, 0)),
    ],
)
def test_the_rule(rows: list[int], grows: bool, waited_us: int, rule: Rule, expected: tuple[int, int]) -> None:
    assert plan(rows, grows, waited_us, rule) == expected


class Recorder:
    """An instance that notes what it was given together, and may be held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.inside = threading.Semaphore(0)

    def execute(self, calls: list[Call]) -> list[Result]:
        self.batches.append(len(calls))
        self.inside.release()
        assert self.free.wait(30)
        return [{"y": call.inputs["x"]} for call in calls]


def configuration(batching: DynamicBatching | None, size: int = 8, **more: Any) -> ModelConfig:
    port = Port("x", "FP32", (-1,))
    return ModelConfig("m", "python", size, (port,), (Port("y", "FP32", (-1,)),), batching, **more)


def rows(number: int, width: int = 2) -> dict[str, Any]:
    return {"x": np.zeros((number, width), np.float32)}


async def submitted(config: ModelConfig, recorders: list[Recorder], tensors: list[dict[str, Any]]) -> list[Result]:
    """The results of calls that all came in one turn of the loop."""
    loop = asyncio.get_running_loop()
    model = Model(config, 1, recorders, "test")
    model.open(loop)
    found: list[asyncio.Future[Result]] = [loop.create_future() for _ in tensors]
    for one, future in zip(tensors, found, strict=True):
        model.submit(one, None, Meta(), future.set_result)
    try:
        return list(await asyncio.wait_for(asyncio.gather(*found), 30))
    finally:
        model.close()


async def test_calls_of_one_turn_are_one_batch() -> None:
    recorder = Recorder()
    await submitted(configuration(DynamicBatching()), [recorder], [rows(1), rows(2), rows(3)])
    assert recorder.batches == [3]


async def test_without_dynamic_batching_each_call_goes_alone() -> None:
    recorder = Recorder()
    await submitted(configuration(None), [recorder], [rows(1)] * 3)
    assert recorder.batches == [1, 1, 1]


async def test_a_batch_never_exceeds_its_size() -> None:
    recorder = Recorder()
    await submitted(configuration(DynamicBatching()), [recorder], [rows(3)] * 5)
    assert recorder.batches == [2, 2, 1]


async def test_calls_of_different_shapes_are_not_joined() -> None:
    recorder = Recorder()
    await submitted(configuration(DynamicBatching()), [recorder], [rows(1), rows(1), rows(1, 3), rows(1)])
    assert recorder.batches == [2, 1, 1]


async def test_a_lone_call_waits_for_others_as_long_as_it_was_told() -> None:
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    model = Model(configuration(DynamicBatching((2,), 30_000_000)), 1, [recorder], "test")
    model.open(loop)
    first, second = loop.create_future(), loop.create_future()
    model.submit(rows(1), None, Meta(), first.set_result)
    await asyncio.sleep(0.01)
    assert not recorder.batches
    model.submit(rows(1), None, Meta(), second.set_result)
    await asyncio.wait_for(asyncio.gather(first, second), 10)  # the preferred size is there: nobody waits 30 s
    assert recorder.batches == [2]


async def test_a_short_delay_ends() -> None:
    recorder = Recorder()
    await submitted(configuration(DynamicBatching((), 1000)), [recorder], [rows(1)])
    assert recorder.batches == [1]


async def test_as_many_executions_run_at_once_as_there_are_instances() -> None:
    recorders = [Recorder(), Recorder(), Recorder()]
    for recorder in recorders:
        recorder.free.clear()
    pending = asyncio.ensure_future(submitted(configuration(None, instances=3), recorders, [rows(1)] * 7))
    await asyncio.sleep(0)
    for recorder in recorders:
        assert await asyncio.to_thread(recorder.inside.acquire, True, 30)  # all three are inside, none has ended
    for recorder in recorders:
        recorder.free.set()
    assert len(await pending) == 7
    assert sum(sum(recorder.batches) for recorder in recorders) == 7


async def test_a_full_queue_refuses_and_an_old_call_times_out() -> None:
    recorder = Recorder()
    full = await submitted(configuration(DynamicBatching(max_queue_size=2)), [recorder], [rows(1)] * 3)
    assert [str(one) for one in full if isinstance(one, InferError)] == ["Exceeds maximum queue size"]

    config = configuration(DynamicBatching(max_delay_us=20_000, timeout_us=1000))
    late = (await submitted(config, [recorder], [rows(1)]))[0]
    assert isinstance(late, InferError)
    assert late.text == "Request timeout expired"


async def test_nobody_computes_for_a_caller_who_left() -> None:
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    config = configuration(DynamicBatching())
    queue = Queue(config, [recorder], lambda instance, calls: instance.execute(calls), loop)
    done = loop.create_future()
    gone = Call(rows(1), ["y"], 1, None, Meta(), pytest.fail, lambda: True)
    queue.submit(gone)
    queue.submit(Call(rows(1), ["y"], 1, None, Meta(), done.set_result))
    await asyncio.wait_for(done, 10)
    assert recorder.batches == [1]


class Picky(Tensors):
    """Doubles, but not below zero; and notes the sizes that it was given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer(self, inputs: dict[str, Any], outputs: Any) -> dict[str, Any]:
        self.sizes.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise ValueError("below zero")
        return {"y": inputs["x"] * 2}


async def test_a_bad_request_fails_alone() -> None:
    picky = Picky()
    tensors = [{"x": np.full((1, 2), value, np.float32)} for value in (1, -1, 3)]
    found = await submitted(configuration(DynamicBatching()), [picky], tensors)  # type: ignore[list-item]
    assert picky.sizes == [3, 1, 1, 1]
    assert isinstance(found[1], InferError)
    assert found[1].text == "ValueError: below zero"
    for place in (0, 2):
        result = found[place]
        assert isinstance(result, dict)
        np.testing.assert_array_equal(result["y"], tensors[place]["x"] * 2)


async def test_a_model_that_calls_itself_is_told_so() -> None:
    class Selfish:
        model: Model

        def execute(self, calls: list[Call]) -> list[Result]:
            return [self.model.infer(calls[0].inputs, None, Meta())]

    selfish = Selfish()
    selfish.model = Model(configuration(None), 1, [selfish], "test")
    with pytest.raises(InferError, match="model 'm' calls itself"):
        selfish.model.infer(rows(1), None, Meta())


def test_torchscript_tensors_are_found_by_name_index_or_order() -> None:
    def ports(*names: str) -> list[Port]:
        return [Port(name, "FP32", (1,)) for name in names]

    assert input_order(["a", "b"], ports("b", "a")) == ["a", "b"]
    assert input_order(["x", "y"], ports("INPUT__1", "INPUT__0")) == ["INPUT__0", "INPUT__1"]
    assert input_order(["x", "y"], ports("second", "first")) == ["second", "first"]
    assert output_places(ports("OUT__1", "OUT__0")) == {"OUT__1": 1, "OUT__0": 0}
    assert output_places(ports("p", "q")) == {"p": 0, "q": 1}


def test_arrays_of_the_other_byte_order_go_out_in_the_wires() -> None:
    swapped = np.arange(3, dtype=">f4")
    assert tensors.datatype_of(swapped) == "FP32"
    assert tensors.to_raw(swapped) == np.arange(3, dtype="<f4").tobytes()
    with pytest.raises(InferError, match="complex64 is no tensor"):
        tensors.datatype_of(np.zeros(1, np.complex64))
