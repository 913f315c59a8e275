"""Tokens as server-sent events, as Text Generation Inference writes them: `data:{...}` and an empty line each."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, Optional

from .generation import Token, TokenStream

MEDIA = "text/event-stream"


class Events:
    """The bytes of a stream's events."""

    def __init__(self, tokens: TokenStream, details: bool = False, seed: Optional[int] = None) -> None:
        self._tokens = tokens
        self._details = details
        self._seed = seed
        self._count = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = next(self._tokens)
        self._count += 1
        event: Dict[str, Any] = {
            "index": self._count,
            "token": plain(token),
            "generated_text": token.text,
            "details": None,
        }
        if self._details and token.text is not None:
            event["details"] = {"finish_reason": token.finish, "generated_tokens": self._count, "seed": self._seed}
        return b"data:" + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

    def close(self) -> None:
        """The caller has left: the generation ends."""
        self._tokens.close()


def plain(token: Token) -> Dict[str, Any]:
    """A token as JSON has it."""
    return {"id": token.id, "text": token.piece, "logprob": token.logprob, "special": token.special}
