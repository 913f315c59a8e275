"""Errors in the shape of each protocol.

The code and the message are the same everywhere; what differs is where they stand (`__type` in JSON, the header
x-amzn-ErrorType in rest-json, elements in XML) and, for refused signatures, what the code is called: S3 and the query
services have names of their own, which are translated here so that verification needs to know no protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clary.wire import cbor_body, json_body, rest_binding, xml_body
from clary.wire.catalog import Call
from clary.wire.errors import WireError
from clary.wire.http import Response
from clary.wire.model import Shape

# Codes of refused signatures and the like in the JSON protocols -> S3's (S3 API reference, "Error responses").
_S3_CODES: Final = {
    "UnrecognizedClientException": "InvalidAccessKeyId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "IncompleteSignature": "AuthorizationHeaderMalformed",
    "MissingAuthenticationToken": "AccessDenied",
    "AccessDeniedException": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "ThrottlingException": "SlowDown",
    "InternalFailure": "InternalError",
    "ServiceUnavailableException": "ServiceUnavailable",
    "UnknownOperationException": "NotImplemented",
    "SerializationException": "InvalidRequest",
    "ValidationException": "InvalidArgument",
}
# The same for the query protocol (IAM user guide, "Common errors").
_QUERY_CODES: Final = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "AccessDeniedException": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "ThrottlingException": "Throttling",
    "UnknownOperationException": "InvalidAction",
    "SerializationException": "MalformedInput",
    "ValidationException": "ValidationError",
}


def request_id_headers(call: Call, request_id: str) -> list[tuple[str, str]]:
    """The headers that carry the request's id: S3 has its own pair."""
    if call.protocol == "rest-xml":
        return [("x-amz-request-id", request_id), ("x-amz-id-2", request_id)]
    return [("x-amzn-RequestId", request_id)]


def encode_error(call_or_protocol: Call | str, error: WireError, request_id: str) -> Response:
    """The response for an error: of a call, or of a protocol when no operation is known yet.

    The status is the service model's where that has one for the error. Modelled members go in; other members go into
    XML bodies as elements, as S3 does with BucketName or Key.
    """
    call = call_or_protocol if isinstance(call_or_protocol, Call) else None
    protocol = call.protocol if call is not None else str(call_or_protocol)
    shape = None if call is None else call.operation.exception(error.code)
    status = (shape.error_status if shape is not None else None) or error.status
    match protocol:
        case "json" | "smithy-rpc-v2-cbor":
            response = _tree(call, protocol, error, shape, status, request_id)
        case "rest-json":
            response = _rest_json(call, error, shape, status, request_id)
        case "rest-xml":
            response = _rest_xml(call, error, shape, status, request_id)
        case "query" | "ec2":
            response = _query(call, protocol, error, shape, status, request_id)
        case _:
            raise ValueError(f"unknown protocol {protocol}")
    response.headers.extend(error.headers.items())
    return response


def _values(shape: Shape | None, error: WireError) -> dict[str, Any]:
    """The error's members with its message under the name that the model gives it."""
    name = "message"
    if shape is not None:
        name = next((member for member in ("message", "Message") if member in shape.members), name)
    return {name: error.message, **error.members}


def _fault(status: int) -> str:
    return "Receiver" if status >= 500 else "Sender"


def _tree(
    call: Call | None, protocol: str, error: WireError, shape: Shape | None, status: int, request_id: str
) -> Response:
    codec = cbor_body.WRITER if protocol == "smithy-rpc-v2-cbor" else json_body.WRITER
    values = _values(shape, error)
    document: dict[str, Any] = {"__type": error.code if shape is None else _type_of(call, shape)}
    if shape is None:
        document |= {name: value for name, value in values.items() if isinstance(value, (str, int, float, bool, list))}
    else:
        document |= codec.write_structure(shape, values)
        document.setdefault("message" if "Message" not in document else "Message", error.message)
    headers = [("x-amzn-RequestId", request_id)]
    if call is not None and call.query_mode and call.operation.service.is_query_compatible:
        headers.append(("x-amzn-query-error", f"{shape.error_code if shape else error.code};{_fault(status)}"))
    if protocol == "json":
        version = "1.1" if call is None else call.operation.service.metadata.get("jsonVersion", "1.1")
        return Response(
            status, [("Content-Type", f"application/x-amz-json-{version}"), *headers], json_body.dumps(document)
        )
    headers = [("Content-Type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor"), *headers]
    return Response(status, headers, cbor_body.dumps(document))


def _type_of(call: Call | None, shape: Shape) -> str:
    # A service that spoke query before has two names for an error: the body says the new one, the header the old one.
    return shape.name if call is not None and call.operation.service.is_query_compatible else shape.error_code


def _rest_json(call: Call | None, error: WireError, shape: Shape | None, status: int, request_id: str) -> Response:
    values = _values(shape, error)
    headers = [("Content-Type", "application/json"), ("x-amzn-RequestId", request_id)]
    headers.append(("x-amzn-ErrorType", error.code if shape is None else shape.error_code))
    document: dict[str, Any]
    if shape is None:
        document = {"Message": values.pop("message"), **values}
    else:
        _, bound = rest_binding.write_bound(shape, values)
        headers.extend(bound)
        in_body = rest_binding.body_members(shape, answer=True)
        body_values = {name: value for name, value in values.items() if name in in_body}
        document = json_body.WRITER.write_structure(shape, body_values)
        if error.message and not {"message", "Message"} & document.keys():
            document["Message"] = error.message
    body = b"" if _is_head(call) else json_body.dumps(document)
    return Response(status, headers, body)


def _is_head(call: Call | None) -> bool:
    return call is not None and call.operation.http.get("method") == "HEAD"


def _elements(out: list[str], shape: Shape | None, values: Mapping[str, Any]) -> None:
    """Further members as elements: by the model where it knows them, else as text."""
    known = {} if shape is None else shape.members
    for name, value in values.items():
        if value is None or name in ("message", "Message"):
            continue
        member = known.get(name)
        if member is None:
            out.append(f"<{name}>{xml_body.escape(str(value))}</{name}>")
        elif "location" not in member.serialization:
            xml_body.write(out, member.serialization.get("name", name), member, value)


def _rest_xml(call: Call | None, error: WireError, shape: Shape | None, status: int, request_id: str) -> Response:
    s3 = call is None or call.service == "s3"
    code = shape.error_code if shape is not None else _S3_CODES.get(error.code, error.code) if s3 else error.code
    headers = [("Content-Type", "application/xml")]
    headers += [("x-amz-request-id", request_id)] if call is None else request_id_headers(call, request_id)
    if shape is not None:
        headers.extend(rest_binding.write_bound(shape, dict(error.members))[1])
    out = [xml_body.XML_DECLARATION, "<Error>" if s3 else "<ErrorResponse><Error>"]
    if not s3:
        out.append(f"<Type>{_fault(status)}</Type>")
    out.append(f"<Code>{xml_body.escape(code)}</Code><Message>{xml_body.escape(error.message)}</Message>")
    _elements(out, shape, error.members)
    identity = f"<RequestId>{xml_body.escape(request_id)}</RequestId>"
    if s3:
        if call is not None and "Resource" not in error.members:
            out.append(f"<Resource>{xml_body.escape('/' + '/'.join(call.labels.values()))}</Resource>")
        out.append(f"{identity}<HostId>{xml_body.escape(request_id)}</HostId></Error>")
    else:
        out.append(f"</Error>{identity}</ErrorResponse>")
    body = b"" if _is_head(call) or status == 304 else "".join(out).encode()
    return Response(status, headers, body)


def _query(
    call: Call | None, protocol: str, error: WireError, shape: Shape | None, status: int, request_id: str
) -> Response:
    code = shape.error_code if shape is not None else _QUERY_CODES.get(error.code, error.code)
    given = None if call is None else call.operation.service.metadata.get("xmlNamespace")
    uri = given["uri"] if isinstance(given, dict) else given
    identity = xml_body.escape(request_id)
    out = [xml_body.XML_DECLARATION]
    if protocol == "ec2":
        out.append("<Response><Errors><Error>")
    else:
        out.append("<ErrorResponse" + (f' xmlns="{xml_body.escape(uri)}">' if uri else ">"))
        out.append(f"<Error><Type>{_fault(status)}</Type>")
    out.append(f"<Code>{xml_body.escape(code)}</Code><Message>{xml_body.escape(error.message)}</Message>")
    _elements(out, shape, error.members)
    if protocol == "ec2":
        out.append(f"</Error></Errors><RequestID>{identity}</RequestID></Response>")
    else:
        out.append(f"</Error><RequestId>{identity}</RequestId></ErrorResponse>")
    headers = [("Content-Type", "text/xml;charset=UTF-8"), ("x-amzn-RequestId", request_id)]
    return Response(status, headers, "".join(out).encode())
