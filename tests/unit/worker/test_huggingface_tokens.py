"""Token streams over a pipeline that only counts: order, ends, back-pressure, and a caller that leaves.

Needs neither torch nor transformers: the parts of them that a stream touches are stood in for below.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clary_worker.contract import RequestError
from clary_worker.huggingface import events, generation

END = 9
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "</s>"]


class Tensor(np.ndarray):
    """As much of a tensor as a stream sees."""

    def dim(self) -> int:
        return self.ndim

    def float(self) -> Tensor:
        return self


def tensor(values: Any) -> Tensor:
    return np.asarray(values).view(Tensor)


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = ModuleType("torch")
    torch.bool = bool
    torch.log_softmax = lambda scores, _dim: scores - math.log(np.exp(scores).sum())
    torch.full = lambda shape, value, dtype: np.full(shape, value, dtype)
    transformers: Any = ModuleType("transformers")
    transformers.LogitsProcessor = transformers.StoppingCriteria = object
    transformers.LogitsProcessorList = transformers.StoppingCriteriaList = list
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)


class Pipe:
    """Says the numbers of `said`, one token each, as `generate` hands them to a streamer."""

    task = "text-generation"

    def __init__(self, said: list[int], gate: threading.Event | None = None) -> None:
        self.said = said
        self.made = 0
        self.ended = threading.Event()
        self._gate = gate
        config = SimpleNamespace(eos_token_id=END, max_new_tokens=None)
        self.model = SimpleNamespace(generation_config=config, config=SimpleNamespace(is_encoder_decoder=False))
        self.tokenizer = SimpleNamespace(all_special_ids=[END], decode=self.decode)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(WORDS[one] for one in ids if not (skip_special_tokens and one == END))

    def __call__(self, inputs: Any, streamer: Any, **options: Any) -> Any:
        try:
            if inputs == "fail":
                raise ValueError("before the first token")
            streamer.put(tensor([[1, 2]]))
            for number in self.said[: options.get("max_new_tokens", 10**9)]:
                if self._gate is not None and self.made:
                    assert self._gate.wait(20)
                for processor in options["logits_processor"]:
                    processor(None, tensor([[0.0] * 10]))
                self.made += 1
                streamer.put(tensor([number]))
                stopped = [one(np.zeros((1, 1)), None) for one in options.get("stopping_criteria", ())]
                if number == END or any(bool(one.all()) for one in stopped):
                    break
                if inputs == "fail late" and self.made == 2:
                    raise ValueError("in the middle")
            streamer.end()
            return [{"generated_text": self.decode(self.said[: self.made], True)}]
        finally:
            self.ended.set()


def texts(tokens: Iterator[generation.Token]) -> list[tuple[str, str | None, str]]:
    return [(token.piece, token.text, token.finish) for token in tokens]


def test_the_last_token_carries_the_text_and_the_reason() -> None:
    assert texts(generation.start(Pipe([1, 2, END]), "x", {})) == [
        ("one", None, ""),
        (" two", None, ""),
        (" </s>", "one two", "eos_token"),
    ]
    assert texts(generation.start(Pipe([1, 2, 3]), "x", {"max_new_tokens": 2})) == [
        ("one", None, ""),
        (" two", "one two", "length"),
    ]
    assert texts(generation.start(Pipe([1, 2, 3, 4]), "x", {}, stop=["two"]))[1:] == [
        (" two", "one two", "stop_sequence")
    ]
    assert texts(generation.start(Pipe([5]), "x", {"max_new_tokens": 1})) == [("five", "five", "length")]


def test_an_end_that_was_not_foreseen_gets_an_event_of_its_own() -> None:
    assert texts(generation.start(Pipe([1, 2]), "x", {})) == [
        ("one", None, ""),
        (" two", None, ""),
        ("", "one two", "length"),
    ]


def test_an_end_foreseen_too_early_is_taken_back() -> None:
    pipe = Pipe([1, 2, 3, END])
    # max_length counts the prompt's two tokens; this pipeline takes no notice of it.
    assert [text for _, text, _ in texts(generation.start(pipe, "x", {"max_length": 4}))] == [
        None,
        None,
        None,
        "one two three",
    ]


def test_the_first_token_leaves_before_the_second_is_made() -> None:
    gate = threading.Event()
    pipe = Pipe([1, 2, END], gate)
    stream = generation.start(pipe, "x", {})
    assert next(stream).piece == "one"
    assert pipe.made == 1
    gate.set()
    assert len(list(stream)) == 2


def test_a_caller_that_leaves_ends_the_generation_and_a_slow_one_holds_it() -> None:
    pipe = Pipe([1, 2] * 100_000)
    stream = generation.start(pipe, "x", {"max_new_tokens": 200_000})
    next(stream)
    deadline = time.monotonic() + 20
    while pipe.made < generation.QUEUE_TOKENS and time.monotonic() < deadline:
        time.sleep(0.01)
    assert generation.QUEUE_TOKENS <= pipe.made <= generation.QUEUE_TOKENS + 3
    stream.close()
    assert pipe.ended.wait(20)
    assert pipe.made <= generation.QUEUE_TOKENS + 3


def test_failures_come_where_they_happen() -> None:
    with pytest.raises(ValueError, match="before the first token"):
        generation.start(Pipe([1]), "fail", {})
    stream = generation.start(Pipe([1, 2, 3]), "fail late", {})
    with pytest.raises(ValueError, match="in the middle"):
        list(stream)


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "words"),
    [
        ("fill-mask", "x", {}, "this model's task is fill-mask"),
        ("text-generation", ["a", "b"], {}, "of one text"),
        ("text-generation", "x", {"num_beams": 2}, "no beams"),
        ("text-generation", "x", {"num_return_sequences": 2}, "no several sequences"),
        ("text-generation", "x", {"max_time": 1}, "max_time"),
    ],
)
def test_what_cannot_be_streamed_is_refused(task: str, inputs: Any, parameters: dict[str, Any], words: str) -> None:
    pipe = Pipe([1])
    pipe.task = task  # type: ignore[misc]
    with pytest.raises(RequestError, match=words):
        generation.start(pipe, inputs, parameters)


def test_events_are_tgis() -> None:
    stream = events.Events(generation.start(Pipe([1, END]), "x", {}), details=True, seed=4)
    lines = b"".join(stream).decode().split("\n\n")
    first, last = (json.loads(line.removeprefix("data:")) for line in lines[:2])
    assert lines[2:] == [""]
    assert first == {
        "index": 1,
        "token": {"id": 1, "text": "one", "logprob": pytest.approx(-math.log(10)), "special": False},
        "generated_text": None,
        "details": None,
    }
    assert last["token"]["special"]
    assert last["generated_text"] == "one"
    assert last["details"] == {"finish_reason": "eos_token", "generated_tokens": 2, "seed": 4}
