"""Reading config.pbtxt: the text format, the fields that are known, and text that means harm."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary_worker.contract import LoadError
from clary_worker.triton import textformat
from clary_worker.triton.config import DynamicBatching, ModelConfig, Port, Step, VersionPolicy, read
from clary_worker.triton.textformat import Field, Scalar, TextError


def config(text: str, name: str = "m") -> ModelConfig:
    return read(text, name, "/models/m/config.pbtxt")


def plain(fields: list[Field]) -> list[Any]:
    """The tree without positions: (name, value) with a message as a list."""
    return [(f.name, f.value.text if isinstance(f.value, Scalar) else plain(f.value)) for f in fields]


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", []),
        ("# nothing\n", []),
        ('a: "x"', [("a", "x")]),
        ("a: 'it\\'s' b: 2", [("a", "it's"), ("b", "2")]),
        ('a: "one" " two"\n  \'three\'', [("a", "one twothree")]),
        ("a: -1, b: 0x1F; c: 1.5e3f", [("a", "-1"), ("b", "0x1F"), ("c", "1.5e3f")]),
        ("a: [1, 2, 3]", [("a", "1"), ("a", "2"), ("a", "3")]),
        ("a: []", []),
        (
            "a { b: true } a: { b: false } a < b: t >",
            [("a", [("b", "true")]), ("a", [("b", "false")]), ("a", [("b", "t")])],
        ),
        ("a [ { b: 1 }, { b: 2 } ]", [("a", [("b", "1")]), ("a", [("b", "2")])]),
        ("a: [ < b: 1 > ]", [("a", [("b", "1")])]),
        (r'a: "\n\t\101\x41\u20ac\\"', [("a", "\n\tAA€\\")]),
        ('a: "# no comment" # a comment', [("a", "# no comment")]),
    ],
)
def test_the_text_format(text: str, tree: list[Any]) -> None:
    assert plain(textformat.parse(text)) == tree


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a", '1:2: Expected ":"'),
        ("a: ", "Expected a value"),
        ("\n  1: 2", "2:3: Expected identifier, got: 1"),
        ("a { b: 1", "Expected identifier, got: end of text"),
        ("a: [1 2]", 'Expected ",", found "2"'),
        ("a: [1,]", "Expected a value"),
        ('a: "open', "1:4: Multiline strings are not allowed"),
        ('a: "\\q"', "Invalid escape sequence"),
        ('a: "\\xff"', "invalid UTF-8"),
        ("a: 1x", "Need space between number and identifier"),
        ("a: - 'x'", "Expected a number"),
        ("a } b", "Expected"),
        ("a: \x00", "Invalid character"),
        ("a {" * 100, "recursion limit"),
        ("a: 1 " * 60_000, "at most 262144 are read"),
    ],
)
def test_what_is_no_text_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(TextError) as caught:
        textformat.parse(text)
    assert told in str(caught.value)


@given(st.text(alphabet="ab:{}[]<>,;\"'\\#-.0x1 \n", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:  # any other exception fails the test
        read = textformat.parse(text)
    except TextError as error:
        assert re.match(r"\d+:\d+: .", str(error))  # noqa: PT017 - both outcomes are right
    else:
        assert all(isinstance(one, textformat.Field) for one in read)


@pytest.mark.parametrize("text", ['"' + "\\" * 250_000, "a: " + "9" * 250_000, "[" * 250_000, "a:[" + "1," * 120_000])
def test_hostile_text_takes_no_longer_than_its_length(text: str) -> None:
    began_s = time.monotonic()
    with pytest.raises((TextError, LoadError)):
        config(text)
    assert time.monotonic() - began_s < 60  # quadratic would be hours


def test_a_whole_configuration() -> None:
    found = config(
        """
        name: "m"
        platform: "onnxruntime_onnx"
        max_batch_size: 16
        input [
          { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] },
          { name: "mask" data_type: TYPE_BOOL dims: 4 dims: 2 reshape { shape: [ 8 ] } optional: true }
        ]
        output { name: "score" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }
        version_policy: { specific { versions: [ 1, 3 ] } }
        instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0, 1 ] } ]
        dynamic_batching {
          preferred_batch_size: [ 8, 4 ] max_queue_delay_microseconds: 500
          default_queue_policy { max_queue_size: 10 default_timeout_microseconds: 2000 }
        }
        parameters { key: "threshold" value: { string_value: "0.5" } }
        parameters: { key: "empty" }
        default_model_filename: "net.onnx"
        optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }
        model_warmup [ { name: "w" batch_size: 1 inputs { key: "ids" value: { data_type: TYPE_INT64 dims: 4 } } } ]
        """
    )
    assert found.backend == "onnxruntime"
    assert found.max_batch_size == 16
    assert found.inputs == (
        Port("ids", "INT64", (-1,)),
        Port("mask", "BOOL", (4, 2), (8,), optional=True),
    )
    assert found.outputs == (Port("score", "FP32", (1,), ()),)
    assert found.versions == VersionPolicy(specific=(1, 3))
    assert found.instances == 3
    assert found.batching == DynamicBatching((4, 8), 500, 10, 2000)
    assert found.parameters == {"threshold": "0.5", "empty": ""}
    assert found.filename == "net.onnx"
    assert found.notes == (
        "model 'm': optimization has no effect here",
        "model 'm': model_warmup has no effect here",
        "model 'm': KIND_GPU runs on the CPU here",
    )


def test_an_ensembles_steps() -> None:
    found = config(
        """
        ensemble_scheduling { step [
          { model_name: "a" model_version: 2 input_map { key: "x" value: "IN" } output_map { key: "y" value: "mid" } },
          { model_name: "b" input_map { key: "x" value: "mid" } output_map [ { key: "y" value: "OUT" } ] }
        ] }
        """
    )
    assert found.backend == "ensemble"
    assert found.steps == (Step("a", 2, {"x": "IN"}, {"y": "mid"}), Step("b", -1, {"x": "mid"}, {"y": "OUT"}))


PORT = 'input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_batch: 4", '1:1: Message type "inference.ModelConfig" has no field named "max_batch".'),
        ("input {\n  kind: KIND_CPU\n}", '2:3: Message type "inference.ModelInput" has no field named "kind".'),
        ('max_batch_size: "4"', "Expected integer, got: 4"),
        ("max_batch_size: 1.5", "Expected integer, got: 1.5"),
        ("max_batch_size: 3000000000", "Integer out of range (3000000000)"),
        ("max_batch_size: -1", "'max_batch_size' must be non-negative"),
        ("name: m", "Expected string, got: m"),
        ("input: 4", 'Expected "{", found "4".'),
        ("name { }", 'The field "name" takes a value'),
        ('name: "m" name: "m"', 'Non-repeated field "name" is specified multiple times.'),
        ("input { data_type: TYPE_FLOAT }", 'Unknown enumeration value of "TYPE_FLOAT" for field "data_type".'),
        ("input { optional: yes }", 'Invalid value for boolean field "optional". Value: "yes".'),
        ("dynamic_batching { } ensemble_scheduling { }", 'another member of oneof "scheduling_choice"'),
        ("version_policy { latest { } all { } }", 'another member of oneof "policy_choice"'),
        (PORT.replace('name: "x"', ""), "must specify 'name'"),
        (PORT.replace("data_type: TYPE_FP32", ""), "must specify 'data_type'"),
        (PORT.replace("dims: [ 1 ]", ""), "must specify 'dims'"),
        (PORT.replace("[ 1 ]", "[ 0 ]"), "dimension must be integer >= 1, or -1"),
        (PORT.replace("TYPE_FP32", "TYPE_BF16"), "is TYPE_BF16, which is not served here"),
        (PORT.replace("[ 1 ]", "[ 4 ] reshape { shape: [ 3 ] }"), "different size for dims and reshape"),
        (PORT + PORT, "names a tensor twice"),
        ("max_batch_size: 2 dynamic_batching { preferred_batch_size: 4 }", "preferred size must be <= max batch size"),
        ("max_batch_size: 2 dynamic_batching { preferred_batch_size: 0 }", "preferred size must be positive"),
        ("dynamic_batching { priority_levels: 2 }", "priority_levels is not served here"),
        ("dynamic_batching { default_queue_policy { timeout_action: DELAY } }", "DELAY is not served here"),
        ("sequence_batching { }", "sequence_batching is not served here"),
        ("batch_input { }", "batch_input is not served here"),
        ("instance_group { count: 1000 }", "at most 64 are run here"),
        (
            'backend: "fil"',
            "the backend 'fil' is not served here; onnxruntime, pytorch, python, openvino, ensemble are",
        ),
        ('platform: "tensorrt_plan"', "the backend 'tensorrt' is not served here"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(LoadError) as caught:
        config(text)
    assert told in caught.value.reason
    assert caught.value.hint


def test_the_policy_chooses_versions() -> None:
    there = [1, 2, 10]
    assert VersionPolicy().choose(there) == [10]
    assert VersionPolicy(latest=2).choose(there) == [10, 2]
    assert VersionPolicy(all=True).choose(there) == [10, 2, 1]
    assert VersionPolicy(specific=(1, 3)).choose(there) == [1]
