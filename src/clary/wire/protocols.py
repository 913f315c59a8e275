"""Requests to parameters, results to responses, for every AWS protocol.

Functions of one `match` each over the protocol; the body codecs beside this file do the walking:

    decode   Call + Request -> params, by botocore's member names
    encode   Call + result  -> Response
    encode_error (from `error_answers`)

Streaming bodies pass through untouched, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clary.wire import cbor_body, form_body, json_body, rest_binding, s3_answers, xml_body
from clary.wire.catalog import Call
from clary.wire.error_answers import encode_error, request_id_headers
from clary.wire.errors import malformed
from clary.wire.http import Request, Response
from clary.wire.model import Shape

__all__ = ["EVENT_STREAM", "decode", "encode", "encode_error"]

EVENT_STREAM: Final = "application/vnd.amazon.eventstream"

# Fields of a form that name the call or sign it and are no parameters.
_FORM_OVERHEAD: Final = frozenset({"Action", "Version"})


def decode(call: Call, request: Request, body: Any = None) -> dict[str, Any]:
    """The parameters, with Python values: aware UTC datetimes, bytes, str, int, float, bool, list, dict.

    `body` is the stream of an operation with streaming input; it is put under the payload member as it is.
    Members that the model lacks are kept under their own names: validation reports them.
    Raises: WireError (SerializationException, MalformedXML) for what cannot be read.
    """
    shape = call.operation.input_shape
    match call.protocol:
        case "json":
            return _decode_tree(shape, request.body, json_body.loads, json_body.READER)
        case "smithy-rpc-v2-cbor":
            return _decode_tree(shape, request.body, cbor_body.loads, cbor_body.READER)
        case "query" | "ec2":
            return _decode_form(call, request)
        case "rest-json" | "rest-xml":
            return _decode_rest(call, request, body)
    raise ValueError(f"unknown protocol {call.protocol}")


def _decode_tree(shape: Shape | None, body: bytes, loads: Any, reader: json_body.TreeReader) -> dict[str, Any]:
    if not body:
        return {}
    document = loads(body)
    if shape is None:
        if isinstance(document, dict):
            return document
        raise json_body.unexpected(document, "a Structure", "")
    params: dict[str, Any] = reader.read_structure(shape, document, "")
    return params


def _decode_form(call: Call, request: Request) -> dict[str, Any]:
    tree = form_body.tree_of(form_body.fields_of_request(request, with_body=request.method == "POST"))
    shape = call.operation.input_shape
    params = {} if shape is None else form_body.read_structure(shape, tree, ec2=call.protocol == "ec2")
    for name, value in tree.leftovers("").items():
        if name not in _FORM_OVERHEAD and not name.lower().startswith("x-amz-"):  # a presigned URL's own parameters
            params[name] = value
    return params


def _decode_rest(call: Call, request: Request, body: Any) -> dict[str, Any]:
    shape = call.operation.input_shape
    if shape is None:
        return {}
    params = rest_binding.read_bound(shape, request, dict(call.labels))
    name = shape.payload_member
    if name is not None:
        member = shape.members[name]
        if member.type_name == "blob":
            if body is not None:
                params[name] = body
            elif request.body or member.serialization.get("streaming") or name in shape.required_members:
                params[name] = request.body
        elif member.type_name == "string":
            if request.body:
                params[name] = _text(request.body)
        elif member.serialization.get("eventstream"):
            params[name] = body if body is not None else request.body
        elif request.body.strip():
            params[name] = _read_document(call, member, request.body, name)
        return params
    in_body = rest_binding.body_members(shape, answer=False)
    if request.body.strip() and in_body:
        document = _read_document(call, shape, request.body, "")
        for stray in document.keys() & (shape.members.keys() - in_body):
            raise malformed(f"{stray} does not belong in the body; its place is a header, the path or the query.")
        params |= document
    return params


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"The request body is no UTF-8: {error}") from error


def _read_document(call: Call, shape: Shape, body: bytes, path: str) -> Any:
    if call.protocol == "rest-json":
        return json_body.READER.read(shape, json_body.loads(body), path)
    return xml_body.read(shape, [xml_body.parse(body)], path)


# --- answers --------------------------------------------------------------------------------------------------------


def encode(call: Call, result: Mapping[str, Any], request_id: str) -> Response:
    """The response to a call that went well. Members that are None or unknown to the model are left out."""
    shape = call.operation.output_shape
    match call.protocol:
        case "json":
            content_type = f"application/x-amz-json-{call.operation.service.metadata.get('jsonVersion', '1.1')}"
            if shape is not None and shape.event_stream_name is not None:
                stream = result[shape.event_stream_name]
                return Response(200, [("Content-Type", EVENT_STREAM), ("x-amzn-RequestId", request_id)], stream)
            # An operation without output answers with an empty body, as AWS does.
            body = b"" if shape is None else json_body.dumps(json_body.WRITER.write_structure(shape, result))
            return Response(200, [("Content-Type", content_type), ("x-amzn-RequestId", request_id)], body)
        case "smithy-rpc-v2-cbor":
            return _encode_cbor(shape, result, request_id)
        case "query" | "ec2":
            return _encode_query(call, shape, result, request_id)
        case "rest-json" | "rest-xml":
            return _encode_rest(call, shape, result, request_id)
    raise ValueError(f"unknown protocol {call.protocol}")


def _encode_cbor(shape: Shape | None, result: Mapping[str, Any], request_id: str) -> Response:
    headers = [("smithy-protocol", "rpc-v2-cbor"), ("x-amzn-RequestId", request_id)]
    if shape is None:
        return Response(200, headers, b"")
    if shape.event_stream_name is not None:
        return Response(200, [("Content-Type", EVENT_STREAM), *headers], result[shape.event_stream_name])
    body = cbor_body.dumps(cbor_body.WRITER.write_structure(shape, result))
    return Response(200, [("Content-Type", "application/cbor"), *headers], body)


def _encode_query(call: Call, shape: Shape | None, result: Mapping[str, Any], request_id: str) -> Response:
    name = call.operation.name
    given = call.operation.service.metadata.get("xmlNamespace")
    uri = given["uri"] if isinstance(given, dict) else given
    out = [xml_body.XML_DECLARATION, f"<{name}Response", f' xmlns="{xml_body.escape(uri)}">' if uri else ">"]
    if call.protocol == "ec2":
        out.append(f"<requestId>{xml_body.escape(request_id)}</requestId>")
        if shape is not None:
            xml_body.write_members(out, shape, result)
    else:
        if shape is not None:
            wrapper = shape.serialization.get("resultWrapper")
            if wrapper:
                out.append(f"<{wrapper}>")
            xml_body.write_members(out, shape, result)
            if wrapper:
                out.append(f"</{wrapper}>")
        out.append(f"<ResponseMetadata><RequestId>{xml_body.escape(request_id)}</RequestId></ResponseMetadata>")
    out.append(f"</{name}Response>")
    headers = [("Content-Type", "text/xml;charset=UTF-8"), ("x-amzn-RequestId", request_id)]
    return Response(200, headers, "".join(out).encode())


def _encode_rest(call: Call, shape: Shape | None, result: Mapping[str, Any], request_id: str) -> Response:
    status: int = call.operation.http.get("responseCode", 200)
    headers = request_id_headers(call, request_id)
    if shape is None:
        return Response(status, headers, b"")
    if call.service == "s3":
        result = s3_answers.with_encoded_names(result)
        status = s3_answers.status_of(result, status)
    own_status, bound = rest_binding.write_bound(shape, dict(result))
    body, content_type = _rest_body(call, shape, result)
    names = {name.lower() for name, _ in bound}
    if content_type is not None and "content-type" not in names:
        headers.append(("Content-Type", content_type))
    if call.operation.http.get("method") == "HEAD":
        body = b""
    return Response(own_status or status, headers + bound, body)


def _rest_body(call: Call, shape: Shape, result: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The body and its content type; None for a body that has none."""
    name = shape.payload_member
    if name is not None:
        member = shape.members[name]
        value = result.get(name)
        if member.serialization.get("eventstream"):
            return value, EVENT_STREAM
        if member.type_name == "blob":
            return (b"", None) if value is None else (value, "application/octet-stream")
        if member.type_name == "string":
            return (b"", None) if value is None else (str(value).encode(), "text/plain")
        if value is None:
            return (b"{}", "application/json") if call.protocol == "rest-json" else (b"", None)
        return document_of(call, member, value, member.serialization.get("name", member.name))
    in_body = rest_binding.body_members(shape, answer=True)
    if not in_body:
        return (b"{}", "application/json") if call.protocol == "rest-json" else (b"", None)
    root = shape.serialization.get("name", shape.name)
    if call.service == "s3":
        root = s3_answers.ROOTS.get(call.operation.name, root)
        bare = s3_answers.BARE.get(call.operation.name)
        if bare is not None:
            text = xml_body.escape(str(result.get(bare) or ""))
            document = f'{xml_body.XML_DECLARATION}<{bare} xmlns="{s3_answers.NAMESPACE}">{text}</{bare}>'
            return document.encode(), "application/xml"
    return document_of(call, shape, {name: value for name, value in result.items() if name in in_body}, root)


def document_of(call: Call, shape: Shape, value: Any, root: str) -> tuple[bytes, str]:
    """A JSON or XML document of a shape's members in the body, and its content type."""
    if call.protocol == "rest-json":
        return json_body.dumps(json_body.WRITER.write(shape, value)), "application/json"
    out = [xml_body.XML_DECLARATION]
    s3 = call.service == "s3"
    xml_body.write(out, root, shape, value, fraction=s3)
    if s3 and "xmlNamespace" not in shape.serialization:
        out[1] = out[1].replace(f"<{root}", f'<{root} xmlns="{s3_answers.NAMESPACE}"', 1)
    return "".join(out).encode(), "application/xml"
