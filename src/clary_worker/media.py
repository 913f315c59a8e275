"""Content types in and out: what the body is, and which of our types the caller's Accept allows.

Parsed once per distinct header text and kept (the texts of one endpoint's callers are few), so that the warm path
is one dictionary look-up. The cache is bounded: texts come from outside.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Tuple

from .contract import CSV, JSON, JSON_LINES, LIBSVM, NPY, NPZ, RECORDIO

_CACHE_ENTRIES = 256  # distinct header texts kept; far above what the clients of one endpoint send

# Names under which the same type is met: the SDKs', the containers', and the registered ones.
ALIASES: Dict[str, str] = {
    "text/csv": CSV,
    "application/csv": CSV,
    "application/json": JSON,
    "text/json": JSON,
    "application/jsonlines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/jsonl": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
    "application/x-npy": NPY,
    "application/x-npz": NPZ,
    "text/libsvm": LIBSVM,
    "text/x-libsvm": LIBSVM,
    "application/x-recordio-protobuf": RECORDIO,
}


class Media(NamedTuple):
    """A content type without its parameters (lower case), our name for it ("" when unknown), and the parameters."""

    kind: str
    known: str
    parameters: Dict[str, str]


_media: Dict[str, Media] = {}
_accepts: Dict[str, List[Tuple[str, float]]] = {}


def parse(text: str) -> Media:
    """`text/csv; header=present` -> Media("text/csv", CSV, {"header": "present"})."""
    found = _media.get(text)
    if found is None:
        kind, _, rest = text.partition(";")
        kind = kind.strip().lower()
        parameters = {}
        for word in rest.split(";"):
            name, sign, value = word.partition("=")
            if sign:
                parameters[name.strip().lower()] = value.strip().strip('"').lower()
        found = Media(kind, ALIASES.get(kind, ""), parameters)
        if len(_media) < _CACHE_ENTRIES:
            _media[text] = found
    return found


def ranges(accept: str) -> List[Tuple[str, float]]:
    """An Accept header's types with their q, best first; equal q keeps the order written. q=0 is left out."""
    found = _accepts.get(accept)
    if found is None:
        parts: List[Tuple[str, float]] = []
        for word in accept.split(","):
            media = parse(word)
            if not media.kind:
                continue
            try:
                quality = float(media.parameters.get("q", "1"))
            except ValueError:
                quality = 1.0  # as servers do: a garbled weight is no reason to refuse
            if quality > 0:
                parts.append((media.kind, quality))
        found = sorted(parts, key=lambda part: -part[1])
        if len(_accepts) < _CACHE_ENTRIES:
            _accepts[accept] = found
    return found


def choose(accept: str, offered: Sequence[str], default: str) -> str:
    """The type to answer with, "" when none that is offered is accepted. Absent or */* means `default`."""
    if not accept or accept == "*/*":
        return default
    wanted = ranges(accept)
    if not wanted:
        return default
    for kind, _ in wanted:
        if kind == "*/*":
            return default
        known = ALIASES.get(kind, kind)
        if known in offered:
            return known
        if kind.endswith("/*"):
            family = kind[:-1]
            if default.startswith(family):
                return default
            for offer in offered:
                if offer.startswith(family):
                    return offer
    return ""
