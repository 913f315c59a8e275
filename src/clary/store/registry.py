"""What the registry holds: images, tags and layers of each repository, and whose blobs' files may go.

A repository is a resource (kind "ecr-repository"); its rows hang on its uid. A blob's file is there once and handed out
by every repository that has a row for it. Rows are changed and files placed or removed under one lock, in the order in
which a crash leaves at worst a file that no row names: `sweep`, at the start, removes those.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from clary.domain.container_image import Manifest, is_digest, parse_manifest
from clary.domain.errors import Invalid, NotFound, StoreFailed
from clary.store.database import Database
from clary.store.layers import LayerFiles, Upload
from clary.store.schema import registry_images as images
from clary.store.schema import registry_layers as layers
from clary.store.schema import registry_references as references
from clary.store.schema import registry_tags as tags_table

log = logging.getLogger(__name__)

KIND = "ecr-repository"
CARE_EVERY_S = 3600.0
# A layer that no image names is kept so long: its image may still be on its way.
LAYER_KEPT_S = 24 * 3600
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Image:
    """One manifest in a repository. `tags` are sorted."""

    digest: str
    media_type: str
    artifact_type: str
    body: bytes
    size_bytes: int
    pushed_at: datetime
    tags: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        return parse_manifest(self.body, self.media_type)


class Registry:
    """See the module."""

    def __init__(self, database: Database, files: LayerFiles, now: Callable[[], datetime]) -> None:
        self._database = database
        self.files = files
        self._now = now
        self._moving = asyncio.Lock()  # held while rows and files of blobs change together

    # -- layers ----------------------------------------------------------------------------------

    async def layer(self, repository: int, digest: str) -> int | None:
        """The size of a blob that the repository holds, in bytes."""
        query = select(layers.c.size_bytes).where(layers.c.repository == repository, layers.c.digest == digest)
        return await self._database.read(lambda c: c.execute(query).scalar_one_or_none())

    async def add_layer(self, upload: Upload) -> None:
        """Places an upload whose digest was checked. Raises: StoreFailed."""
        async with self._moving:
            digest, size_bytes = upload.digest, upload.size_bytes
            await asyncio.to_thread(self.files.place, upload)
            await self._database.write(lambda c: _add_layer(c, upload.repository, digest, size_bytes, self._us()))

    async def mount(self, repository: int, source: int, digest: str) -> bool:
        """Lends a blob of another repository; False when that one does not hold it."""

        def work(connection: Connection) -> bool:
            query = select(layers.c.size_bytes).where(layers.c.repository == source, layers.c.digest == digest)
            size_bytes = connection.execute(query).scalar_one_or_none()
            if size_bytes is not None:
                _add_layer(connection, repository, digest, size_bytes, self._us())
            return size_bytes is not None

        async with self._moving:
            return await self._database.write(work)

    # -- images ----------------------------------------------------------------------------------

    async def put_image(
        self, repository: int, digest: str, body: bytes, manifest: Manifest, tag: str, immutable: bool
    ) -> bool:
        """Keeps a manifest, and moves `tag` ("" for none) to it; False when all of that was so already.

        Raises: Invalid (MANIFEST_BLOB_UNKNOWN, TAG_INVALID).
        """

        def work(connection: Connection) -> bool:
            named = {one.digest for one in (*manifest.blobs, *manifest.manifests)}
            lacking = named - _held(connection, repository, bool(manifest.manifests))
            if lacking:
                raise Invalid("manifest", f"{sorted(lacking)[0]} was not pushed", rule="MANIFEST_BLOB_UNKNOWN")
            before = _digest_of(connection, repository, tag) if tag else None
            if immutable and before not in (None, digest):
                why = f"The image tag '{tag}' already exists and cannot be overwritten: the repository is immutable."
                raise Invalid("tag", why, rule="TAG_INVALID")
            known = _find(connection, repository, digest) is not None
            if not known:
                _add_image(connection, repository, digest, body, manifest, named, self._us())
            if tag and before is None:
                connection.execute(insert(tags_table).values(repository=repository, tag=tag, digest=digest))
            elif tag:
                connection.execute(update(tags_table).where(_tag(repository, tag)).values(digest=digest))
            return not (known and (not tag or before == digest))

        return await self._database.write(work)

    async def image(self, repository: int, target: str) -> Image | None:
        """By tag or digest."""

        def work(connection: Connection) -> Image | None:
            digest = target if is_digest(target) else _digest_of(connection, repository, target)
            return None if digest is None else _find(connection, repository, digest)

        return await self._database.read(work)

    async def images(self, repository: int) -> list[Image]:
        """All of a repository, oldest first."""

        def work(connection: Connection) -> list[Image]:
            query = select(images.c.digest).where(images.c.repository == repository).order_by(images.c.pushed_us)
            found = (_find(connection, repository, digest) for digest in connection.execute(query).scalars().all())
            return [one for one in found if one is not None]

        return await self._database.read(work)

    async def tags(self, repository: int, after: str, limit: int) -> list[str]:
        """At most `limit` tags that follow `after`, in order."""
        query = (
            select(tags_table.c.tag)
            .where(tags_table.c.repository == repository, tags_table.c.tag > after)
            .order_by(tags_table.c.tag)
            .limit(limit)
        )
        return await self._database.read(lambda c: list(c.execute(query).scalars().all()))

    async def delete_image(self, repository: int, digest: str, tag: str) -> list[tuple[str, str]]:
        """Deletes a tag (with its last one the image goes, too) or, by digest, an image and all its tags.

        The (digest, tag) pairs that went. Raises: NotFound, Invalid (ImageTagDoesNotMatchDigest,
        ImageReferencedByManifestList).
        """

        def work(connection: Connection) -> tuple[list[tuple[str, str]], list[str]]:
            meant = _digest_of(connection, repository, tag) if tag else digest
            if tag and digest and meant is not None and meant != digest:
                raise Invalid("image", f"the tag {tag} is not that of {digest}", rule="ImageTagDoesNotMatchDigest")
            found = None if meant is None else _find(connection, repository, meant)
            if found is None:
                raise NotFound("image", tag or digest)
            gone = (tag,) if tag and not digest else found.tags
            if set(gone) != set(found.tags):
                connection.execute(delete(tags_table).where(_tag(repository, tag)))
                return [(found.digest, tag)], []
            orphans = _remove_image(connection, repository, found, self._us())
            return [(found.digest, one) for one in gone] or [(found.digest, "")], orphans

        return await self._collecting(work)

    async def delete_repository(self, repository: int) -> None:
        """Everything in it; the resource itself is the caller's to remove, before."""

        def work(connection: Connection) -> tuple[None, list[str]]:
            query = select(layers.c.digest).where(layers.c.repository == repository)
            candidates = connection.execute(query).scalars().all()
            for table in (images, tags_table, layers, references):
                connection.execute(delete(table).where(table.c.repository == repository))
            return None, _orphans(connection, candidates)

        await self._collecting(work)
        await asyncio.to_thread(self.files.discard_all, repository)

    async def care(self) -> None:
        """For ever: `sweep` once, then uploads that nobody goes on with are given up."""
        while True:
            try:
                gone = await self.sweep()
                log.info("event=registry_swept files=%d", gone)
                while True:
                    await asyncio.sleep(CARE_EVERY_S)
                    await asyncio.to_thread(self.files.expire)
            except (OSError, StoreFailed) as error:
                log.warning("event=registry_not_swept reason=%s", error)  # the next turn tries again
                await asyncio.sleep(CARE_EVERY_S)

    async def sweep(self) -> int:
        """At the start: files that no row names, and uploads that nobody goes on with; how many files went."""

        def strangers() -> list[str]:
            lying = set(self.files.all())
            held = self._database.read_now(lambda c: set(c.execute(select(layers.c.digest).distinct()).scalars().all()))
            gone = sorted(lying - held)
            self.files.remove(gone)
            self.files.expire()
            return gone

        async with self._moving:
            return len(await asyncio.to_thread(strangers))

    async def _collecting(self, work: Callable[[Connection], tuple[T, list[str]]]) -> T:
        """Runs a transaction that also tells whose files may go, and removes them."""
        async with self._moving:
            result, orphans = await self._database.write(work)
            await asyncio.to_thread(self.files.remove, orphans)
        return result

    def _us(self) -> int:
        return round(self._now().timestamp() * 1_000_000)


def _add_layer(connection: Connection, repository: int, digest: str, size_bytes: int, now_us: int) -> None:
    where = (layers.c.repository == repository, layers.c.digest == digest)
    if connection.execute(update(layers).where(*where).values(added_us=now_us)).rowcount == 0:
        row = insert(layers).values(repository=repository, digest=digest, size_bytes=size_bytes, added_us=now_us)
        connection.execute(row)


def _held(connection: Connection, repository: int, manifests: bool) -> set[str]:
    table = images if manifests else layers
    return set(connection.execute(select(table.c.digest).where(table.c.repository == repository)).scalars().all())


def _tag(repository: int, tag: str) -> ColumnElement[bool]:
    return (tags_table.c.repository == repository) & (tags_table.c.tag == tag)


def _digest_of(connection: Connection, repository: int, tag: str) -> str | None:
    return connection.execute(select(tags_table.c.digest).where(_tag(repository, tag))).scalar_one_or_none()


def _find(connection: Connection, repository: int, digest: str) -> Image | None:
    query = select(images).where(images.c.repository == repository, images.c.digest == digest)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    where = (tags_table.c.repository == repository, tags_table.c.digest == digest)
    tags = connection.execute(select(tags_table.c.tag).where(*where).order_by(tags_table.c.tag)).scalars().all()
    return Image(
        row.digest,
        row.media_type,
        row.artifact_type,
        row.body,
        row.size_bytes,
        datetime.fromtimestamp(row.pushed_us / 1_000_000, UTC),
        tuple(tags),
    )


def _add_image(
    connection: Connection,
    repository: int,
    digest: str,
    body: bytes,
    manifest: Manifest,
    named: Iterable[str],
    now_us: int,
) -> None:
    row = insert(images).values(
        repository=repository,
        digest=digest,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        body=body,
        size_bytes=manifest.size_bytes,
        pushed_us=now_us,
    )
    connection.execute(row)
    for target in named:
        connection.execute(insert(references).values(repository=repository, image=digest, target=target))


def _remove_image(connection: Connection, repository: int, image: Image, now_us: int) -> list[str]:
    """The digests whose files nothing needs any more. Raises: Invalid (ImageReferencedByManifestList)."""
    at = references.c
    holders = select(at.image).where(at.repository == repository, at.target == image.digest)
    holder = connection.execute(holders.limit(1)).scalar_one_or_none()
    if holder is not None:
        why = f"{image.digest} is referenced by the manifest list {holder}"
        raise Invalid("image", why, rule="ImageReferencedByManifestList")
    own = connection.execute(select(at.target).where(at.repository == repository, at.image == image.digest))
    targets = set(own.scalars().all())
    connection.execute(delete(references).where(at.repository == repository, at.image == image.digest))
    connection.execute(
        delete(tags_table).where(tags_table.c.repository == repository, tags_table.c.digest == image.digest)
    )
    connection.execute(delete(images).where(images.c.repository == repository, images.c.digest == image.digest))
    used = select(at.target).where(at.repository == repository)
    unused = select(layers).where(layers.c.repository == repository, layers.c.digest.not_in(used))
    before_us = now_us - LAYER_KEPT_S * 1_000_000
    gone = [row.digest for row in connection.execute(unused) if row.digest in targets or row.added_us < before_us]
    for digest in gone:
        connection.execute(delete(layers).where(layers.c.repository == repository, layers.c.digest == digest))
    return _orphans(connection, gone)


def _orphans(connection: Connection, digests: Sequence[str]) -> list[str]:
    """Those that no repository holds any more."""
    return [
        digest
        for digest in digests
        if connection.execute(select(layers.c.digest).where(layers.c.digest == digest).limit(1)).first() is None
    ]
