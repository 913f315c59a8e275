"""The `s3` service: its rooms put together over one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from clary.domain.errors import ClaryError
from clary.services.base import Handler
from clary.services.s3 import errors
from clary.services.s3.buckets import Buckets
from clary.services.s3.copies import Copies
from clary.services.s3.lanes import Lanes
from clary.services.s3.listing import Listing
from clary.services.s3.multipart import Multipart
from clary.services.s3.notifications import Exists, Notifications
from clary.services.s3.objects import Objects
from clary.services.s3.properties import Properties
from clary.services.s3.tagging import Tagging
from clary.store.objects import ObjectStore
from clary.wire.errors import WireError


class S3:
    """All operations that are served. `close` ends its threads; the store is the caller's to close, afterwards."""

    name = "s3"

    def __init__(self, objects: ObjectStore, account: str, now: Callable[[], datetime], exists: Exists) -> None:
        self._lanes = Lanes()
        rooms = [
            *(
                room(objects, self._lanes, account, now)
                for room in (Buckets, Objects, Copies, Listing, Multipart, Tagging, Properties)
            ),
            Notifications(objects, self._lanes, account, now, exists),
        ]
        self.operations: Mapping[str, Handler] = {
            name: handler for room in rooms for name, handler in room.operations.items()
        }

    def wire_error(self, error: ClaryError) -> WireError:
        return errors.wire_error(error)

    def close(self) -> None:
        self._lanes.close()
