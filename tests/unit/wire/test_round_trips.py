"""Every operation of the main services, there and back, against botocore's own serialisers and parsers.

Parameters come from a seeded generator that knows shapes only, so every member of every input and output is met.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import botocore.model
import pytest
from botocore import parsers, serialize
from botocore.compat import HTTPHeaders
from botocore.loaders import Loader

from clary.wire import catalog
from clary.wire.catalog import Call
from clary.wire.http import Request
from clary.wire.protocols import decode, encode
from clary.wire.validate import validate

SERVICES = [
    ("sagemaker", "json", 1),
    ("sagemaker-runtime", "rest-json", 1),
    ("sagemaker-metrics", "rest-json", 1),
    ("s3", "rest-xml", 1),
    ("sts", "query", 1),
    ("iam", "query", 1),
    ("logs", "json", 1),
    ("cloudwatch", "json", 1),
    ("cloudwatch", "query", 1),
    ("cloudwatch", "smithy-rpc-v2-cbor", 1),
    ("application-autoscaling", "json", 1),
    ("cloudformation", "query", 1),
    ("lambda", "rest-json", 2),
    ("ec2", "ec2", 20),
]
# Answers that botocore's parser alone cannot read back, with the reason.
UNLIKE = {
    ("s3", "GetBucketLocation"): "the client reads the bare root in a hook of its own; see test_answers",
    ("s3", "GetBucketNotification"): "deprecated: its members Event and Events have one name on the wire",
}
MAX_DEPTH = 6
TEXTS = ["a", "plain text", "<&>\"'", "größe €", "日本", "a\nb", "tab\there", "100%", "a+b=c&d", "😀"]
ASCII_TEXTS = ["a", "plain text", "<&>", "100%", "a+b=c&d", "x;y"]


class Generator:
    """Values for shapes, from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def value(self, shape: Any, depth: int = 0) -> Any:
        place = shape.serialization.get("location")
        match shape.type_name:
            case "structure":
                return {} if shape.is_document_type else self.structure(shape, depth)
            case "list":
                return [self.value(shape.member, depth + 1) for _ in range(self._random.randint(1, 2))]
            case "map":
                return {f"key{n}": self.value(shape.value, depth + 1) for n in range(self._random.randint(1, 2))}
            case "string" | "character":
                if shape.metadata.get("enum"):
                    return self._random.choice(shape.metadata["enum"])
                return self._random.choice(ASCII_TEXTS if place in ("header", "headers") else TEXTS)
            case "integer" | "long":
                return self._random.choice([0, 1, 17, 2_000_000_000])
            case "float" | "double":
                return self._random.choice([0.0, 0.5, 1.25, 3.0e8])
            case "boolean":
                return self._random.random() < 0.5
            case "timestamp":
                return datetime.fromtimestamp(self._random.randint(0, 4_000_000_000), UTC)
            case "blob":
                return self._random.randbytes(self._random.randint(1, 20))
        raise AssertionError(shape.type_name)

    def structure(self, shape: Any, depth: int) -> dict[str, Any]:
        names = list(shape.members)
        if shape.is_tagged_union:
            names = [self._random.choice(names)]
        elif depth >= MAX_DEPTH:
            names = [name for name in names if name in shape.required_members]
        made: dict[str, Any] = {}
        for name in names:
            member = shape.members[name]
            if member.serialization.get("eventstream"):
                continue
            if depth > MAX_DEPTH + 4 and member.type_name in ("structure", "list", "map"):
                continue
            made[name] = self.value(member, depth + 1)
        return made


def model_of(service: str) -> botocore.model.ServiceModel:
    raw = Loader(include_default_extras=False).load_service_model(service, "service-2")
    return botocore.model.ServiceModel(raw, service)


def operations(service: str, step: int) -> list[str]:
    return list(catalog.service(service).operation_names)[::step]


def header_safe(shape: Any, value: dict[str, Any]) -> dict[str, Any]:
    """Header maps have lower-case names and ASCII text; lists in headers hold text without blanks at the ends."""
    for name, member in shape.members.items():
        if name in value and member.serialization.get("location") == "headers":
            value[name] = {key.lower(): "text" for key in value[name]}
        if name in value and member.serialization.get("location") == "header" and member.type_name == "list":
            value[name] = ["one", "two"] if not member.member.metadata.get("enum") else value[name]
    return value


def as_request(serialized: dict[str, Any], protocol: str) -> Request:
    body = serialized["body"]
    if isinstance(body, dict):
        body = urlencode(body).encode()
    query = serialized.get("query_string") or {}
    pairs = [
        f"{quote(str(key), safe='')}={quote(str(item), safe='')}"
        for key, value in query.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    target = serialized["url_path"]
    if pairs:
        target += ("&" if "?" in target else "?") + "&".join(pairs)
    headers = tuple((key.lower().encode(), str(value).encode()) for key, value in serialized["headers"].items())
    return Request(serialized["method"], target.encode(), headers, body)


def signing_name(service: str) -> str:
    return catalog.service(service).signing_name


@pytest.mark.parametrize(("service", "protocol", "step"), SERVICES)
def test_what_botocore_sends_is_routed_and_read(service: str, protocol: str, step: int) -> None:
    theirs = model_of(service)
    serializer = serialize.create_serializer(protocol, include_validation=False)
    for seed, name in enumerate(operations(service, step)):
        operation = theirs.operation_model(name)
        shape = operation.input_shape
        params = Generator(seed).structure(shape, 0) if shape is not None else {}
        if shape is not None:
            params = header_safe(shape, params)
            if service == "s3" and "Bucket" in params:
                params["Bucket"] = "bucket"  # every other name is a matter of validation
            if service == "s3" and "Key" in params:
                params["Key"] = "a//b/../c d+é%41"
            if service == "s3" and "RequestRoute" in params:
                params["RequestRoute"] = "route"  # the client puts it into the host name
        request = as_request(serializer.serialize_to_request(params, operation), protocol)
        call = catalog.route(request, signing_name(service))
        assert call.protocol == protocol
        if call.operation.name != name:
            assert same_on_the_wire(call, name), (name, call.operation.name)
            continue
        got = decode(call, request)
        assert got == params, name
        if call.operation.input_shape is not None:
            validate(call.operation.input_shape, got)


def same_on_the_wire(call: Call, name: str) -> bool:
    """Two operations with the same method and path, one of which is deprecated or a twin: on the wire they are one."""
    one, other = call.operation.http, catalog.operation(call.service, name).http
    return (one["method"], one["requestUri"]) == (other["method"], other["requestUri"])


@pytest.mark.parametrize(("service", "protocol", "step"), SERVICES)
def test_what_we_send_is_read_by_botocore(service: str, protocol: str, step: int) -> None:
    theirs = model_of(service)
    parser = parsers.create_parser(protocol)
    for seed, name in enumerate(operations(service, step)):
        operation = theirs.operation_model(name)
        shape = operation.output_shape
        if operation.has_event_stream_output or (service, name) in UNLIKE:
            continue
        result = header_safe(shape, Generator(seed).structure(shape, 0)) if shape is not None else {}
        for member, member_shape in shape.members.items() if shape is not None else ():
            if member_shape.serialization.get("location") == "statusCode":
                result[member] = 200
        if service == "s3":
            result.pop("EncodingType", None)
        call = Call(service, protocol, catalog.operation(service, name))
        response = encode(call, result, "request-1")
        headers = HTTPHeaders()
        for key, value in response.headers:
            headers[key] = value
        sent = {"status_code": response.status, "headers": headers, "body": response.body, "context": {}}
        if operation.has_streaming_output:
            assert response.body == result[call.operation.output_shape.payload_member]  # type: ignore[union-attr]
            continue
        got = parser.parse(sent, shape)
        metadata = got.pop("ResponseMetadata")
        if shape is not None or protocol != "smithy-rpc-v2-cbor":  # there botocore looks only where it reads a body
            assert metadata["RequestId"] == "request-1"
        if call.operation.http["method"] == "HEAD":
            assert response.body == b""
        assert got == result, name
