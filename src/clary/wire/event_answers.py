"""Modelled events as frames: what a handler yields, in the protocol of its call.

A handler of an operation with an event stream answers {stream member: iterator of frames}; each frame is made here from
{event name: members}. The rpc protocols send the other members of the answer as a first frame, `initial-response`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clary.wire import cbor_body, json_body, xml_body
from clary.wire.catalog import Call
from clary.wire.eventstream import HeaderValue, encode_frame, event_frame
from clary.wire.model import Shape

_CONTENT_TYPES: Final = {"rest-xml": "text/xml", "smithy-rpc-v2-cbor": "application/cbor"}


def initial_response(call: Call, result: Mapping[str, Any]) -> bytes:
    """The first frame of an rpc answer: the members beside the stream."""
    shape = _stream_owner(call)
    rest = {name: value for name, value in result.items() if name != shape.event_stream_name}
    return event_frame("initial-response", _document(call, shape, rest), _content_type(call))


def event(call: Call, name: str, members: Mapping[str, Any]) -> bytes:
    """One event of the call's stream. Raises: KeyError when the stream has no event of that name."""
    owner = _stream_owner(call)
    shape = owner.members[str(owner.event_stream_name)].members[name]
    headers: dict[str, HeaderValue] = {":message-type": "event", ":event-type": name}
    payload = b""
    content_type: str | None = None
    in_document: dict[str, Any] = {}
    for member_name, member in shape.members.items():
        value = members.get(member_name)
        if value is None:
            continue
        if member.serialization.get("eventheader"):
            headers[member_name] = value
        elif member.serialization.get("eventpayload"):
            if member.type_name == "blob":
                payload, content_type = bytes(value), "application/octet-stream"
            elif member.type_name == "string":
                payload, content_type = str(value).encode(), "text/plain"
            else:
                payload, content_type = _document(call, member, value), _content_type(call)
        else:
            in_document[member_name] = value
    if content_type is None and (in_document or _has_document(shape)):
        payload, content_type = _document(call, shape, in_document), _content_type(call)
    if content_type is not None:
        headers[":content-type"] = content_type
    return encode_frame(headers, payload)


def _has_document(shape: Shape) -> bool:
    return any(not {"eventheader", "eventpayload"} & member.serialization.keys() for member in shape.members.values())


def _stream_owner(call: Call) -> Shape:
    shape = call.operation.output_shape
    if shape is None or shape.event_stream_name is None:
        raise ValueError(f"{call.operation.name} answers with no event stream")
    return shape


def _content_type(call: Call) -> str:
    return _CONTENT_TYPES.get(call.protocol, "application/json")


def _document(call: Call, shape: Shape, value: Any) -> bytes:
    if call.protocol == "smithy-rpc-v2-cbor":
        return cbor_body.dumps(cbor_body.WRITER.write(shape, value))
    if call.protocol == "rest-xml":
        out: list[str] = []
        xml_body.write(out, shape.serialization.get("name", shape.name), shape, value)
        return "".join(out).encode()
    return json_body.dumps(json_body.WRITER.write(shape, value))
