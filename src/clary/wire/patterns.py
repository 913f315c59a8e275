"""The service models' patterns, which are Java's, as Python's.

Three things differ. `\\p{L}` and its like do not exist in Python: they become the ASCII characters of that category
plus one private-use character, and a value is matched after each of its non-ASCII characters was replaced by the
private-use character of its category, which is exact and needs no tables. Surrogate ranges
(`\\uD800\\uDC00-\\uDBFF\\uDFFF`) are how Java writes "beyond the BMP". A hyphen between a class and a character
(`[\\w-_]`) is itself in Java.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

# First letter of a Unicode general category -> (its ASCII characters as a class body, its stand-in).
_CATEGORIES: Final = {
    "L": ("a-zA-Z", "\ue000"),
    "N": ("0-9", "\ue001"),
    "Z": (" ", "\ue002"),
    "P": (r"!\"#%&'()*,\-./:;?@\[\\\]_{}", "\ue003"),
    "S": (r"$+<=>\^`|~", "\ue004"),
    "M": ("", "\ue005"),
    "C": (r"\x00-\x1f\x7f", "\ue006"),
}
# Java's POSIX classes, which are ASCII only.
_POSIX: Final = {
    "Alnum": "a-zA-Z0-9", "Alpha": "a-zA-Z", "Digit": "0-9", "Lower": "a-z", "Upper": "A-Z", "ASCII": r"\x00-\x7f",
    "Print": r"\x20-\x7e", "Graph": r"\x21-\x7e", "Space": r" \t\n\x0b\f\r",
}  # fmt: skip
_PROPERTY: Final = re.compile(r"\\p(?:\{(\w+)\}|(\w))")
_BEYOND_BMP: Final = r"\uD800\uDC00-\uDBFF\uDFFF"


def _stand_in(char: str) -> str:
    if char < "\x80":
        return char
    known = _CATEGORIES.get(unicodedata.category(char)[0])
    return known[1] if known else char


def _translate(pattern: str) -> tuple[str, bool]:
    """Python's spelling, and whether values must be matched by category."""
    by_category = False
    text = pattern.replace(_BEYOND_BMP, r"\U00010000-\U0010FFFF").replace(r"\z", r"\Z")
    text = re.sub(r"\\w-(?=[^\]])", r"\\w\\-", text)
    out: list[str] = []
    position = 0
    for found in _PROPERTY.finditer(text):
        name = found[1] or found[2]
        if name in _POSIX:
            body = _POSIX[name]
        else:
            ascii_part, stand_in = _CATEGORIES[name[0]]
            body = ascii_part + stand_in
            by_category = True
        before = text[: found.start()]
        in_class = before.count("[") - before.count(r"\[") > before.count("]") - before.count(r"\]")
        out.append(text[position : found.start()] + (body if in_class else f"[{body}]"))
        position = found.end()
    out.append(text[position:])
    joined = "".join(out)
    # `[\p{Z}-_]`: after the class a hyphen is itself.
    joined = re.sub("([\ue000-\ue006])-(?=[^\\]])", r"\1\\-", joined)
    # `...$ {1,128}` right behind an anchor, as one SageMaker pattern has it: the repetition says nothing.
    return re.sub(r"\$\{\d+,\d+\}", "$", joined), by_category


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> Callable[[str], bool]:
    """A test whether a whole string fits the pattern. Raises: re.error for a pattern that Python cannot read."""
    text, by_category = _translate(pattern)
    compiled = re.compile(text)

    def fits(value: str) -> bool:
        subject = value if value.isascii() or not by_category else "".join(map(_stand_in, value))
        return compiled.fullmatch(subject) is not None

    return fits
