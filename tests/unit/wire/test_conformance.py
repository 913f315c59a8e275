"""The AWS protocol cases, turned round: the server reads what clients send, and clients read what the server sends.

input   the request of a case is decoded with the case's shapes; the case's parameters must come out
output  the case's result is encoded; botocore's own parser must read that result back
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import botocore.model
import pytest
from botocore import parsers
from botocore.compat import HTTPHeaders
from botocore.utils import parse_timestamp

from clary.wire import event_answers, rest_binding, timestamps
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.http import Request, Response
from clary.wire.model import Service, Shape
from clary.wire.protocols import decode, encode, encode_error
from clary.wire.uri_table import UriTable

CASES = Path(__file__).parents[2] / "data" / "aws-protocols"
IGNORED = json.loads((CASES / "protocol-tests-ignore-list.json").read_text())

# Cases that a server need not or cannot pass, each with its reason. The shared ignore list comes on top of these.
_SAME = "the client sends {} for a payload that is absent and for one that is empty: on the wire they are the same"
_TOKEN = "the client makes up the idempotency token; the server rightly reads it"
EXCEPTIONS: dict[str, str] = {
    "Ec2EmptyQueryLists": "the ec2 protocol does not send empty lists, so there is nothing to read",
    "RestJsonHttpWithEmptyStructurePayload": _SAME,
    "RestJsonHttpWithHeadersButNoPayload": _SAME,
    "legacy-input-rest-json-17-2": _SAME,
    "legacy-input-rest-json-17-4": _SAME,
    "legacy-input-rest-json-14-1": _TOKEN,
    "legacy-input-rest-xml-15-1": _TOKEN,
}
PROTOCOLS = {"json_1_0": "json"}


def ignored(direction: str, file: Path, suite: dict[str, Any], case_id: str) -> bool:
    name = file.stem
    for key in ("general", "protocols"):
        entry = IGNORED[key] if key == "general" else IGNORED[key].get(name, {})
        listed = entry.get(direction, {})
        if suite["description"] in listed.get("suites", ()) or case_id in listed.get("cases", ()):
            return True
    return False


def cases(direction: str) -> list[Any]:
    found = []
    for file in sorted([*CASES.glob(f"{direction}/*.json"), *CASES.glob(f"legacy/{direction}/*.json")]):
        legacy = "legacy" in file.parts
        for suite_number, suite in enumerate(json.loads(file.read_text())):
            for number, case in enumerate(suite["cases"]):
                case_id = case.get("id", f"{file.stem}-{suite_number}-{number}")
                if not legacy and ignored(direction, file, suite, case_id):
                    continue
                name = case_id if not legacy else f"legacy-{direction}-{case_id}"
                if name not in EXCEPTIONS:
                    protocol = PROTOCOLS.get(suite["metadata"]["protocol"], suite["metadata"]["protocol"])
                    found.append(pytest.param(protocol, suite, case, id=f"{direction}-{name}"))
    return found


def raw_model(suite: dict[str, Any], case: dict[str, Any], protocol: str) -> dict[str, Any]:
    metadata = {"endpointPrefix": "test", "apiVersion": "2020-01-01", **suite["metadata"], "protocol": protocol}
    given = dict(case["given"])
    given.setdefault("http", {"method": "POST", "requestUri": "/"})
    return {"metadata": metadata, "operations": {given["name"]: given}, "shapes": suite["shapes"]}


def call_for(protocol: str, suite: dict[str, Any], case: dict[str, Any]) -> Call:
    service = Service("test", raw_model(suite, case, protocol))
    return Call("test", protocol, service.operation(case["given"]["name"]), query_mode=service.is_query_compatible)


def plain(shape: Any, value: Any, at_header: bool = False) -> Any:
    """Values of a case file as Python values: timestamps, blobs, special floats."""
    if value is None:
        return None
    if shape.serialization.get("eventstream"):
        return [{kind: plain(shape.members[kind], members) for kind, members in one.items()} for one in value]
    match shape.type_name:
        case "structure":
            if shape.is_document_type:
                return value
            return {k: plain(shape.members[k], v) for k, v in value.items() if v is not None and k in shape.members}
        case "list":
            return [plain(shape.member, v) for v in value]
        case "map":
            return {k: plain(shape.value, v) for k, v in value.items()}
        case "timestamp":
            return timestamps.parse(value)
        case "blob":
            return value.encode() if isinstance(value, str) else value
        case "float" | "double":
            return float(value)
    return value


def comparable(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [comparable(v) for v in value]
    return value


def body_of(case: dict[str, Any], protocol: str, key: str) -> bytes:
    body = case[key].get("body", "")
    if isinstance(body, dict):  # the legacy query and ec2 cases give the form as a map
        return urlencode(body).encode()
    if protocol == "smithy-rpc-v2-cbor":
        return base64.b64decode(body)
    return body.encode()


@pytest.mark.parametrize(("protocol", "suite", "case"), cases("input"))
def test_the_server_reads_what_a_client_sends(protocol: str, suite: dict[str, Any], case: dict[str, Any]) -> None:
    call = call_for(protocol, suite, case)
    sent = case["serialized"]
    uri = sent["uri"]
    headers = tuple((name.lower().encode(), str(value).encode()) for name, value in sent.get("headers", {}).items())
    request = Request(
        sent.get("method") or call.operation.http["method"],
        uri.encode(),
        headers,
        body_of(case, protocol, "serialized"),
    )
    if protocol.startswith("rest"):
        table = UriTable(call.operation.service)
        names = {name for name, _ in headers}
        found = table.match(request.method, request.raw_path, rest_binding.query_of(request), names)
        assert found is not None, uri
        call = Call("test", protocol, call.operation, found.labels)
    shape = call.operation.input_shape
    expected = plain(shape, case["params"]) if shape is not None else {}
    got = decode(call, request)
    if "forbidHeaders" not in sent and "contentType" not in expected:
        got.pop("contentType", None)  # the client adds this header of its own accord
    assert comparable(got) == comparable(expected)


def parsed_back(protocol: str, response: Response, shape: Any) -> dict[str, Any]:
    sent = {"status_code": response.status, "headers": headers_of(response), "body": response.body, "context": {}}
    result: dict[str, Any] = parsers.create_parser(protocol).parse(sent, shape)
    return result


def headers_of(response: Response) -> HTTPHeaders:
    made = HTTPHeaders()
    for name, value in response.headers:
        made[name] = value
    return made


@pytest.mark.parametrize(("protocol", "suite", "case"), cases("output"))
def test_a_client_reads_what_the_server_sends(protocol: str, suite: dict[str, Any], case: dict[str, Any]) -> None:
    call = call_for(protocol, suite, case)
    raw = raw_model(suite, case, protocol)
    theirs = botocore.model.ServiceModel(raw, "test").operation_model(case["given"]["name"])
    if "errorCode" in case or "error" in case:
        check_error(call, theirs, protocol, case)
        return
    shape = call.operation.output_shape
    result = plain(shape, case["result"]) if shape is not None else {}
    if shape is not None and shape.event_stream_name is not None:
        check_event_stream(call, theirs, result)
        return
    response = encode(call, result, "id-1")
    got = parsed_back(protocol, response, theirs.output_shape)
    got.pop("ResponseMetadata", None)
    got, result = without_other_headers(shape, plain_theirs(theirs.output_shape, got), result)
    assert comparable(got) == comparable(result)


def without_other_headers(shape: Shape | None, got: Any, result: Any) -> tuple[Any, Any]:
    """A map of headers without a prefix also catches the server's own headers; names come in any case."""
    for name, member in shape.members.items() if shape is not None else ():
        if member.serialization.get("location") == "headers" and name in result:
            result = {**result, name: {key.lower(): value for key, value in result[name].items()}}
            got = {**got, name: {key.lower(): value for key, value in got[name].items() if key.lower() in result[name]}}
    return got, result


def check_event_stream(call: Call, theirs: Any, result: dict[str, Any]) -> None:
    shape = call.operation.output_shape
    assert shape is not None
    name = str(shape.event_stream_name)
    frames = [event_answers.event(call, kind, members) for given in result[name] for kind, members in given.items()]
    if not call.protocol.startswith("rest"):
        frames.insert(0, event_answers.initial_response(call, result))
    response = encode(call, {**result, name: b"".join(frames)}, "id-1")

    class Body:
        def stream(self) -> Any:
            yield response.body

    parser = parsers.create_parser(call.protocol)
    sent = {"status_code": 200, "headers": headers_of(response), "body": Body(), "context": {"operation_name": "Op"}}
    got = parser.parse(sent, theirs.output_shape)
    got.pop("ResponseMetadata", None)
    stream = theirs.output_shape.members[name]
    events = [plain_theirs(stream, one) for one in got.pop(name)]
    assert [one for one in events if "initial-response" not in one] == result[name]
    assert got == {key: value for key, value in result.items() if key != name}


def plain_theirs(shape: Any, value: Any) -> Any:
    """botocore gives string-typed payloads as bytes or text as they come; and local time zones."""
    if shape is None or value is None:
        return value
    match shape.type_name:
        case "structure":
            if shape.is_document_type:
                return value
            return {k: plain_theirs(shape.members[k], v) for k, v in value.items()}
        case "list":
            return [plain_theirs(shape.member, v) for v in value]
        case "map":
            return {k: plain_theirs(shape.value, v) for k, v in value.items()}
        case "blob":
            return value.encode() if isinstance(value, str) else value
        case "float" | "double":
            return float(value)
        case "timestamp":
            return timestamps.aware(parse_timestamp(value) if isinstance(value, (str, int, float)) else value)
    return value


def check_error(call: Call, theirs: Any, protocol: str, case: dict[str, Any]) -> None:
    status = case["response"]["status_code"]
    code = case["errorCode"]
    shape = call.operation.service.exceptions.get(code)
    members = plain(shape, case.get("error", {})) if shape is not None else {}
    message = case.get("errorMessage") or members.get("message") or members.get("Message") or ""
    members = {k: v for k, v in members.items() if k.lower() != "message"}
    response = encode_error(call, WireError(code, status, message, members), "id-1")
    assert response.status == ((shape.error_status if shape is not None else None) or status)
    parsed = parsed_back(protocol, response, theirs.output_shape)
    assert parsed["Error"]["Code"] == code
    assert parsed["Error"].get("Message", "") == message
    if shape is not None:
        their_shape = theirs.service_model.shape_for(shape.name)
        modelled = parsed_back(protocol, response, their_shape)
        wanted = dict(members)
        got = {k: v for k, v in plain_theirs(their_shape, modelled).items() if k.lower() != "message"}
        assert comparable(got) == comparable(wanted)
