"""The OCI distribution protocol (version 2 of Docker's registry API) on the one port, below /v2/.

    GET  /v2/                                   who am I: 200, or a challenge for Basic
    HEAD, GET               .../blobs/DIGEST    with ranges
    POST                    .../blobs/uploads/  begin; ?mount=&from=; ?digest= for a whole blob
    GET, PATCH, PUT, DELETE .../blobs/uploads/ID
    HEAD, GET, PUT, DELETE  .../manifests/TAG-OR-DIGEST
    GET  .../tags/list, GET /v2/_catalog        with n and last

`docker login` gives the password of ECR's GetAuthorizationToken; it tells the caller, whose rights hold, and the region
that the names are in. A bucket's name has three letters or more, so nothing of S3 lies below /v2/. Bodies stream: a
block of 512 KiB is hashed and written on a lane while the next one comes. Errors have the protocol's own shape.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote_to_bytes

from clary.domain import container_image as names
from clary.domain.errors import AccessDenied, ClaryError, Invalid, LimitExceeded, NotFound, StoreFailed
from clary.domain.names import Place, partition
from clary.gateway.authentication import Authenticated, Authentication
from clary.gateway.body import Receive
from clary.gateway.layer_streams import Layers
from clary.store.registry import KIND, Image, Registry
from clary.store.resources import Query, Record, Resources
from clary.wire.http import Request, Response

PAGE = 1000  # of tags and repositories, at most
_VERSION = ("Docker-Distribution-Api-Version", "registry/2.0")
_CHALLENGE = 'Basic realm="{url}",service="ecr.amazonaws.com"'
_ROUTES = (
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("manifests", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<target>[^/]+)")),
    ("uploads", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/?")),
    ("upload", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<target>[^/]+)")),
    ("blobs", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<target>[^/]+)")),
)
# Rules of `Invalid` that are codes of the protocol; (code, status).
_CODES = {
    "NAME_INVALID": 400,
    "DIGEST_INVALID": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404,
    "TAG_INVALID": 400,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 400,
    "BLOB_UPLOAD_INVALID": 409,
    "ImageReferencedByManifestList": 409,
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request below a repository, whose caller is known and may."""

    head: Request
    receive: Receive
    repository: Record
    target: str
    query: Mapping[str, str]

    @property
    def path(self) -> str:
        return f"/v2/{self.repository.name}"


class Refused(Exception):
    """An answer in the protocol's own shape."""

    def __init__(self, code: str, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.response = _error(code, status, message, headers)


class Distribution:
    """Answers what `serves` says is for it."""

    def __init__(
        self, resources: Resources, registry: Registry, authentication: Authentication, account: str, layers: Layers
    ) -> None:
        self._resources = resources
        self._registry = registry
        self._authentication = authentication
        self._account = account
        self._layers = layers

    @staticmethod
    def serves(head: Request) -> bool:
        return head.raw_path in (b"/v2", b"/v2/") or head.raw_path.startswith(b"/v2/")

    async def respond(self, head: Request, receive: Receive) -> Response:
        """Raises: ClientGone."""
        try:
            return await self._respond(head, receive)
        except Refused as refused:
            return refused.response
        except ClaryError as error:
            return _told(error)

    async def _respond(self, head: Request, receive: Receive) -> Response:
        caller = self._authentication.check_login(head)
        if caller is None:
            url = f"http://{head.header('host') or 'localhost'}/"
            challenge = ("WWW-Authenticate", _CHALLENGE.format(url=url))
            raise Refused("UNAUTHORIZED", 401, "authentication required: see ECR's GetAuthorizationToken", (challenge,))
        place = Place(self._account, caller.region)
        path = unquote_to_bytes(head.raw_path).decode("latin-1")
        query = {name: values[0] for name, values in parse_qs(head.raw_query.decode("latin-1")).items()}
        if path in ("/v2", "/v2/"):
            return Response(200, [_VERSION, ("Content-Type", "application/json")], b"{}")
        if path == "/v2/_catalog":
            return await self._catalog(head, caller, place, query)
        for kind, pattern in _ROUTES:
            match = pattern.fullmatch(path)
            handler = self._handlers().get((kind, head.method))
            if match is None:
                continue
            if handler is None:
                raise Refused("UNSUPPORTED", 405, f"{head.method} is not served for {kind}")
            action, work = handler
            repository = await self._repository(caller, place, match["name"], action)
            target = match.groupdict().get("target", "")
            return await work(_Asked(head, receive, repository, target, query))
        raise Refused("UNSUPPORTED", 404, f"{path[:200]} is no path of the distribution protocol that is served")

    def _handlers(self) -> dict[tuple[str, str], tuple[str, Callable[[_Asked], Awaitable[Response]]]]:
        return {
            ("tags", "GET"): ("ListImages", self._tags),
            ("manifests", "HEAD"): ("BatchGetImage", self._get_manifest),
            ("manifests", "GET"): ("BatchGetImage", self._get_manifest),
            ("manifests", "PUT"): ("PutImage", self._put_manifest),
            ("manifests", "DELETE"): ("BatchDeleteImage", self._delete_manifest),
            ("uploads", "POST"): ("InitiateLayerUpload", self._begin),
            ("upload", "GET"): ("UploadLayerPart", self._status),
            ("upload", "PATCH"): ("UploadLayerPart", self._append),
            ("upload", "PUT"): ("CompleteLayerUpload", self._finish),
            ("upload", "DELETE"): ("UploadLayerPart", self._cancel),
            ("blobs", "HEAD"): ("BatchCheckLayerAvailability", self._get_blob),
            ("blobs", "GET"): ("GetDownloadUrlForLayer", self._get_blob),
        }

    async def _repository(self, caller: Authenticated, place: Place, name: str, action: str) -> Record:
        names.check_repository(name)
        arn = f"arn:{partition(place.region)}:ecr:{place.region}:{place.account}:repository/{name}"
        caller.authorize(f"ecr:{action}", arn)
        record = await self._resources.find(KIND, place, name)
        if record is None:
            raise Refused(
                "NAME_UNKNOWN",
                404,
                f"The repository with name '{name}' does not exist in the registry with id '{place.account}' in "
                f"{place.region}; `aws ecr create-repository --repository-name {name}` makes it",
            )
        return record

    # -- lists -----------------------------------------------------------------------------------

    async def _catalog(self, head: Request, caller: Authenticated, place: Place, query: Mapping[str, str]) -> Response:
        if head.method != "GET":
            raise Refused("UNSUPPORTED", 405, f"{head.method} is not served for _catalog")
        caller.authorize("ecr:DescribeRepositories", "*")
        limit, last = _page(query)
        by_name = Query(sort_by="Name", descending=False)
        found, _ = await self._resources.list(
            KIND, place, by_name, limit + 1, None, keep=lambda record: record.name > last
        )
        return _listed("/v2/_catalog", "repositories", [record.name for record in found], limit, {})

    async def _tags(self, asked: _Asked) -> Response:
        limit, last = _page(asked.query)
        tags = await self._registry.tags(asked.repository.uid, last, limit + 1)
        return _listed(f"{asked.path}/tags/list", "tags", tags, limit, {"name": asked.repository.name})

    # -- manifests -------------------------------------------------------------------------------

    async def _get_manifest(self, asked: _Asked) -> Response:
        image = await self._registry.image(asked.repository.uid, _target(asked.target))
        if image is None:
            raise Refused("MANIFEST_UNKNOWN", 404, f"Requested image not found: {asked.repository.name} {asked.target}")
        return Response(200, _manifest_headers(image), image.body)

    async def _put_manifest(self, asked: _Asked) -> Response:
        target = _target(asked.target)
        body = await self._layers.whole(asked.receive, names.MAX_MANIFEST_BYTES)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if names.is_digest(target) and target != digest:
            raise Invalid("manifest", f"its digest is {digest}, not {target}", rule="DIGEST_INVALID")
        manifest = names.parse_manifest(body, asked.head.header("content-type") or "")
        tag = "" if names.is_digest(target) else target
        immutable = asked.repository.desired["mutability"] == "IMMUTABLE"
        await self._registry.put_image(asked.repository.uid, digest, body, manifest, tag, immutable)
        headers = [_VERSION, ("Location", f"{asked.path}/manifests/{digest}"), ("Docker-Content-Digest", digest)]
        return Response(201, headers)

    async def _delete_manifest(self, asked: _Asked) -> Response:
        target = _target(asked.target)
        by_digest = names.is_digest(target)
        try:
            await self._registry.delete_image(
                asked.repository.uid, target if by_digest else "", "" if by_digest else target
            )
        except NotFound:
            raise Refused("MANIFEST_UNKNOWN", 404, f"Requested image not found: {target}") from None
        return Response(202, [_VERSION])

    # -- blobs -----------------------------------------------------------------------------------

    async def _get_blob(self, asked: _Asked) -> Response:
        digest = _digest(asked.target)
        size_bytes = await self._registry.layer(asked.repository.uid, digest)
        if size_bytes is None:
            raise Refused("BLOB_UNKNOWN", 404, f"{asked.repository.name} has no blob {digest}")
        start, end = _range(asked.head.header("range"), size_bytes)
        headers = [
            _VERSION,
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(end - start)),
            ("Docker-Content-Digest", digest),
            ("Accept-Ranges", "bytes"),
            ("ETag", f'"{digest}"'),
        ]
        partial = end - start < size_bytes
        if partial:
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size_bytes}"))
        status = 206 if partial else 200
        if asked.head.method == "HEAD":
            return Response(status, headers)
        return Response(status, headers, await self._layers.outflow(digest, start, end))

    async def _begin(self, asked: _Asked) -> Response:
        uid = asked.repository.uid
        if "mount" in asked.query:
            digest = _digest(asked.query["mount"])
            if await self._mount(asked, digest):
                return _created(asked.path, digest)
        if "digest" in asked.query:
            expected = _digest(asked.query["digest"])
            upload = await self._layers.begin(uid)
            return await self._complete(asked, upload.id, expected)
        upload = await self._layers.begin(uid)
        return _accepted(asked.path, upload.id, 0)

    async def _mount(self, asked: _Asked, digest: str) -> bool:
        """Whether another repository's blob is ours now; one that the caller may not read is as if it were not."""
        name = asked.query.get("from", "")
        caller = self._authentication.check_login(asked.head)
        if not name or caller is None:
            return False
        place = asked.repository.place
        try:
            source = await self._repository(caller, place, name, "GetDownloadUrlForLayer")
        except (Refused, AccessDenied, Invalid):
            return False
        return await self._registry.mount(asked.repository.uid, source.uid, digest)

    async def _status(self, asked: _Asked) -> Response:
        async with self._layers.upload(asked.repository.uid, asked.target) as upload:
            response = _accepted(asked.path, upload.id, upload.size_bytes)
        return Response(204, response.headers)

    async def _append(self, asked: _Asked) -> Response:
        async with self._layers.upload(asked.repository.uid, asked.target) as upload:
            names.chunk_start(asked.head.header("content-range"), upload.size_bytes)
            await self._layers.take_in(upload, asked.receive)
            return _accepted(asked.path, upload.id, upload.size_bytes)

    async def _finish(self, asked: _Asked) -> Response:
        return await self._complete(asked, asked.target, _digest(asked.query.get("digest", "")))

    async def _complete(self, asked: _Asked, upload_id: str, expected: str) -> Response:
        async with self._layers.upload(asked.repository.uid, upload_id) as upload:
            names.chunk_start(asked.head.header("content-range"), upload.size_bytes)
            await self._layers.take_in(upload, asked.receive)
            if upload.digest != expected:
                await self._layers.discard(upload)
                why = f"the bytes that came have the digest {upload.digest}, not {expected}"
                raise Invalid("blob", why, rule="DIGEST_INVALID")
            await self._registry.add_layer(upload)
        return _created(asked.path, expected)

    async def _cancel(self, asked: _Asked) -> Response:
        async with self._layers.upload(asked.repository.uid, asked.target) as upload:
            await self._layers.discard(upload)
        return Response(204, [_VERSION])


def _told(error: ClaryError) -> Response:
    """A domain error in the protocol's words."""
    match error:
        case AccessDenied():
            return _error("DENIED", 403, str(error))
        case NotFound(kind="upload"):
            return _error("BLOB_UPLOAD_UNKNOWN", 404, str(error))
        case NotFound(kind="blob"):
            return _error("BLOB_UNKNOWN", 404, str(error))
        case LimitExceeded():
            return _error("TOOMANYREQUESTS", 429, str(error), (("Retry-After", "1"),))
        case StoreFailed():
            return _error("UNAVAILABLE", 503, f"{error}; try again", (("Retry-After", "1"),))
        case Invalid(rule=rule) if rule in _CODES:
            return _error(rule if rule.isupper() else "DENIED", _CODES[rule], str(error))
        case _:
            return _error("UNSUPPORTED", 400, str(error))


def _error(code: str, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    return Response(status, [_VERSION, ("Content-Type", "application/json"), *headers], body)


def _target(text: str) -> str:
    """A tag or a digest. Raises: Invalid."""
    if ":" in text:
        return _digest(text)
    if names.TAG.fullmatch(text) is None:
        raise Invalid("tag", f'"{text[:200]}" is no tag', rule="TAG_INVALID")
    return text


def _digest(text: str) -> str:
    if not names.is_digest(text):
        raise Invalid("digest", f'"{text[:200]}" is no sha256 digest', rule="DIGEST_INVALID")
    return text


def _range(header: str | None, size_bytes: int) -> tuple[int, int]:
    """[start, end) that a Range header asks for; all of it where there is none that can be read.

    Raises: Refused when there is no such byte.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header or "")
    if match is None or not (match[1] or match[2]):
        return 0, size_bytes
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    else:
        start, end = max(size_bytes - int(match[2]), 0), size_bytes
    if start >= end:
        raise Refused(
            "RANGE_INVALID", 416, f"{header} of {size_bytes} bytes", (("Content-Range", f"bytes */{size_bytes}"),)
        )
    return start, end


def _page(query: Mapping[str, str]) -> tuple[int, str]:
    """(how many, after which) of a list. Raises: Refused."""
    text = query.get("n", str(PAGE))
    if not text.isdigit() or not int(text[:9]) > 0:
        raise Refused("PAGINATION_NUMBER_INVALID", 400, f"n={text[:40]} is no number of entries")
    return min(int(text[:9]), PAGE), query.get("last", "")


def _listed(path: str, member: str, found: list[str], limit: int, more: dict[str, Any]) -> Response:
    """A page; one entry beyond it tells that there is a next."""
    headers = [_VERSION, ("Content-Type", "application/json")]
    if len(found) > limit:
        found = found[:limit]
        headers.append(("Link", f'<{path}?n={limit}&last={quote(found[-1], safe="")}>; rel="next"'))
    return Response(200, headers, json.dumps({**more, member: found}).encode())


def _manifest_headers(image: Image) -> list[tuple[str, str]]:
    return [
        _VERSION,
        ("Content-Type", image.media_type),
        ("Content-Length", str(len(image.body))),
        ("Docker-Content-Digest", image.digest),
        ("ETag", f'"{image.digest}"'),
    ]


def _accepted(path: str, upload_id: str, size_bytes: int) -> Response:
    headers = [
        _VERSION,
        ("Location", f"{path}/blobs/uploads/{upload_id}"),
        ("Range", f"0-{max(0, size_bytes - 1)}"),
        ("Docker-Upload-UUID", upload_id),
        ("OCI-Chunk-Min-Length", "1"),
    ]
    return Response(202, headers)


def _created(path: str, digest: str) -> Response:
    return Response(201, [_VERSION, ("Location", f"{path}/blobs/{digest}"), ("Docker-Content-Digest", digest)])
