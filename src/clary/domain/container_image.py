"""Container images by name: references, digests, manifests, and the ranges in which blobs travel. Pure.

A reference is `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]` (distribution specification, "Pulling manifests"). Our own
registry goes by AWS's name, ACCOUNT.dkr.ecr.REGION.amazonaws.com, and by the addresses that this server listens on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clary.domain.errors import Invalid
from clary.domain.names import is_region

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")  # service model of ecr, RepositoryName
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_REPOSITORY = 256
MAX_MANIFEST_BYTES = 4 << 20  # distribution specification, "Pushing manifests"
MAX_BLOBS = 1000  # of one manifest; the deepest images have about 130 layers

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
INDEXES = frozenset((DOCKER_LIST, OCI_INDEX))
MULTI_MODEL_LABEL = "com.amazonaws.sagemaker.capabilities.multi-models"

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?")
_ECR_HOST = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/(?:\d{1,19}|\*))?")


@dataclass(frozen=True, slots=True)
class Reference:
    """The parts of an image's name; what it lacks is ""."""

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def target(self) -> str:
        """The digest, else the tag, else what no tag means."""
        return self.digest or self.tag or "latest"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One thing that a manifest names. `platform` is "linux/amd64" or "" for none; `foreign`: it lies elsewhere."""

    media_type: str
    digest: str
    size_bytes: int
    platform: str = ""
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image (config and layers) or an index of images (manifests)."""

    media_type: str
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    artifact_type: str = ""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """What must have been uploaded before it."""
        config = () if self.config is None else (self.config,)
        return (*config, *(layer for layer in self.layers if not layer.foreign))

    @property
    def size_bytes(self) -> int:
        """What the image takes in the registry: config and layers, as they were pushed."""
        return sum(one.size_bytes for one in self.blobs)


def check_repository(name: str) -> str:
    """The name. Raises: Invalid (NAME_INVALID)."""
    if not 2 <= len(name) <= MAX_REPOSITORY or REPOSITORY.fullmatch(name) is None:
        raise Invalid("repository", f'"{name[:300]}" is no repository name', rule="NAME_INVALID")
    return name


def is_digest(text: str) -> bool:
    return DIGEST.fullmatch(text) is not None


def parse_reference(image: str) -> Reference | None:
    """None for what names no image."""
    name, at, digest = image.partition("@")
    head, slash, rest = name.partition("/")
    registry = head if slash and ("." in head or ":" in head or head == "localhost") else ""
    path = rest if registry else name
    repository, colon, tag = path.rpartition(":")
    if not colon:
        repository, tag = path, ""
    fits = (
        len(repository) <= MAX_REPOSITORY
        and REPOSITORY.fullmatch(repository) is not None
        and (not registry or _HOST.fullmatch(registry) is not None)
        and (not colon or TAG.fullmatch(tag) is not None)
        and (not at or is_digest(digest))
    )
    return Reference(registry, repository, tag, digest) if fits else None


def own_region(reference: Reference, account: str, region: str, hosts: Iterable[str]) -> str:
    """The region of our registry that a reference names; "" when it is of another registry.

    `region` is where the asker is: an address of ours names no region. `hosts` are those addresses, as "localhost:80".
    """
    match = _ECR_HOST.fullmatch(reference.registry)
    if match is not None:
        return match[2] if match[1] == account and is_region(match[2]) else ""
    return region if reference.registry in hosts else ""


def parse_manifest(body: bytes, content_type: str) -> Manifest:
    """What a manifest says. Raises: Invalid (MANIFEST_INVALID)."""
    if len(body) > MAX_MANIFEST_BYTES:
        raise _invalid(f"it has {len(body)} bytes; at most {MAX_MANIFEST_BYTES} are allowed")
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is not JSON: {error}") from error
    if not isinstance(told, dict) or told.get("schemaVersion") != 2:
        raise _invalid("its schemaVersion is not 2")
    given = content_type.partition(";")[0].strip()
    media_type = told.get("mediaType") or given or (OCI_INDEX if "manifests" in told else OCI_MANIFEST)
    if given and given != "application/json" and media_type != given:
        raise _invalid(f"its mediaType is {media_type}, its Content-Type {given}")
    if media_type in INDEXES:
        return Manifest(
            media_type, manifests=_descriptors(told, "manifests"), artifact_type=_text(told, "artifactType")
        )
    if media_type not in (DOCKER_MANIFEST, OCI_MANIFEST):
        raise _invalid(f"{media_type} is none of {', '.join((DOCKER_MANIFEST, OCI_MANIFEST, *sorted(INDEXES)))}")
    return Manifest(
        media_type,
        _descriptor(told.get("config"), "config"),
        _descriptors(told, "layers"),
        artifact_type=_text(told, "artifactType"),
    )


def of_platform(index: Manifest, platform: str) -> Descriptor | None:
    """The image of an index for a platform, as "linux/amd64"; an index of one image means that one."""
    fitting = [one for one in index.manifests if one.platform == platform]
    if fitting:
        return fitting[0]
    return index.manifests[0] if len(index.manifests) == 1 and not index.manifests[0].platform else None


def chunk_start(content_range: str | None, size_bytes: int) -> None:
    """A chunk must begin where the upload ends. Raises: Invalid (RANGE_INVALID). No range means: here."""
    if content_range is None:
        return
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != size_bytes or int(match[2]) < int(match[1]) - 1:
        raise Invalid(
            "Content-Range", f'"{content_range[:60]}" does not begin at byte {size_bytes}', rule="RANGE_INVALID"
        )


def _invalid(why: str) -> Invalid:
    return Invalid("manifest", why, rule="MANIFEST_INVALID")


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name, "")
    return value if isinstance(value, str) else ""


def _descriptors(told: Mapping[str, Any], name: str) -> tuple[Descriptor, ...]:
    listed = told.get(name)
    if not isinstance(listed, list) or len(listed) > MAX_BLOBS:
        raise _invalid(f"{name} is no list of at most {MAX_BLOBS}")
    return tuple(_descriptor(one, name) for one in listed)


def _descriptor(told: object, name: str) -> Descriptor:
    if not isinstance(told, dict):
        raise _invalid(f"{name} holds no descriptor")
    digest, size = told.get("digest"), told.get("size")
    if not isinstance(digest, str) or not is_digest(digest) or not isinstance(size, int) or not 0 <= size < 1 << 50:
        raise _invalid(f"a descriptor in {name} lacks a sha256 digest or a size")
    media_type = _text(told, "mediaType")
    platform = told.get("platform")
    words = [_text(platform, "os"), _text(platform, "architecture")] if isinstance(platform, dict) else []
    return Descriptor(
        media_type,
        digest,
        size,
        "/".join(words) if all(words) else "",
        foreign="foreign" in media_type or "nondistributable" in media_type,
    )
