"""Captured calls, from the proxy's files to the object store. A file goes when its object is there.

The object's key is a function of the file's name and facts, so that a death between the two delivers the same object
again and no second one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import datetime
from pathlib import Path

from clary.domain import capture
from clary.domain.errors import ClaryError, NotFound
from clary.domain.names import parse_s3_uri
from clary.failpoints import failpoint
from clary.store.object_info import ObjectMetadata
from clary.store.objects_port import Objects

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
CONTENT_TYPE = "application/jsonlines"


class CaptureDelivery:
    """Looks every five seconds."""

    def __init__(self, folder: Path, objects: Objects) -> None:
        self._folder = folder
        self._objects = objects
        self._refused: set[str] = set()  # buckets that are not there, told once

    async def run(self) -> None:
        while True:
            for path in sorted(self._folder.glob("*.ready")) if self._folder.is_dir() else ():
                try:
                    await asyncio.to_thread(self._deliver, path)
                except ClaryError as error:
                    log.warning("file=%s event=capture_not_delivered reason=%s", path.name, error)
            await asyncio.sleep(LOOK_EVERY_S)

    def _deliver(self, path: Path) -> None:
        with path.open("rb") as file:
            facts = json.loads(file.readline())
            at = datetime.fromisoformat(facts["at"])
            destination = parse_s3_uri(facts["destination"])
            assert destination is not None  # checked with the endpoint configuration
            where = capture.folder(destination.key, facts["endpoint"], facts["variant"], at).lstrip("/")
            key = f"{where}/{capture.file_name(at, path.stem)}"
            metadata = ObjectMetadata(system={"content-type": CONTENT_TYPE})
            try:
                with self._objects.begin_put(destination.bucket, key, metadata=metadata, hash_sha256=False) as session:
                    while piece := file.read(1 << 20):
                        session.write(piece)
                    session.commit()
            except NotFound:
                if destination.bucket not in self._refused:
                    self._refused.add(destination.bucket)
                    log.warning("bucket=%s event=capture_has_no_bucket next=create it; files wait", destination.bucket)
                return
        self._refused.discard(destination.bucket)
        failpoint("capture.after_put")
        path.unlink()
