"""Which operation of a REST service a method, path and query mean.

Mechanism: every operation's URI template is cut into segments once; a request takes the most specific template that
fits. Templates may share method and path (S3's hundred operations have three path shapes), so an operation also needs
its literal query parameters (`?uploads`), its required query members (uploadId), and, only where another operation
would fit just as well, its required headers (x-amz-copy-source parts CopyObject from PutObject).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from clary.wire.model import Operation, Service
from clary.wire.rest_binding import unquoted


@dataclass(frozen=True, slots=True)
class Binding:
    """One operation's claim on requests."""

    operation: str
    segments: tuple[str, ...]  # literal text, "{Label}", or "{Label+}" as the last labels
    literals: tuple[tuple[str, str | None], ...]  # query parameters of the template; None: any value
    query: frozenset[str]  # required members in the query
    headers: frozenset[str]  # required members in headers, lower-cased, when they have to decide
    rank: tuple[int, ...]  # the higher wins


@dataclass(frozen=True, slots=True)
class Match:
    operation: str
    labels: dict[str, str]


class UriTable:
    """The bindings of one service."""

    def __init__(self, service: Service) -> None:
        self._by_method: dict[str, list[Binding]] = {}
        operations = [service.operation(name) for name in service.operation_names]
        rivals: dict[tuple[object, ...], int] = {}
        for operation in operations:
            key = _claim(operation)
            rivals[key] = rivals.get(key, 0) + 1
        for operation in operations:
            if operation.http.get("requestUri"):
                binding = _binding(operation, decides_by_header=rivals[_claim(operation)] > 1)
                self._by_method.setdefault(operation.http["method"], []).append(binding)
        for bindings in self._by_method.values():
            bindings.sort(key=lambda binding: binding.rank, reverse=True)

    def match(
        self,
        method: str,
        raw_path: bytes,
        query: Mapping[str, list[str]],
        headers: Collection[bytes],
        *,
        complete: bool = False,
    ) -> Match | None:
        """The operation and its labels, or None. `headers` are the lower-cased names in the request.

        When only required query members or headers are missing, the operation is found all the same, so that validation
        can name what is missing; not so with `complete`, for services whose paths alone say too little.
        """
        segments = raw_path.split(b"/")[1:]
        incomplete: Match | None = None
        for binding in self._by_method.get(method, ()):
            if binding.literals and not _has_literals(binding, query):
                continue
            labels = _labels(binding.segments, segments)
            if labels is None:
                continue
            fits = binding.query <= query.keys() and all(name.encode("latin-1") in headers for name in binding.headers)
            if fits or (incomplete is None and not complete):
                found = Match(binding.operation, {name: unquoted(raw) for name, raw in labels.items()})
                if fits:
                    return found
                incomplete = found
        return incomplete


def _has_literals(binding: Binding, query: Mapping[str, list[str]]) -> bool:
    return all(name in query and (text is None or text in query[name]) for name, text in binding.literals)


def _template(operation: Operation) -> tuple[tuple[str, ...], tuple[tuple[str, str | None], ...]]:
    path, _, query = operation.http.get("requestUri", "/").partition("?")
    literals: list[tuple[str, str | None]] = []
    for part in query.split("&"):
        if part:
            name, equals, value = part.partition("=")
            literals.append((name, value if equals else None))
    return tuple(path.split("/")[1:]), tuple(literals)


def _required(operation: Operation, location: str) -> frozenset[str]:
    shape = operation.input_shape
    if shape is None:
        return frozenset()
    members = ((name, shape.members[name].serialization) for name in shape.required_members)
    return frozenset(traits.get("name", name) for name, traits in members if traits.get("location") == location)


def _claim(operation: Operation) -> tuple[object, ...]:
    segments, literals = _template(operation)
    shape_of_path = tuple("{+}" if s.endswith("+}") else "{}" if s.startswith("{") else s for s in segments)
    return operation.http.get("method"), shape_of_path, literals, _required(operation, "querystring")


def _binding(operation: Operation, *, decides_by_header: bool) -> Binding:
    segments, literals = _template(operation)
    query = _required(operation, "querystring")
    headers = frozenset(name.lower() for name in _required(operation, "header")) if decides_by_header else frozenset()
    rank = (
        sum(not segment.startswith("{") for segment in segments if segment),
        sum(not segment.endswith("+}") for segment in segments),
        len(literals) + len(query),
        len(headers),
        not operation.deprecated,
    )
    return Binding(operation.name, segments, literals, query, headers, rank)


_EMPTY: Final[frozenset[bytes]] = frozenset((b"",))


def _labels(template: tuple[str, ...], segments: list[bytes]) -> dict[str, bytes] | None:
    """The raw labels of a path, or None when the template does not fit. A trailing slash is forgiven."""
    labels: dict[str, bytes] = {}
    for position, expected in enumerate(template):
        if expected.endswith("+}"):
            # Greedy: everything up to the literal segments behind it.
            behind = template[position + 1 :]
            middle = segments[position : len(segments) - len(behind)]
            value = b"/".join(middle)
            if not value:
                return None
            tail = _labels(behind, segments[len(segments) - len(behind) :]) if behind else {}
            if tail is None:
                return None
            return labels | {expected[1:-2]: value} | tail
        if position >= len(segments):
            return labels if expected == "" and position == len(template) - 1 else None
        segment = segments[position]
        if expected.startswith("{") and expected.endswith("}"):
            if not segment:
                return None
            labels[expected[1:-1]] = segment
        elif "{" in expected:
            prefix, _, rest = expected.partition("{")
            name, _, suffix = rest.partition("}")
            raw_prefix, raw_suffix = prefix.encode(), suffix.encode()
            if not (segment.startswith(raw_prefix) and segment.endswith(raw_suffix)):
                return None
            labels[name] = segment[len(raw_prefix) : len(segment) - len(raw_suffix)]
        elif segment != expected.encode():
            return None
    extra = segments[len(template) :]
    return labels if not extra or (len(extra) == 1 and extra[0] in _EMPTY) else None
