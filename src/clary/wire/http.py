"""One HTTP request and one response, as values.

Mechanism: the request keeps what came over the wire (raw target, header bytes in their order, duplicates and all),
because a signature covers exactly that; everything decoded is derived, never stored. The response is what a server loop
writes: status, headers, and bytes or the streaming object that a handler returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def text_of(raw: bytes) -> str:
    """Header bytes as text: UTF-8 where they are UTF-8, else Latin-1 (which never fails)."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as received.

    `target` is the raw request target (path and optional `?query`), never normalised. `headers` have lower-cased names.
    `body` is the whole body; it is empty for operations with a streaming input, whose body is handed on separately.
    """

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None. `name` in any case."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.headers:
            if key == wanted:
                return text_of(value)
        return None

    def header_all(self, name: str) -> list[str]:
        """All values of a header, in the order received."""
        wanted = name.lower().encode("latin-1")
        return [text_of(value) for key, value in self.headers if key == wanted]

    @property
    def raw_path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def raw_query(self) -> bytes:
        return self.target.partition(b"?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    """One response: `body` is bytes, or the streaming object that a handler returned for a streaming member."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Any = b""
