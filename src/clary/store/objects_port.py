"""The object store as the rest of the control plane needs it: a port with two sides.

`store.objects.ObjectStore` is our own, on a folder; `store.external.objects.ExternalObjects` is somebody else's S3.
Everything blocks and may be called from any thread. A store that is lost shows as StoreFailed within bounded time; what
failed may then be asked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

from clary.store.object_info import ObjectInfo, ObjectMetadata, Page
from clary.store.object_reader import FileStretch


class Reader(Protocol):
    """An object's bytes as they were when it was opened. `stretches` are files, unchanged until it is closed, that may
    be read or linked to; none for an empty object."""

    @property
    def info(self) -> ObjectInfo: ...

    @property
    def stretches(self) -> tuple[FileStretch, ...]: ...

    @property
    def size_bytes(self) -> int: ...

    def chunks(self, chunk_bytes: int = ...) -> Iterator[bytes]:
        """The bytes, in order, at most `chunk_bytes` at once."""
        ...

    def read(self) -> bytes:
        """All of it; for what is known to be small."""
        ...

    def close(self) -> None:
        """Lets go of the files. Twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Session(Protocol):
    """An object on its way in: nothing shows before `commit` has returned, and without it nothing ever does."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends. Raises: StoreFailed."""
        ...

    def commit(self, *, content_id: str = "") -> object:
        """Makes it the object. A `content_id` is told by `head` from then on.

        Raises: NotFound, AccessDenied, StoreFailed (then it may have become the object, or not)."""
        ...

    def abort(self) -> None:
        """Throws the bytes away; nothing when the session has ended."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Objects(Protocol):
    """Buckets and keys. Raises, from any operation: StoreFailed; AccessDenied where the store has a say of its own."""

    def head_bucket(self, name: str) -> object:
        """Raises: NotFound."""
        ...

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Raises: NotFound."""
        ...

    def open(self, bucket: str, key: str) -> Reader:
        """A reader, to be closed. Raises: NotFound."""
        ...

    def begin_put(self, bucket: str, key: str, *, metadata: ObjectMetadata, hash_sha256: bool = True) -> Session:
        """A session. Raises: NotFound, here or in its commit."""
        ...

    def list_objects(self, bucket: str, *, prefix: str = "", start_after: str = "", max_keys: int = 1000) -> Page:
        """Keys after `start_after`, in UTF-8 byte order. Raises: NotFound."""
        ...

    def close(self) -> None:
        """Twice is fine."""
        ...
