"""AWS service models as objects: services, operations, shapes.

Mechanism: a model is the JSON document that botocore ships (shapes refer to each other by name, and a reference may add
traits). A `Shape` is a reference resolved: the target's traits with the reference's laid over them. Shapes are made
when first asked for, so that a process pays only for the operations it serves.
Why not botocore.model: importing it costs 23 MB and a quarter of a second (it draws in the HTTP client), and it keeps
all documentation. Names and meanings of the attributes are botocore's, so code reads the same; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

# Trait in the model -> name in `Shape.serialization` (botocore.model.Shape.SERIALIZED_ATTRS).
_SERIALIZATION_TRAITS: Final = {
    "locationName": "name",
    "location": "location",
    "queryName": "queryName",
    "flattened": "flattened",
    "xmlNamespace": "xmlNamespace",
    "xmlAttribute": "xmlAttribute",
    "payload": "payload",
    "resultWrapper": "resultWrapper",
    "timestampFormat": "timestampFormat",
    "streaming": "streaming",
    "requiresLength": "requiresLength",
    "eventstream": "eventstream",
    "event": "event",
    "eventpayload": "eventpayload",
    "eventheader": "eventheader",
    "jsonvalue": "jsonvalue",
    "hostLabel": "hostLabel",
}
_METADATA_TRAITS: Final = (
    "required", "min", "max", "pattern", "sensitive", "enum", "idempotencyToken", "error", "exception",
    "document", "union", "deprecated",
)  # fmt: skip


class Shape:
    """One type of a model, as seen from one reference to it."""

    def __init__(self, name: str, traits: Mapping[str, Any], service: Service) -> None:
        self.name = name
        self.type_name: str = traits["type"]
        self.serialization: dict[str, Any] = {
            ours: traits[theirs] for theirs, ours in _SERIALIZATION_TRAITS.items() if theirs in traits
        }
        self.metadata: dict[str, Any] = {trait: traits[trait] for trait in _METADATA_TRAITS if trait in traits}
        self._traits = traits
        self._service = service

    def __repr__(self) -> str:
        return f"<Shape {self.name}: {self.type_name}>"

    @cached_property
    def members(self) -> dict[str, Shape]:
        """Of a structure: member name -> shape, in the model's order."""
        return {name: self._service.resolve(ref) for name, ref in self._traits.get("members", {}).items()}

    @cached_property
    def members_by_wire_name(self) -> dict[str, tuple[str, Shape]]:
        """Of a structure: name in a JSON or CBOR body -> (member name, shape)."""
        return {shape.serialization.get("name", name): (name, shape) for name, shape in self.members.items()}

    @cached_property
    def member(self) -> Shape:
        """Of a list: the shape of its items."""
        return self._service.resolve(self._traits["member"])

    @cached_property
    def key(self) -> Shape:
        return self._service.resolve(self._traits["key"])

    @cached_property
    def value(self) -> Shape:
        return self._service.resolve(self._traits["value"])

    @property
    def required_members(self) -> list[str]:
        required: list[str] = self.metadata.get("required", [])
        return required

    @property
    def enum(self) -> list[str]:
        values: list[str] = self.metadata.get("enum", [])
        return values

    @property
    def is_document_type(self) -> bool:
        return bool(self.metadata.get("document"))

    @property
    def is_tagged_union(self) -> bool:
        return bool(self.metadata.get("union"))

    @property
    def is_exception(self) -> bool:
        return bool(self.metadata.get("exception"))

    @property
    def error_code(self) -> str:
        """Of an exception: the code that clients see; the shape's name unless the model renames it."""
        code: str = self.metadata.get("error", {}).get("code", self.name)
        return code

    @property
    def error_status(self) -> int | None:
        """Of an exception: the HTTP status that the model gives it, or None."""
        status: int | None = self.metadata.get("error", {}).get("httpStatusCode")
        return status

    @cached_property
    def payload_member(self) -> str | None:
        """Of a structure bound to HTTP: the member that is the whole body, or None."""
        payload: str | None = self.serialization.get("payload")
        return payload

    @cached_property
    def event_stream_name(self) -> str | None:
        """Of a structure: the member that is an event stream, or None."""
        for name, shape in self.members.items():
            if shape.serialization.get("eventstream"):
                return name
        return None


class Operation:
    """One operation of a service."""

    def __init__(self, name: str, raw: Mapping[str, Any], service: Service) -> None:
        self.name = name
        self.service = service
        self.http: dict[str, Any] = raw.get("http", {})
        self.deprecated = bool(raw.get("deprecated"))
        self.http_checksum: dict[str, Any] = raw.get("httpChecksum", {})
        self.auth_type: str | None = raw.get("authtype")
        self._raw = raw

    def __repr__(self) -> str:
        return f"<Operation {self.service.name}.{self.name}>"

    @cached_property
    def input_shape(self) -> Shape | None:
        return self.service.resolve(self._raw["input"]) if "input" in self._raw else None

    @cached_property
    def output_shape(self) -> Shape | None:
        return self.service.resolve(self._raw["output"]) if "output" in self._raw else None

    @cached_property
    def error_shapes(self) -> list[Shape]:
        return [self.service.resolve(ref) for ref in self._raw.get("errors", [])]

    def exception(self, code: str) -> Shape | None:
        """The exception that a code or a shape's name means: among the operation's own first, then the service's."""
        for shape in self.error_shapes:
            if code in (shape.name, shape.error_code):
                return shape
        return self.service.exceptions.get(code)

    @cached_property
    def has_streaming_input(self) -> bool:
        """The body is a blob of any length, to be handed on unread."""
        return _streams(self.input_shape)

    @cached_property
    def has_streaming_output(self) -> bool:
        return _streams(self.output_shape)

    @property
    def has_body_checksum(self) -> bool:
        """Clients may send a checksum of the request's body in a header."""
        return "requestAlgorithmMember" in self.http_checksum

    @cached_property
    def has_event_stream_input(self) -> bool:
        return self.input_shape is not None and self.input_shape.event_stream_name is not None

    @cached_property
    def has_event_stream_output(self) -> bool:
        return self.output_shape is not None and self.output_shape.event_stream_name is not None


def _streams(shape: Shape | None) -> bool:
    if shape is None or shape.payload_member is None:
        return False
    member = shape.members[shape.payload_member]
    # As botocore: a blob payload is handed on unread whether or not the model says "streaming".
    return member.type_name == "blob"


class Service:
    """One service: its metadata, operations and shapes."""

    def __init__(self, name: str, raw: Mapping[str, Any]) -> None:
        self.name = name
        self.metadata: dict[str, Any] = raw["metadata"]
        self._operations: Mapping[str, Any] = raw.get("operations", {})
        self._shapes: Mapping[str, Any] = raw["shapes"]
        self._plain: dict[str, Shape] = {}
        self._referenced: dict[int, Shape] = {}
        self._made: dict[str, Operation] = {}

    @property
    def signing_name(self) -> str:
        name: str = self.metadata.get("signingName", self.metadata.get("endpointPrefix", self.name))
        return name

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that the service speaks, as the model names them."""
        return tuple(self.metadata.get("protocols") or (self.metadata["protocol"],))

    @property
    def target_prefix(self) -> str | None:
        prefix: str | None = self.metadata.get("targetPrefix")
        return prefix

    @property
    def is_query_compatible(self) -> bool:
        """The service spoke query before; clients may ask for the old error codes."""
        return "awsQueryCompatible" in self.metadata

    @property
    def operation_names(self) -> tuple[str, ...]:
        return tuple(self._operations)

    def operation(self, name: str) -> Operation:
        """Raises: KeyError when the model has no such operation."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = Operation(name, self._operations[name], self)
        return made

    def shape_for(self, name: str) -> Shape:
        """The shape of that name without a reference's traits. Raises: KeyError when there is none."""
        made = self._plain.get(name)
        if made is None:
            made = self._plain[name] = Shape(name, self._shapes[name], self)
        return made

    def resolve(self, ref: Mapping[str, Any]) -> Shape:
        """The shape that a reference means. References live as long as the model, so their identity is a safe key."""
        if len(ref) == 1:
            return self.shape_for(ref["shape"])
        made = self._referenced.get(id(ref))
        if made is None:
            traits = {**self._shapes[ref["shape"]], **ref}
            made = self._referenced[id(ref)] = Shape(ref["shape"], traits, self)
        return made

    @cached_property
    def exceptions(self) -> dict[str, Shape]:
        """Every exception of the service, by its shape's name and by its error code."""
        named = {name: self.shape_for(name) for name, raw in self._shapes.items() if raw.get("exception")}
        return {shape.error_code: shape for shape in named.values()} | named
