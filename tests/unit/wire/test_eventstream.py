"""Event stream frames, against botocore's decoder and our own."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from botocore.eventstream import EventStreamBuffer

from clary.wire import catalog
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.event_answers import event
from clary.wire.eventstream import FrameReader, encode_frame, encode_headers, error_frame, event_frame, exception_frame


def read_by_botocore(data: bytes) -> list[tuple[dict[str, object], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(dict(message.headers), message.payload) for message in buffer]


def test_a_payload_part_is_what_botocore_expects() -> None:
    assert read_by_botocore(event_frame("PayloadPart", b"hello") + event_frame("PayloadPart", memoryview(b""))) == [
        (
            {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"},
            b"hello",
        ),
        ({":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}, b""),
    ]


def test_the_modelled_event_is_the_quick_one() -> None:
    operation = catalog.operation("sagemaker-runtime", "InvokeEndpointWithResponseStream")
    call = Call("sagemaker-runtime", "rest-json", operation)
    assert event(call, "PayloadPart", {"Bytes": b"hello"}) == event_frame("PayloadPart", b"hello")


def test_exceptions_and_errors_carry_their_names() -> None:
    (headers, payload), (error_headers, nothing) = read_by_botocore(
        exception_frame("ModelStreamError", b'{"Message":"m"}') + error_frame("Internal", "why")
    )
    assert headers[":message-type"] == "exception"
    assert headers[":exception-type"] == "ModelStreamError"
    assert payload == b'{"Message":"m"}'
    assert (error_headers[":error-code"], error_headers[":error-message"], nothing) == ("Internal", "why", b"")


HEADERS = {
    "yes": True, "no": False, "int": -5, "long": 2**40, "bytes": b"\x00\xff", "text": "größe",
    "time": datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), "id": uuid.UUID(int=7),
}  # fmt: skip


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_every_type_of_header_comes_back_however_the_stream_is_cut(step: int) -> None:
    data = encode_frame(HEADERS, b"payload") * 2
    reader = FrameReader()
    frames = [frame for at in range(0, len(data), step) for frame in reader.feed(data[at : at + step])]
    assert [(frame.headers, frame.payload) for frame in frames] == [(HEADERS, b"payload")] * 2
    assert reader.pending_bytes == 0


def test_every_changed_byte_is_noticed() -> None:
    data = event_frame("PayloadPart", b"hello")
    for at in range(len(data)):
        spoiled = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(WireError):
            FrameReader().feed(spoiled)


def test_headers_have_a_limit() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_headers({f"h{number}": "a" * 30_000 for number in range(6)})
