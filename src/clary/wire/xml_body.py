"""XML bodies: bytes <-> Python values, led by a shape (rest-xml both ways, query and ec2 for answers).

Reading goes through expat into light nodes; a document type, and with it every entity trick, is refused, and depth and
size are capped. Namespace prefixes are dropped from element names: AWS services ignore them. Writing builds one list of
strings: no tree in between, and characters that XML cannot carry leave as references, as S3 sends them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from clary.wire import timestamps
from clary.wire.errors import WireError, malformed
from clary.wire.json_body import MAX_DEPTH, decode_base64, encode_base64, joined, special_float
from clary.wire.model import Shape

MAX_XML_BYTES: Final = 8 * 1024 * 1024  # 10,000 parts of CompleteMultipartUpload with checksums are about 2 MiB
XML_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'

_TRUTH: Final = {"true": True, "false": False, "1": True, "0": False}


@dataclass(slots=True)
class Node:
    """One element: its local name, attributes, text and child elements."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Node] = field(default_factory=list)


def parse(body: bytes) -> Node:
    """The root element. Raises: WireError (MalformedXML) for what is no XML or what no service should read."""
    if len(body) > MAX_XML_BYTES:
        raise _malformed(f"it is larger than {MAX_XML_BYTES} bytes")
    stack: list[Node] = [Node("", {})]
    texts: list[list[str]] = [[]]
    parser = expat.ParserCreate(encoding=None)
    parser.buffer_text = True

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise _malformed(f"it is nested deeper than {MAX_DEPTH} levels")
        node = Node(tag.rpartition(":")[2], attributes)
        stack[-1].children.append(node)
        stack.append(node)
        texts.append([])

    def end(_tag: str) -> None:
        stack.pop().text = "".join(texts.pop())

    def refuse(*_ignored: object) -> None:
        raise _malformed("it has a document type declaration, which is not accepted")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = lambda text: texts[-1].append(text)
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _malformed(str(error)) from error
    return stack[0].children[0]


def _malformed(reason: str) -> WireError:
    text = f"The XML you provided was not well-formed or did not validate against our published schema: {reason}."
    return WireError("MalformedXML", 400, text)


def read(shape: Shape, nodes: list[Node], path: str = "") -> Any:
    """The value of the element, or of the repeated elements of a flattened list or map."""
    match shape.type_name:
        case "structure":
            return read_structure(shape, nodes[-1], path)
        case "list":
            if shape.serialization.get("flattened"):
                items = nodes
            else:
                wanted = shape.member.serialization.get("name", "member")
                items = nodes[-1].children
                for item in items:
                    if item.tag not in (wanted, "member"):
                        raise malformed(f"'{path}' holds <{item.tag}> where <{wanted}> belongs.")
            return [read(shape.member, [item], joined(path, "member")) for item in items]
        case "map":
            return _read_map(shape, nodes if shape.serialization.get("flattened") else nodes[-1].children, path)
    return read_text(shape, nodes[-1].text, path)


def read_structure(shape: Shape, node: Node, path: str = "") -> dict[str, Any]:
    """A structure's members from the children and attributes of one element; unknown children are kept by their tag."""
    found: dict[str, list[Node]] = {}
    for child in node.children:
        found.setdefault(child.tag, []).append(child)
    result: dict[str, Any] = {}
    for name, member in shape.members.items():
        serialization = member.serialization
        wire_name: str = serialization.get("name", name)
        if serialization.get("xmlAttribute"):
            text = _attribute(node, wire_name)
            if text is not None:
                result[name] = read_text(member, text, joined(path, name))
            continue
        nodes = found.pop(wire_name.rpartition(":")[2], None)
        if nodes is None and member.type_name == "list" and serialization.get("flattened"):
            nodes = found.pop(member.member.serialization.get("name", wire_name), None)
        if nodes is not None:
            result[name] = read(member, nodes, joined(path, name))
    for tag, nodes in found.items():
        if tag in shape.members:
            raise malformed(
                f"<{tag}> in '{path or node.tag}' has another name on the wire or does not belong in the body."
            )
        result[tag] = nodes[-1].text
    return result


def _attribute(node: Node, wire_name: str) -> str | None:
    text = node.attributes.get(wire_name)
    if text is not None:
        return text
    local = wire_name.rpartition(":")[2]
    for name, value in node.attributes.items():
        if name.rpartition(":")[2] == local:
            return value
    return None


def _read_map(shape: Shape, entries: list[Node], path: str) -> dict[Any, Any]:
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    result: dict[Any, Any] = {}
    for entry in entries:
        parts = {child.tag: child for child in entry.children}
        if key_name not in parts or value_name not in parts:
            raise malformed(f"An entry of '{path}' lacks <{key_name}> or <{value_name}>.")
        key = read(shape.key, [parts[key_name]], path)
        result[key] = read(shape.value, [parts[value_name]], joined(path, str(key)))
    return result


def read_text(shape: Shape, text: str, path: str) -> Any:
    """A scalar from text: element content, attribute, header, query parameter or form field."""
    try:
        match shape.type_name:
            case "string" | "character":
                return text
            case "integer" | "long" | "short" | "byte" | "bigInteger":
                return _integer(text.strip())
            case "float" | "double" | "bigDecimal":
                return float(text.strip())
            case "boolean":
                return _TRUTH[text.strip().lower()]
            case "timestamp":
                return timestamps.parse(text)
            case "blob":
                return decode_base64(text, path)
    except (ValueError, KeyError) as error:
        raise malformed(
            f"STRING_VALUE can not be converted to {shape.type_name} at '{path}': {text[:100]!r}"
        ) from error
    raise malformed(f"'{path}' is a {shape.type_name} and cannot be read from text.")


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        raise ValueError(text)
    return int(text)


# --- writing --------------------------------------------------------------------------------------------------------

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_NEEDS_ESCAPE: Final = re.compile('[&<>"\x00-\x08\x0b-\x1f\x85\u2028\ufffe\uffff]')


def escape(text: str) -> str:
    """Text for content or an attribute; carriage returns and control characters leave as character references."""
    return _NEEDS_ESCAPE.sub(lambda m: _ESCAPES.get(m[0]) or f"&#x{ord(m[0]):x};", text)


def namespace(serialization: Mapping[str, Any]) -> str:
    """The xmlns attribute that a shape asks for, with a leading blank, or nothing."""
    given = serialization.get("xmlNamespace")
    if given is None:
        return ""
    if isinstance(given, str):
        return f' xmlns="{escape(given)}"'
    prefix = given.get("prefix")
    return f' xmlns{":" + prefix if prefix else ""}="{escape(given["uri"])}"'


def write(out: list[str], name: str, shape: Shape, value: Any, *, fraction: bool = False) -> None:
    """Append the element `name` holding `value`. `fraction`: timestamps always show milliseconds, as S3 writes them."""
    match shape.type_name:
        case "structure":
            _write_structure(out, name, shape, value, fraction)
        case "list":
            flattened = shape.serialization.get("flattened")
            if flattened:
                item_name = shape.member.serialization.get("name", name)
            else:
                item_name = shape.member.serialization.get("name", "member")
                out.append(f"<{name}{namespace(shape.serialization)}>")
            for item in value:
                if item is not None:
                    write(out, item_name, shape.member, item, fraction=fraction)
            if not flattened:
                out.append(f"</{name}>")
        case "map":
            _write_map(out, name, shape, value, fraction)
        case _:
            text = escape(write_text(shape, value, fraction=fraction))
            out.append(f"<{name}{namespace(shape.serialization)}>{text}</{name}>")


def _write_structure(out: list[str], name: str, shape: Shape, value: Mapping[str, Any], fraction: bool) -> None:
    attributes = [namespace(shape.serialization)]
    for member_name, member in shape.members.items():
        item = value.get(member_name)
        if item is not None and member.serialization.get("xmlAttribute"):
            text = escape(write_text(member, item, fraction=fraction))
            attributes.append(f' {member.serialization.get("name", member_name)}="{text}"')
    out.append(f"<{name}{''.join(attributes)}>")
    write_members(out, shape, value, fraction=fraction)
    out.append(f"</{name}>")


def write_members(out: list[str], shape: Shape, value: Mapping[str, Any], *, fraction: bool = False) -> None:
    """Append a structure's members without the element around them."""
    for name, member in shape.members.items():
        serialization = member.serialization
        item = value.get(name)
        if item is None or serialization.get("xmlAttribute"):
            continue
        write(out, serialization.get("name", name), member, item, fraction=fraction)


def _write_map(out: list[str], name: str, shape: Shape, value: Mapping[Any, Any], fraction: bool) -> None:
    flattened = shape.serialization.get("flattened")
    entry = name if flattened else "entry"
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    if not flattened:
        out.append(f"<{name}{namespace(shape.serialization)}>")
    for key, item in value.items():
        if item is None:
            continue
        out.append(f"<{entry}>")
        write(out, key_name, shape.key, key, fraction=fraction)
        write(out, value_name, shape.value, item, fraction=fraction)
        out.append(f"</{entry}>")
    if not flattened:
        out.append(f"</{name}>")


def write_text(shape: Shape, value: Any, *, fraction: bool = False) -> str:
    """A scalar as text."""
    match shape.type_name:
        case "boolean":
            return "true" if value else "false"
        case "blob":
            return encode_base64(value)
        case "float" | "double" | "bigDecimal":
            return special_float(float(value)) or str(value)
        case "timestamp":
            form = shape.serialization.get("timestampFormat", "iso8601")
            if fraction and form.lower() == "iso8601":
                return timestamps.iso8601(value, always_fraction=True)
            return str(timestamps.render(value, form))
    return str(value)
