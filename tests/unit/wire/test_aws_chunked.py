"""aws-chunked bodies: AWS's documented examples, every way to cut them, and every way to spoil them."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime
from io import BytesIO

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum

from clary.wire.aws_chunked import MAX_TRAILER_BYTES, ChunkDecoder
from clary.wire.errors import WireError
from clary.wire.http import Request
from clary.wire.sigv4 import Credential, PayloadMode, Verdict, authenticate

# The examples of the S3 API reference, "sigv4-streaming" and "sigv4-streaming-trailers".
NOW = datetime(2013, 5, 24, tzinfo=UTC)
KEY = Credential("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_SIGNATURES = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
PAYLOAD = b"a" * 66560


class Ring:
    def find(self, access_key_id: str) -> Credential | None:
        return KEY if access_key_id == KEY.access_key_id else None


def request(*, trailer: bool) -> Request:
    headers = {
        "host": "s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
    }
    if trailer:
        headers |= {
            "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "x-amz-trailer": "x-amz-checksum-crc32c",
        }
    else:
        headers |= {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "content-length": "66824"}
    names = ";".join(sorted(headers))
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={KEY.access_key_id}/20130524/us-east-1/s3/aws4_request,SignedHeaders={names},"
        f"Signature={TRAILER_SEED if trailer else SEED}"
    )
    pairs = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return Request("PUT", b"/examplebucket/chunkObject.txt", pairs)


def body(*, trailer: bool) -> bytes:
    first, second, last = TRAILER_SIGNATURES if trailer else SIGNATURES
    parts = [
        f"10000;chunk-signature={first}\r\n".encode(), PAYLOAD[:65536], b"\r\n",
        f"400;chunk-signature={second}\r\n".encode(), PAYLOAD[65536:], b"\r\n",
        f"0;chunk-signature={last}\r\n".encode(),
    ]  # fmt: skip
    if trailer:
        parts.append(b"x-amz-checksum-crc32c:sOO8/Q==\r\n")
        parts.append(f"x-amz-trailer-signature:{TRAILER_SIGNATURE}\r\n".encode())
    return b"".join([*parts, b"\r\n"])


def decoder(*, trailer: bool) -> ChunkDecoder:
    made = request(trailer=trailer)
    return ChunkDecoder.of(made, authenticate(made, Ring(), NOW))


def decode(made: ChunkDecoder, data: bytes, step: int = 0) -> tuple[bytes, dict[str, str]]:
    pieces: list[bytes] = []
    for at in range(0, len(data), step or len(data)):
        pieces += made.feed(data[at : at + (step or len(data))])
    return b"".join(pieces), made.finish()


@pytest.mark.parametrize("step", [0, 1, 2, 7, 100, 4096, 65536 + 90])
@pytest.mark.parametrize("trailer", [False, True])
def test_awss_examples_are_accepted_however_they_are_cut(trailer: bool, step: int) -> None:
    payload, trailers = decode(decoder(trailer=trailer), body(trailer=trailer), step)
    assert payload == PAYLOAD
    assert trailers == ({"x-amz-checksum-crc32c": "sOO8/Q=="} if trailer else {})


@pytest.mark.parametrize("trailer", [False, True])
def test_a_changed_byte_anywhere_in_the_examples_is_refused(trailer: bool) -> None:
    whole = body(trailer=trailer)
    places = [*range(200), *range(65536, 65536 + 300), *range(len(whole) - 400, len(whole))]
    for at in places:
        spoiled = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert refused(decoder(trailer=trailer), spoiled), at


def refused(made: ChunkDecoder, data: bytes) -> bool:
    try:
        decode(made, data)
    except WireError:
        return True
    return False


def unsigned(decoded_bytes: int | None = None, names: frozenset[str] = frozenset()) -> ChunkDecoder:
    verdict = Verdict("A", "r", "s3", PayloadMode.STREAMING_UNSIGNED_TRAILER)
    return ChunkDecoder(verdict, decoded_bytes, names)


def test_an_unsigned_body_with_a_checksum_behind_it_is_decoded_as_botocore_makes_it() -> None:
    data = bytes(range(256)) * 9000
    wrapper = AwsChunkedWrapper(BytesIO(data), Crc32Checksum, checksum_name="x-amz-checksum-crc32")
    made = unsigned(len(data), frozenset({"x-amz-checksum-crc32"}))
    pieces: list[bytes] = []
    while piece := wrapper.read(100_000):
        pieces += made.feed(piece)
    assert b"".join(pieces) == data
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert made.finish() == {"x-amz-checksum-crc32": crc}


CRC = frozenset({"x-amz-checksum-crc32"})
BAD = [
    ("no size", b"\r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a size that is no number", b"xyz\r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a signed size", b"+3\r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a size with a blank", b"3 \r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a size of nine digits", b"000000003\r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a chunk of more than 16 MiB", b"1000001\r\n", None, frozenset(), "InvalidRequest"),
    ("a size line without an end", b"3;" + b"a" * 200, None, frozenset(), "InvalidRequest"),
    ("an extension on an unsigned chunk", b"3;a=b\r\nabc\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("a bare line feed", b"3\nabc\n0\n\n", None, frozenset(), "IncompleteBody"),
    ("a chunk longer than its size", b"3\r\nabcd\r\n0\r\n\r\n", None, frozenset(), "InvalidRequest"),
    ("no last chunk", b"3\r\nabc\r\n", None, frozenset(), "IncompleteBody"),
    ("no end of the trailers", b"3\r\nabc\r\n0\r\n", None, frozenset(), "IncompleteBody"),
    ("data after the last chunk", b"3\r\nabc\r\n0\r\n\r\nx", None, frozenset(), "InvalidRequest"),
    ("more than was announced", b"3\r\nabc\r\n0\r\n\r\n", 2, frozenset(), "InvalidRequest"),
    ("less than was announced", b"3\r\nabc\r\n0\r\n\r\n", 4, frozenset(), "IncompleteBody"),
    ("a trailer that was not announced", b"0\r\nx-amz-checksum-crc32:a\r\n\r\n", None, frozenset(),
     "MalformedTrailerError"),
    ("no trailer where one was announced", b"0\r\n\r\n", None, CRC, "MalformedTrailerError"),
    ("another trailer than announced", b"0\r\nx-amz-checksum-sha1:a\r\n\r\n", None, CRC, "MalformedTrailerError"),
    ("a trailer twice", b"0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:a\r\n\r\n", None, CRC,
     "MalformedTrailerError"),
    ("a trailer without a colon", b"0\r\nx-amz-checksum-crc32\r\n\r\n", None, CRC, "MalformedTrailerError"),
    ("a huge trailer", b"0\r\nx-amz-checksum-crc32:" + b"a" * (MAX_TRAILER_BYTES + 50), None, CRC, "InvalidRequest"),
    ("many trailers", b"0\r\n" + b"".join(b"x-%d:%b\r\n" % (n, b"a" * 1000) for n in range(20)), None, CRC,
     "MalformedTrailerError"),
    ("a trailer signature on an unsigned body", b"0\r\nx-amz-trailer-signature:a\r\n\r\n", None, frozenset(),
     "MalformedTrailerError"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "data", "length", "names", "code"), BAD, ids=[case[0] for case in BAD])
@pytest.mark.parametrize("step", [0, 1])
def test_a_malformed_body_is_refused(
    case: str, data: bytes, length: int | None, names: frozenset[str], code: str, step: int
) -> None:
    with pytest.raises(WireError) as caught:
        decode(unsigned(length, names), data, step)
    assert caught.value.code == code
    assert caught.value.status == 400


def test_dropped_and_swapped_chunks_break_the_chain() -> None:
    whole = body(trailer=False)
    last = whole[whole.rindex(b"0;chunk") :]
    first = whole[: whole.index(b"\r\n400;") + 2]
    for spoiled in (last, first + last, first + first + last):
        made = request(trailer=False)
        verdict = authenticate(made, Ring(), NOW)
        with pytest.raises(WireError) as caught:
            decode(ChunkDecoder(verdict), spoiled)
        assert caught.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("length", ["-1", "1e3", "", "9" * 16, "²"])
def test_a_decoded_length_that_is_none_is_refused(length: str) -> None:
    made = Request("PUT", b"/b/k", ((b"x-amz-decoded-content-length", length.encode()),))
    with pytest.raises(WireError):
        ChunkDecoder.of(made, Verdict("A", "r", "s3", PayloadMode.STREAMING_UNSIGNED_TRAILER))
