"""The HTTP part of the rest protocols: members that live in the path, the query, headers or the status code.

Reading takes labels that routing has already cut from the path; writing gives headers and a status. The body's members
and the payload belong to the protocol's own body codec.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from clary.wire import timestamps
from clary.wire.errors import WireError, malformed
from clary.wire.http import Request, text_of
from clary.wire.json_body import encode_base64, special_float, unexpected
from clary.wire.model import Shape
from clary.wire.xml_body import read_text

# Where a member of a request or an answer may be instead of the body; only the outermost structure's members are bound.
_REQUEST_PLACES: Final = frozenset({"uri", "querystring", "header", "headers"})
_ANSWER_PLACES: Final = frozenset({"header", "headers", "statusCode"})


def query_of(request: Request) -> dict[str, list[str]]:
    """Decoded query parameters, repeated ones in their order.

    `+` is a blank: every AWS client writes a plus as %2B, and browsers and form encoders write a blank as `+`.
    """
    found: dict[str, list[str]] = {}
    for part in request.raw_query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            found.setdefault(unquoted(name.replace(b"+", b" ")), []).append(unquoted(value.replace(b"+", b" ")))
    return found


def unquoted(raw: bytes) -> str:
    """Percent-decoded text. Raises: WireError when the bytes are no UTF-8."""
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"{raw[:100]!r} is not percent-encoded UTF-8.") from error


def body_members(shape: Shape, *, answer: bool) -> set[str]:
    """The members of a request's or an answer's structure that travel in the body."""
    places = _ANSWER_PLACES if answer else _REQUEST_PLACES
    return {name for name, member in shape.members.items() if member.serialization.get("location") not in places}


def read_bound(shape: Shape, request: Request, labels: dict[str, str]) -> dict[str, Any]:
    """The members that are bound to path, query and headers."""
    query = query_of(request)
    result: dict[str, Any] = {}
    bound_names = {
        member.serialization.get("name", name)
        for name, member in shape.members.items()
        if member.serialization.get("location") == "querystring"
    }
    for name, member in shape.members.items():
        wire_name: str = member.serialization.get("name", name)
        match member.serialization.get("location"):
            case "uri":
                if wire_name in labels:
                    result[name] = read_text(member, labels[wire_name], name)
            case "querystring":
                if member.type_name == "map":
                    many = member.value.type_name == "list"
                    rest = {key: values for key, values in query.items() if key not in bound_names}
                    if rest:
                        result[name] = {key: values if many else values[0] for key, values in rest.items()}
                elif wire_name in query:
                    values = query[wire_name]
                    if member.type_name == "list":
                        result[name] = [read_text(member.member, value, name) for value in values]
                    else:
                        result[name] = read_text(member, values[0], name)
            case "header":
                lines = request.header_all(wire_name)
                if lines:
                    result[name] = _read_header(member, lines, name)
            case "headers":
                prefix = wire_name.lower().encode("latin-1") if "name" in member.serialization else b""
                found = {
                    text_of(key[len(prefix) :]): text_of(value)
                    for key, value in request.headers
                    if key.startswith(prefix)
                }
                if found:
                    result[name] = found
    return result


def _read_header(shape: Shape, lines: list[str], path: str) -> Any:
    if shape.type_name == "list":
        text = ",".join(lines)
        parts = _split_dates(text) if shape.member.type_name == "timestamp" else split_header(text)
        return [read_text(shape.member, part, path) for part in parts]
    if shape.type_name == "string" and shape.serialization.get("jsonvalue"):
        try:
            return json.loads(base64.b64decode(lines[0], validate=True))
        except (binascii.Error, ValueError, RecursionError) as error:
            raise malformed(f"The header for '{path}' is not base64 of JSON: {error}") from error
    return read_text(shape, lines[0], path)


def split_header(text: str) -> list[str]:
    """The items of a comma-separated header; double quotes protect commas, a backslash protects a quote."""
    items: list[str] = []
    current: list[str] = []
    quoted = was_quoted = False
    position = 0
    while position < len(text):
        char = text[position]
        if quoted and char == "\\" and position + 1 < len(text):
            position += 1
            current.append(text[position])
        elif char == '"' and (quoted or not "".join(current).strip()):
            if not quoted:
                current = []
            quoted = not quoted
            was_quoted = True
        elif char == "," and not quoted:
            items.append("".join(current) if was_quoted else "".join(current).strip())
            current, was_quoted = [], False
        elif not (was_quoted and not quoted and char in " \t"):
            current.append(char)
        position += 1
    items.append("".join(current) if was_quoted else "".join(current).strip())
    return items


def _split_dates(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and parts[0].isalpha():  # "Mon, 16 Dec 2019 23:48:18 GMT, ...": every second comma separates
        return [f"{day}, {rest}" for day, rest in zip(parts[::2], parts[1::2], strict=False)]
    return parts


def write_bound(shape: Shape, result: dict[str, Any]) -> tuple[int | None, list[tuple[str, str]]]:
    """The status code that a member sets, if any, and the headers that members are bound to."""
    status: int | None = None
    headers: list[tuple[str, str]] = []
    for name, member in shape.members.items():
        value = result.get(name)
        if value is None:
            continue
        wire_name: str = member.serialization.get("name", name)
        match member.serialization.get("location"):
            case "statusCode":
                status = int(value)
            case "header":
                if not (member.type_name == "list" and not value):
                    headers.append((wire_name, _write_header(member, value)))
            case "headers":
                prefix = member.serialization.get("name", "")
                headers.extend((prefix + key, str(item)) for key, item in value.items())
    for header in headers:
        _refuse_controls(header)
    return status, headers


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _refuse_controls(header: tuple[str, str]) -> None:
    """A line break in a value (`response-content-type=a%0d%0a...`) would let a client write headers of its own."""
    if _CONTROLS.search(header[0]) or _CONTROLS.search(header[1]):
        raise WireError("InvalidArgument", 400, f"The header {header[0][:40]!r} cannot carry control characters.")


def _write_header(shape: Shape, value: Any) -> str:
    match shape.type_name:
        case "timestamp":
            return str(timestamps.render(value, shape.serialization.get("timestampFormat", "rfc822")))
        case "boolean":
            return "true" if value else "false"
        case "list":
            if shape.member.type_name == "string":
                return ", ".join(_quoted(item) for item in value if item is not None)
            return ", ".join(_write_header(shape.member, item) for item in value if item is not None)
        case "float" | "double":
            return special_float(float(value)) or str(value)
        case "blob":
            return encode_base64(value)
        case "string":
            if shape.serialization.get("jsonvalue"):
                return encode_base64(json.dumps(value, separators=(",", ":")))
            if not isinstance(value, str):
                raise unexpected(value, "a String", shape.name)
    return str(value)


def _quoted(item: str) -> str:
    if '"' in item or "," in item:
        return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return item
