"""The files of the registry: blobs under their digests, and uploads that are not yet blobs.

    blobs/<2 hex>/<64 hex>              immutable; written as an upload, flushed, renamed, its folder flushed
    uploads/<repository>/<32 hex>       grows by chunks; its digest runs along, and is read again after a restart

No text from outside takes part in a path but hexadecimal digits that were matched. Everything here blocks: it is called
on threads, an upload by one thread at a time (`Upload.busy`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from clary.domain.container_image import is_digest
from clary.domain.errors import Invalid, LimitExceeded, NotFound, StoreFailed
from clary.store.blobs import sync_folder

MAX_UPLOADS = 1000  # in mind at once
UPLOAD_KEPT_S = 24 * 3600.0  # an upload that nobody went on with for so long is given up
_READ_BYTES = 1 << 20
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


class Upload:
    """A blob that is coming, in any number of requests."""

    def __init__(self, repository: int, upload_id: str, path: Path) -> None:
        self.repository = repository
        self.id = upload_id
        self.path = path
        self.size_bytes = 0
        self.busy = False
        self.touched_s = time.time()
        self._sha256 = hashlib.sha256()
        self._fd: int | None = None

    def read_again(self) -> None:
        """Takes up what a process before this one has written."""
        with self.path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                self._sha256.update(piece)
                self.size_bytes += len(piece)

    def write(self, block: bytes) -> None:
        """Appends. Raises: StoreFailed when the disk refuses; what was written of the block is then cut off again."""
        view = memoryview(block)
        try:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            os.truncate(self.path, self.size_bytes)
            raise StoreFailed("writing a layer", detail=str(error)) from error
        self._sha256.update(block)
        self.size_bytes += len(block)
        self.touched_s = time.time()

    def rest(self) -> None:
        """Between two requests it holds no descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


class LayerFiles:
    """One folder of blobs and uploads."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        for folder in (root, self._blobs, self._uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open: dict[tuple[int, str], Upload] = {}
        self._lock = threading.Lock()

    # -- blobs -----------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        """Where a blob lies. Raises: ValueError for what is no digest."""
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        name = digest.removeprefix("sha256:")
        return self._blobs / name[:2] / name

    def open(self, digest: str) -> tuple[int, int]:
        """(descriptor, size) of a blob, which stays readable when it is removed meanwhile. Raises: NotFound."""
        try:
            descriptor = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound("blob", digest) from error
        return descriptor, os.fstat(descriptor).st_size

    def place(self, upload: Upload) -> None:
        """Makes an upload the blob of its digest, durably. Raises: StoreFailed."""
        upload.rest()
        target = self.path(upload.digest)
        try:
            descriptor = os.open(upload.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._blobs)
            os.rename(upload.path, target)
            sync_folder(target.parent)
        except OSError as error:
            raise StoreFailed("placing a layer", detail=str(error)) from error
        self._forget(upload)

    def remove(self, digests: Iterable[str]) -> None:
        """Those that are gone already are fine."""
        for digest in digests:
            self.path(digest).unlink(missing_ok=True)

    def all(self) -> Iterator[str]:
        """The digests of all blobs that lie here."""
        for shelf in self._blobs.iterdir():
            for file in shelf.iterdir():
                yield f"sha256:{file.name}"

    # -- uploads ---------------------------------------------------------------------------------

    def begin(self, repository: int) -> Upload:
        """An empty upload. Raises: LimitExceeded, StoreFailed."""
        with self._lock:
            if len(self._open) >= MAX_UPLOADS:
                # One that rests is put out of mind: who goes on with it has its file read again.
                resting = [key for key, upload in self._open.items() if not upload.busy]
                if not resting:
                    raise LimitExceeded("uploads under way", maximum=MAX_UPLOADS, asked=MAX_UPLOADS + 1)
                del self._open[min(resting, key=lambda key: self._open[key].touched_s)]
            upload_id = uuid.uuid4().hex
            upload = Upload(repository, upload_id, self._uploads / str(repository) / upload_id)
            self._open[repository, upload_id] = upload
        try:
            upload.path.parent.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(upload.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self._forget(upload)
            raise StoreFailed("beginning an upload", detail=str(error)) from error
        return upload

    def take(self, repository: int, upload_id: str) -> Upload:
        """An upload for one request's use; `give_back` it. Raises: NotFound, Invalid while another request has it."""
        if _UPLOAD_ID.fullmatch(upload_id) is None:
            raise NotFound("upload", upload_id)
        with self._lock:
            upload = self._open.get((repository, upload_id))
            if upload is None:
                upload = Upload(repository, upload_id, self._uploads / str(repository) / upload_id)
                try:
                    upload.read_again()
                except FileNotFoundError as error:
                    raise NotFound("upload", upload_id) from error
                self._open[repository, upload_id] = upload
            if upload.busy:
                raise Invalid("upload", "another request writes to it", rule="BLOB_UPLOAD_INVALID")
            upload.busy = True
        return upload

    def give_back(self, upload: Upload) -> None:
        upload.rest()
        upload.busy = False

    def discard(self, upload: Upload) -> None:
        upload.rest()
        upload.path.unlink(missing_ok=True)
        self._forget(upload)

    def discard_all(self, repository: int) -> None:
        """The repository is gone."""
        with self._lock:
            for key in [key for key in self._open if key[0] == repository]:
                del self._open[key]
        shutil.rmtree(self._uploads / str(repository), ignore_errors=True)

    def expire(self) -> None:
        """Gives up uploads that nobody went on with."""
        before_s = time.time() - UPLOAD_KEPT_S
        for folder in self._uploads.iterdir():
            for file in folder.iterdir():
                with self._lock:
                    upload = self._open.get((int(folder.name), file.name))
                    if (upload is not None and upload.busy) or file.stat().st_mtime > before_s:
                        continue
                    self._open.pop((int(folder.name), file.name), None)
                    file.unlink(missing_ok=True)

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            self._open.pop((upload.repository, upload.id), None)
