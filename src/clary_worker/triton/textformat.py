"""Protobuf's text format, from text to a tree of fields; what a field means is `config`'s affair.

    name: "m"   dims: [1, -1]   input { ... }   input [ { ... }, { ... } ]   step < ... >   # a comment

Positions count from 1, and messages are worded as protobuf's own parser words them. The text is a stranger's: its size
and its depth are bounded, and every loop consumes a token.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Union

MAX_CHARS = 1 << 18  # of one config.pbtxt; real ones have some kilobytes
MAX_DEPTH = 32  # messages inside messages; ModelConfig itself goes six deep

_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n\f\v]+|\#[^\n]*)"
    r"|(?P<string>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>[{}<>\[\]:,;-])"
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPES: Dict[str, bytes] = {
    "n": b"\n",
    "t": b"\t",
    "r": b"\r",
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "v": b"\v",
    "?": b"?",
    "\\": b"\\",
    "'": b"'",
    '"': b'"',
}


class TextError(Exception):
    """Not protobuf text: "line:column: what"."""

    def __init__(self, line: int, column: int, text: str) -> None:
        super().__init__("%d:%d: %s" % (line, column, text))


class Token(NamedTuple):
    kind: str  # "string", "number", "word", "mark", "end"
    text: str
    line: int
    column: int


class Scalar(NamedTuple):
    """A value as written; `text` of a string is unescaped, of a number carries its sign."""

    kind: str  # "string", "number", "word"
    text: str


class Field(NamedTuple):
    name: str
    value: Union[Scalar, List["Field"]]  # a message is the list of its fields
    line: int
    column: int


def parse(text: str) -> List[Field]:
    """The fields in the order written. Raises: TextError."""
    if len(text) > MAX_CHARS:
        raise TextError(1, 1, "The text has %d characters; at most %d are read." % (len(text), MAX_CHARS))
    return _Parser(_tokens(text)).message("", 0)


def _tokens(text: str) -> List[Token]:
    found: List[Token] = []
    place, line, start = 0, 1, 0  # `start`: where the line began
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            column = place - start + 1
            if text[place] in "\"'":
                raise TextError(line, column, 'Multiline strings are not allowed. Did you miss a "?')
            raise TextError(line, column, "Invalid character %r in text." % text[place])
        kind, piece = str(match.lastgroup), match.group()
        if kind != "space":
            found.append(Token(kind, piece, line, place - start + 1))
            if (
                kind == "number"
                and match.end() < len(text)
                and (text[match.end()].isalnum() or text[match.end()] == "_")
            ):
                raise TextError(line, match.end() - start + 1, "Need space between number and identifier.")
        breaks = piece.count("\n")
        if breaks:
            line += breaks
            start = place + piece.rindex("\n") + 1
        place = match.end()
    found.append(Token("end", "", line, place - start + 1))
    return found


class _Parser:
    def __init__(self, tokens: List[Token]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._place += 1
        return token

    def _fail(self, token: Token, text: str) -> TextError:
        return TextError(token.line, token.column, text)

    def message(self, close: str, depth: int) -> List[Field]:
        """The fields up to the mark `close` ("" for the text's end)."""
        if depth > MAX_DEPTH:
            raise self._fail(self._next, "Message is too deep, the parser exceeded the configured recursion limit.")
        fields: List[Field] = []
        while True:
            token = self._take()
            if token.kind == "end" if not close else token.kind == "mark" and token.text == close:
                return fields
            if token.kind != "word":
                raise self._fail(token, "Expected identifier, got: %s" % (token.text or "end of text"))
            self._field(token, fields, depth)
            if self._next.kind == "mark" and self._next.text in ",;":
                self._take()

    def _field(self, name: Token, fields: List[Field], depth: int) -> None:
        colon = self._next.kind == "mark" and self._next.text == ":"
        if colon:
            self._take()
        if self._next.kind == "mark" and self._next.text == "[":
            self._take()
            if self._next.kind == "mark" and self._next.text == "]":
                self._take()
                return
            while True:
                fields.append(self._value(name, True, depth))
                token = self._take()
                if token.kind == "mark" and token.text == "]":
                    return
                if token.kind != "mark" or token.text != ",":
                    raise self._fail(token, 'Expected ",", found "%s".' % token.text)
        fields.append(self._value(name, colon, depth))

    def _value(self, name: Token, colon: bool, depth: int) -> Field:
        token = self._take()
        if token.kind == "mark" and token.text in "{<":
            inside = self.message("}" if token.text == "{" else ">", depth + 1)
            return Field(name.text, inside, name.line, name.column)
        if not colon:
            raise self._fail(token, 'Expected ":", found "%s".' % token.text)
        sign = ""
        if token.kind == "mark" and token.text == "-":
            sign, token = "-", self._take()
            if token.kind not in ("number", "word"):
                raise self._fail(token, 'Expected a number, found "%s".' % token.text)
        if token.kind == "string":
            words = self._unescaped(token)
            while self._next.kind == "string":  # adjacent strings are one
                words += self._unescaped(self._take())
            return Field(name.text, Scalar("string", words), name.line, name.column)
        if token.kind in ("number", "word"):
            return Field(name.text, Scalar(token.kind, sign + token.text), name.line, name.column)
        raise self._fail(token, 'Expected a value for "%s", found "%s".' % (name.text, token.text))

    def _unescaped(self, token: Token) -> str:
        body = token.text[1:-1]
        if "\\" not in body:
            return body
        pieces: List[bytes] = []
        end = 0
        for match in _ESCAPE.finditer(body):
            pieces.append(body[end : match.start()].encode())
            pieces.append(self._escape(token, match))
            end = match.end()
        pieces.append(body[end:].encode())
        try:
            return b"".join(pieces).decode()
        except UnicodeDecodeError:
            raise self._fail(token, "String field contains invalid UTF-8 data.") from None

    def _escape(self, token: Token, match: "re.Match[str]") -> bytes:
        octal, byte, short, long, letter = match.groups()
        try:
            if octal or byte:
                return bytes([int(octal, 8) if octal else int(byte, 16)])
            if short or long:
                return chr(int(short or long, 16)).encode()
            return _ESCAPES[letter]
        except (KeyError, ValueError):
            raise self._fail(token, "Invalid escape sequence in string literal.") from None
