"""Form bodies of the query and ec2 protocols: `Tags.member.1.Key=a&...` -> Python values, led by a shape.

Mechanism: the flat names are cut at their dots into a tree once, then the shape walks the tree and takes what it knows.
What nobody took is handed back under its full name, so that validation can say which parameter the model lacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from clary.wire.errors import malformed
from clary.wire.http import Request
from clary.wire.json_body import MAX_DEPTH, joined
from clary.wire.model import Shape
from clary.wire.xml_body import read_text

FORM: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 50_000  # a PutMetricData of 1,000 data points with 30 dimensions each has about 40,000


@dataclass(slots=True)
class Branch:
    """One dotted step: its own value, if any, and the steps below it."""

    value: str | None = None
    taken: bool = False
    below: dict[str, Branch] = field(default_factory=dict)

    def leftovers(self, name: str) -> dict[str, str]:
        """Full names and values that no shape took."""
        found = {name: self.value} if self.value is not None and not self.taken else {}
        for step, branch in self.below.items():
            found.update(branch.leftovers(joined(name, step)))
        return found


def fields_of(form: bytes) -> list[tuple[str, str]]:
    """The decoded fields of a form. Raises: WireError for too many fields or for bytes that are no UTF-8."""
    try:
        text = form.decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise malformed(f"The form body cannot be read: {error}") from error


def is_form(request: Request) -> bool:
    return request.method == "POST" and (request.header("content-type") or "").startswith(FORM)


def fields_of_request(request: Request, *, with_body: bool) -> list[tuple[str, str]]:
    """The fields of a query-protocol request: those in its query, and those in its body."""
    fields = fields_of(request.raw_query) if request.raw_query else []
    return fields + fields_of(request.body) if with_body else fields


def tree_of(fields: list[tuple[str, str]]) -> Branch:
    root = Branch()
    for name, value in fields:
        steps = name.split(".")
        if len(steps) > 2 * MAX_DEPTH:
            raise malformed(f"The parameter {name[:100]}... is nested deeper than {MAX_DEPTH} levels.")
        branch = root
        for step in steps:
            branch = branch.below.setdefault(step, Branch())
        branch.value = value
    return root


def read_structure(shape: Shape, branch: Branch, path: str = "", *, ec2: bool = False) -> dict[str, Any]:
    """A structure's members. `ec2`: that dialect's names, and lists without a `member` step."""
    result: dict[str, Any] = {}
    for name, member in shape.members.items():
        wire_name = _wire_name(member, name, ec2)
        if not ec2 and member.type_name == "list" and member.serialization.get("flattened"):
            wire_name = member.member.serialization.get("name", wire_name)
        below = branch.below.get(wire_name)
        if below is not None:
            result[name] = _read(member, below, joined(path, name), ec2)
    return result


def _wire_name(shape: Shape, default: str, ec2: bool) -> str:
    serialization = shape.serialization
    if not ec2:
        name: str = serialization.get("name", default)
        return name
    if "queryName" in serialization:
        query_name: str = serialization["queryName"]
        return query_name
    if "name" in serialization:
        return str(serialization["name"][0].upper() + serialization["name"][1:])
    return default


def _read(shape: Shape, branch: Branch, path: str, ec2: bool) -> Any:
    match shape.type_name:
        case "structure":
            branch.taken = True
            return read_structure(shape, branch, path, ec2=ec2)
        case "list":
            branch.taken = True
            if not branch.below:
                return []
            items = branch
            if not ec2 and not shape.serialization.get("flattened"):
                step = shape.member.serialization.get("name", "member")
                below = branch.below.get(step) or branch.below.get("member")
                if below is None:
                    raise malformed(
                        f"'{path}' is a list: its items are written {path}.{step}.1, {path}.{step}.2 and so on."
                    )
                items = below
            return [_read(shape.member, item, joined(path, "member"), ec2) for item in _numbered(items, path)]
        case "map":
            branch.taken = True
            entries = branch if shape.serialization.get("flattened") else branch.below.get("entry", Branch())
            return dict(_entry(shape, item, path, ec2) for item in _numbered(entries, path))
    branch.taken = True
    if branch.value is None:
        raise malformed(f"'{path}' is a {shape.type_name}, not a structure or list.")
    return read_text(shape, branch.value, path)


def _entry(shape: Shape, branch: Branch, path: str, ec2: bool) -> tuple[Any, Any]:
    key = branch.below.get(_wire_name(shape.key, "key", ec2))
    value = branch.below.get(_wire_name(shape.value, "value", ec2))
    if key is None or value is None:
        raise malformed(f"An entry of the map '{path}' lacks its key or its value.")
    name = _read(shape.key, key, path, ec2)
    return name, _read(shape.value, value, joined(path, str(name)), ec2)


def _numbered(branch: Branch, path: str) -> list[Branch]:
    try:
        return [item for _, item in sorted((int(step), item) for step, item in branch.below.items())]
    except ValueError as error:
        raise malformed(f"An item of '{path}' is not numbered: {sorted(branch.below)[:3]}") from error
    except TypeError as error:  # two spellings of one number (1 and 01) leave only the branches to compare
        raise malformed(f"Two items of '{path}' have the same number.") from error
