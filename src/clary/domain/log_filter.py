"""CloudWatch Logs filter patterns over plain text: terms, "quoted phrases", ?any-of terms and -excluded terms.

Every plain term must occur, no excluded one may, and of the ?terms at least one must; beside plain terms ?terms have
no effect. Matching is by substring and case-sensitive. JSON, space-delimited and regular-expression patterns are
refused by name. Source: Amazon CloudWatch Logs user guide, "Filter pattern syntax".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clary.domain.errors import Invalid, Unsupported

_TERM = re.compile(r'\s*([?-]?)(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))')


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A parsed pattern."""

    required: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def matches(self, message: str) -> bool:
        if any(term in message for term in self.excluded):
            return False
        if self.required:
            return all(term in message for term in self.required)
        return not self.any_of or any(term in message for term in self.any_of)


def parse(pattern: str) -> LogFilter:
    """Raises: Unsupported for the other kinds of pattern, Invalid for a phrase without its end."""
    text = pattern.strip()
    for opening, kind in (("{", "JSON"), ("[", "space-delimited"), ("%", "regular expression")):
        if text.startswith(opening):
            raise Unsupported(f"a {kind} filter pattern", 'use plain terms, "phrases", ?any-of and -excluded terms')
    terms: dict[str, list[str]] = {"": [], "?": [], "-": []}
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or match.end() == at:
            raise Invalid("filterPattern", f"a phrase begins at character {at + 1} and does not end")
        phrase = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        if phrase:
            terms[match[1]].append(phrase)
        at = match.end()
    return LogFilter(tuple(terms[""]), tuple(terms["?"]), tuple(terms["-"]))
