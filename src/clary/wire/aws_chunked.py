"""aws-chunked bodies, decoded while they arrive.

    size;chunk-signature=...\\r\\n  data  \\r\\n  ...  0;chunk-signature=...\\r\\n  [trailer lines]  \\r\\n

Each chunk's signature covers its hash and the signature before it, so the chain starts at the request's own signature
and none can be dropped, swapped or repeated. Data is handed out at once and judged at the end of its chunk: the
receiver must make nothing visible before `finish` has returned.
Source: S3 API reference, "Transferring Payload in Multiple Chunks" and "Signature calculations for trailing headers".
"""

from __future__ import annotations

import hmac
from enum import Enum, auto
from hashlib import sha256
from typing import Final

from clary.wire.errors import WireError
from clary.wire.http import Request, text_of
from clary.wire.sigv4 import EMPTY_SHA256, PayloadMode, Verdict, wrong_signature

MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
MAX_SIZE_DIGITS: Final = 8
MAX_LINE_BYTES: Final = 128  # 8 digits, ";chunk-signature=" and 64 of hex are 89
MAX_TRAILER_BYTES: Final = 8 * 1024
TRAILER_SIGNATURE: Final = b"x-amz-trailer-signature"

_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"
_SIGNATURE: Final = b"chunk-signature="


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


def bad_chunk(message: str) -> WireError:
    return WireError("InvalidRequest", 400, f"The aws-chunked body is malformed: {message}.")


class ChunkDecoder:
    """One body. `decoded_bytes` is X-Amz-Decoded-Content-Length, or None; `trailer_names` are those of
    X-Amz-Trailer."""

    def __init__(
        self, verdict: Verdict, decoded_bytes: int | None = None, trailer_names: frozenset[str] = frozenset()
    ) -> None:
        self._chain = verdict.chain
        self._previous = verdict.chain.seed_signature if verdict.chain is not None else b""
        # With signatures switched off a signed body still comes chunk by chunk, its signatures unread.
        self._may_be_signed = verdict.payload is not PayloadMode.STREAMING_UNSIGNED_TRAILER
        self._may_trail = verdict.payload in (
            PayloadMode.STREAMING_SIGNED_TRAILER, PayloadMode.STREAMING_UNSIGNED_TRAILER,
        )  # fmt: skip
        self._expected_bytes = decoded_bytes
        self.trailer_names = trailer_names
        self._state = _State.SIZE
        self._pending = b""
        self._left_bytes = 0
        self._claimed = b""
        self._hash = sha256()
        self._trailers: dict[str, str] = {}
        self.received_bytes = 0  # payload handed out so far

    @classmethod
    def of(cls, request: Request, verdict: Verdict) -> ChunkDecoder:
        """The decoder that a request's headers ask for. Raises: WireError when they do not fit each other."""
        text = request.header("x-amz-decoded-content-length")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise WireError("InvalidArgument", 400, f'x-amz-decoded-content-length "{text[:40]}" is no length.')
        names = frozenset(
            name.strip().lower()
            for line in request.header_all("x-amz-trailer")
            for name in line.split(",")
            if name.strip()
        )
        if names and verdict.payload is PayloadMode.STREAMING_SIGNED:
            raise WireError("InvalidRequest", 400, "x-amz-trailer needs a body mode that ends in -TRAILER.")
        return cls(verdict, int(text) if text is not None else None, names)

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in the next bytes of the body, in pieces. Raises: WireError, after which it is of no use."""
        pieces: list[bytes] = []
        position = 0
        if self._pending:
            data, self._pending = self._pending + data, b""
        length = len(data)
        while position < length:
            if self._state is _State.DATA:
                end = min(length, position + self._left_bytes)
                piece = data if position == 0 and end == length else data[position:end]
                self._take(piece)
                pieces.append(piece)
                position = end
                continue
            if self._state is _State.DATA_END:
                if length - position < 2:
                    break
                if data[position : position + 2] != b"\r\n":
                    raise bad_chunk("a chunk does not end where its size says")
                position += 2
                self._close_chunk()
                self._state = _State.SIZE
                continue
            if self._state is _State.DONE:
                raise bad_chunk("there is data after the last chunk")
            limit = MAX_LINE_BYTES if self._state is _State.SIZE else MAX_TRAILER_BYTES
            newline = data.find(b"\r\n", position, position + limit + 2)
            if newline < 0:
                if length - position > limit:
                    raise bad_chunk(f"a line is longer than {limit} bytes")
                break
            line = data[position:newline]
            position = newline + 2
            if self._state is _State.SIZE:
                self._open_chunk(line)
            else:
                self._take_trailer(line)
        self._pending = data[position:]
        return pieces

    def finish(self) -> dict[str, str]:
        """The trailers, by lower-cased name. Raises: WireError when the body is not whole or not what was announced."""
        if self._state is not _State.DONE:
            raise WireError("IncompleteBody", 400, "The request body ended before the last chunk.")
        if self._expected_bytes is not None and self.received_bytes != self._expected_bytes:
            text = (
                f"The body has {self.received_bytes} bytes; x-amz-decoded-content-length says {self._expected_bytes}."
            )
            raise WireError("IncompleteBody", 400, text)
        return dict(self._trailers)

    def _open_chunk(self, line: bytes) -> None:
        size, _, extension = line.partition(b";")
        if not size or len(size) > MAX_SIZE_DIGITS or size.strip(_HEX_DIGITS):
            raise bad_chunk(f"a chunk's size must be 1 to {MAX_SIZE_DIGITS} hexadecimal digits")
        self._left_bytes = int(size, 16)
        if self._left_bytes > MAX_CHUNK_BYTES:
            raise bad_chunk(f"a chunk has {self._left_bytes} bytes; at most {MAX_CHUNK_BYTES} are allowed")
        if self._expected_bytes is not None and self.received_bytes + self._left_bytes > self._expected_bytes:
            raise bad_chunk(f"it holds more than the {self._expected_bytes} bytes of x-amz-decoded-content-length")
        if self._chain is not None:
            if not extension.startswith(_SIGNATURE):
                raise bad_chunk("a chunk has no chunk-signature")
            self._claimed = extension[len(_SIGNATURE) :]
        elif extension and not self._may_be_signed:
            raise bad_chunk("a chunk of an unsigned body has an extension")
        self._hash = sha256()
        if self._left_bytes:
            self._state = _State.DATA
        else:
            self._close_chunk()
            self._state = _State.TRAILERS

    def _take(self, piece: bytes) -> None:
        if self._chain is not None:
            self._hash.update(piece)
        self.received_bytes += len(piece)
        self._left_bytes -= len(piece)
        if not self._left_bytes:
            self._state = _State.DATA_END

    def _close_chunk(self) -> None:
        if self._chain is not None:
            digest = self._hash.hexdigest().encode("ascii")
            self._check(b"AWS4-HMAC-SHA256-PAYLOAD", (EMPTY_SHA256.encode("ascii"), digest), self._claimed)

    def _check(self, algorithm: bytes, digests: tuple[bytes, ...], claimed: bytes) -> None:
        chain = self._chain
        if chain is None:
            return
        text = b"\n".join((algorithm, chain.moment, chain.scope, self._previous, *digests))
        expected = hmac.digest(chain.signing_key, text, "sha256").hex().encode("ascii")
        if not hmac.compare_digest(expected, claimed):
            raise wrong_signature(True)
        self._previous = expected

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._end()
            return
        name, colon, value = line.partition(b":")
        lowered = name.lower()
        if not colon or not name or name != name.strip():
            raise WireError("MalformedTrailerError", 400, "A trailer must have the form name:value.")
        text = text_of(lowered)
        if text in self._trailers:
            raise WireError("MalformedTrailerError", 400, f"The trailer {text[:100]} is repeated.")
        self._trailers[text] = text_of(value.strip())
        if sum(len(key) + len(item) for key, item in self._trailers.items()) > MAX_TRAILER_BYTES:
            raise WireError("MalformedTrailerError", 400, f"The trailers are larger than {MAX_TRAILER_BYTES} bytes.")

    def _end(self) -> None:
        """The empty line behind the last chunk: every announced trailer is there, none else, and they are signed."""
        signature = self._trailers.pop(TRAILER_SIGNATURE.decode("ascii"), None)
        names = self._trailers.keys()
        if names != self.trailer_names or (names and not self._may_trail):
            told = ", ".join(sorted(self.trailer_names)) or "none"
            text = f"x-amz-trailer announces {told}; the body has {', '.join(sorted(names)) or 'none'}."
            raise WireError("MalformedTrailerError", 400, text[:1000])
        if self._chain is not None and self._may_trail:
            lines = b"".join(b"%b:%b\n" % (name.encode(), self._trailers[name].encode()) for name in sorted(names))
            digest = sha256(lines).hexdigest().encode("ascii")
            self._check(b"AWS4-HMAC-SHA256-TRAILER", (digest,), (signature or "").encode())
        elif signature is not None and not self._may_be_signed:
            raise WireError("MalformedTrailerError", 400, "The body has a trailer signature that nothing asked for.")
        self._state = _State.DONE
