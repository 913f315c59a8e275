"""A plain client of the distribution protocol, and images made of a few files."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer_of(files: Mapping[str, bytes]) -> bytes:
    """An uncompressed layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class Answer:
    """One answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def error(self) -> str:
        """The code in the protocol's error shape."""
        code: str = json.loads(self.body)["errors"][0]["code"]
        return code


class RegistryClient:
    """`password` as `docker login` would hand it on; None for nobody."""

    def __init__(self, port: int, password: str | None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._login = base64.b64encode(f"AWS:{password}".encode()).decode() if password is not None else ""

    def ask(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._login:
            sent["Authorization"] = f"Basic {self._login}"
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
        self._connection.request(method, path, body, sent, encode_chunked=chunked)
        return Answer(self._connection.getresponse())

    def push_blob(self, repository: str, content: bytes, pieces: int = 1) -> str:
        """In one PUT, or in `pieces` PATCHes before an empty one; its digest."""
        digest = digest_of(content)
        place = self.begin(repository)
        if pieces > 1:
            step = -(-len(content) // pieces)
            for start in range(0, len(content), step):
                piece = content[start : start + step]
                answer = self.ask(
                    "PATCH", place, piece, Content_Range=f"{start}-{start + len(piece) - 1}",
                    Content_Type="application/octet-stream",
                )  # fmt: skip
                assert answer.status == 202, answer.body
                assert answer.headers["Range"] == f"0-{start + len(piece) - 1}"
                place = _path(answer.headers["Location"])
            content = b""
        answer = self.ask("PUT", f"{place}?digest={digest}", content)
        assert answer.status == 201, answer.body
        assert answer.headers["Docker-Content-Digest"] == digest
        return digest

    def push_stream(self, repository: str, pieces: Iterator[bytes]) -> str:
        """One PATCH of chunks of unknown number, as docker pushes; its digest."""
        running = hashlib.sha256()

        def told() -> Iterator[bytes]:
            for piece in pieces:
                running.update(piece)
                yield piece

        answer = self.ask("PATCH", self.begin(repository), told(), Content_Type="application/octet-stream")
        assert answer.status == 202, answer.body
        digest = f"sha256:{running.hexdigest()}"
        answer = self.ask("PUT", f"{_path(answer.headers['Location'])}?digest={digest}", b"")
        assert answer.status == 201, answer.body
        return digest

    def begin(self, repository: str) -> str:
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        assert answer.status == 202, answer.body
        return _path(answer.headers["Location"])

    def push_image(
        self, repository: str, tag: str, layers: list[bytes], config: dict[str, Any], media_type: str = DOCKER
    ) -> str:
        """Layers (uncompressed), config and manifest; the manifest's digest."""
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
        raw = json.dumps(whole).encode()
        prefix = "application/vnd.docker." if media_type == DOCKER else "application/vnd.oci.image."
        of_config = "container.image.v1+json" if media_type == DOCKER else "config.v1+json"
        of_layer = "image.rootfs.diff.tar" if media_type == DOCKER else "layer.v1.tar"
        for content in (raw, *layers):
            self.push_blob(repository, content, pieces=3 if len(content) > 1000 else 1)
        manifest = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": prefix + of_config, "size": len(raw), "digest": digest_of(raw)},
            "layers": [
                {"mediaType": prefix + of_layer, "size": len(layer), "digest": digest_of(layer)} for layer in layers
            ],
        }
        return self.push_manifest(repository, tag, json.dumps(manifest).encode(), media_type)

    def push_manifest(self, repository: str, target: str, body: bytes, media_type: str) -> str:
        answer = self.ask("PUT", f"/v2/{repository}/manifests/{target}", body, Content_Type=media_type)
        assert answer.status == 201, answer.body
        found: str = answer.headers["Docker-Content-Digest"]
        assert found == digest_of(body)
        return found


def _path(location: str) -> str:
    return urlsplit(location).path
