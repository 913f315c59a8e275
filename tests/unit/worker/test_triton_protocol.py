"""Bodies of no good will: whatever they hold, they are read or refused, and no memory is taken on their word."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clary_worker.triton import protocol
from clary_worker.triton.errors import InferError

SIZES = st.one_of(
    st.integers(-2, 4), st.sampled_from([2**31, 2**40, 2**62, 2**64]), st.booleans(), st.none(), st.text()
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3))
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
PARAMETERS = st.one_of(
    SCALARS,
    st.dictionaries(
        st.sampled_from(["binary_data_size", "binary_data", "classification", "binary_data_output", "triton_x"]),
        SCALARS,
    ),
)
DATATYPES = st.sampled_from(["BOOL", "INT8", "UINT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", None])
TENSORS = st.fixed_dictionaries(
    {"name": st.one_of(st.sampled_from(["a", "b"]), SCALARS)},
    optional={
        "shape": st.one_of(st.lists(SIZES, max_size=4), SCALARS),
        "datatype": DATATYPES,
        "data": DATA,
        "parameters": PARAMETERS,
    },
)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "id": SCALARS,
        "inputs": st.one_of(st.lists(st.one_of(TENSORS, SCALARS), max_size=3), SCALARS),
        "outputs": st.one_of(st.lists(TENSORS, max_size=2), SCALARS),
        "parameters": PARAMETERS,
    },
)


def read_or_refused(body: bytes, content_type: str) -> bool:
    """Whether it was read or refused with a text; any other exception fails the test."""
    try:
        return isinstance(protocol.read(body, content_type, "m"), protocol.InferRequest)
    except InferError as error:
        return bool(error.text)


@given(HEADS, st.binary(max_size=40))
def test_any_body_is_read_or_refused(head: Any, raw: bytes) -> None:
    text = json.dumps(head).encode()
    assert read_or_refused(text + raw, protocol.BINARY_TYPE + str(len(text)))
    assert read_or_refused(text, "application/json")


@given(st.binary(max_size=60), st.text(max_size=10))
def test_any_bytes_under_any_header_size_are_read_or_refused(body: bytes, size: str) -> None:
    assert read_or_refused(body, protocol.BINARY_TYPE + size)
