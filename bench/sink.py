"""`python bench/sink.py`: an S3 that throws everything away, for uploads whose own cost is to be known.

Prints its port and serves until it is ended. It knows the four answers that boto3's `upload_file` needs and nothing
else; bodies are read into one buffer a connection and forgotten.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEGUN = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
COMPLETED = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
PIECE_BYTES = 256 * 1024


class Sink(BaseHTTPRequestHandler):
    """One connection. The base class answers `Expect: 100-continue` itself."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self._piece = memoryview(bytearray(PIECE_BYTES))

    def do_PUT(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(BEGUN if self.path.endswith("?uploads") else COMPLETED)

    def _answer(self, body: bytes) -> None:
        left = int(self.headers.get("Content-Length", 0))
        while left:
            count = self.rfile.readinto(self._piece[: min(left, PIECE_BYTES)])  # type: ignore[attr-defined]
            if not count:
                self.close_connection = True
                return
            left -= count
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: thousands of parts come."""


def main() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
