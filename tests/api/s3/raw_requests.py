"""Requests that boto3 does not send over plain HTTP: signed by hand and framed as other SDKs frame them."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from served import KEY, SECRET, Served

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Declared(S3SigV4Auth):
    """Signs what the request declares about its body, be it true or not."""

    def payload(self, request: Any) -> str:
        return str(request.headers["x-amz-content-sha256"])

    def _modify_request_before_signing(self, request: Any) -> None:
        declared = request.headers["x-amz-content-sha256"]
        super()._modify_request_before_signing(request)
        del request.headers["X-Amz-Content-SHA256"]
        request.headers["X-Amz-Content-SHA256"] = declared


def sign(served: Served, method: str, path: str, declared: str, headers: dict[str, str]) -> dict[str, str]:
    """The headers of a signed request whose x-amz-content-sha256 is `declared`."""
    request = AWSRequest(method, served.url + path, headers={**headers, "x-amz-content-sha256": declared})
    _Declared(Credentials(KEY, SECRET), "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())


def send(served: Served, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def put(
    served: Served,
    bucket: str,
    key: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    declared: str | None = None,
) -> Answer:
    """A PutObject with that body as it is and whatever its headers claim."""
    path = f"/{bucket}/{quote(key)}"
    signed = sign(served, "PUT", path, declared or hashlib.sha256(body).hexdigest(), headers or {})
    return send(served, "PUT", path, signed, body)


class Chunker:
    """Frames a body as aws-chunked, each chunk signed where the mode says so."""

    def __init__(self, mode: str, headers: dict[str, str]) -> None:
        self._signed = mode != UNSIGNED_TRAILER
        self._date = headers["X-Amz-Date"]
        authorization = headers["Authorization"]
        self._scope = authorization.partition("Credential=")[2].partition(",")[0].partition("/")[2]
        self._previous = authorization.rpartition("Signature=")[2]
        key = b"AWS4" + SECRET.encode()
        for step in self._scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        self._key = key

    def frame(self, body: bytes, chunk_bytes: int, trailers: dict[str, str]) -> bytes:
        pieces = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        out = [self._chunk(piece) + piece + b"\r\n" for piece in pieces] + [self._chunk(b"")]
        lines = "".join(f"{name}:{value}\n" for name, value in sorted(trailers.items()))
        out.append(lines.replace("\n", "\r\n").encode())
        if trailers and self._signed:
            digest = hashlib.sha256(lines.encode()).hexdigest()
            signature = self._sign("AWS4-HMAC-SHA256-TRAILER", digest)
            out.append(f"x-amz-trailer-signature:{signature}\r\n".encode())
        return b"".join(out) + b"\r\n"

    def _chunk(self, piece: bytes) -> bytes:
        if not self._signed:
            return b"%x\r\n" % len(piece)
        digest = hashlib.sha256(piece).hexdigest()
        signature = self._sign("AWS4-HMAC-SHA256-PAYLOAD", f"{EMPTY_SHA256}\n{digest}")
        return f"{len(piece):x};chunk-signature={signature}\r\n".encode()

    def _sign(self, algorithm: str, digests: str) -> str:
        text = f"{algorithm}\n{self._date}\n{self._scope}\n{self._previous}\n{digests}"
        self._previous = hmac.digest(self._key, text.encode(), "sha256").hex()
        return self._previous


def put_chunked(
    served: Served,
    bucket: str,
    key: str,
    body: bytes,
    mode: str,
    *,
    trailers: dict[str, str] | None = None,
    chunk_bytes: int = 65_536,
    spoil: Any = lambda framed: framed,
    headers: dict[str, str] | None = None,
) -> Answer:
    """A PutObject in an aws-chunked mode; `spoil` may change the framed bytes."""
    path = f"/{bucket}/{quote(key)}"
    wanted = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(body)), **(headers or {})}
    if trailers:
        wanted["x-amz-trailer"] = ",".join(trailers)
    signed = sign(served, "PUT", path, mode, wanted)
    return send(served, "PUT", path, signed, spoil(Chunker(mode, signed).frame(body, chunk_bytes, trailers or {})))
