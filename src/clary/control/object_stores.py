"""Which object store is used: our own on a folder, or an external S3; and the S3 that clients see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING

from clary.paths import Layout
from clary.services.s3.notifications import Exists
from clary.services.s3.service import S3
from clary.settings import Settings
from clary.store.external.keys import KeyFile
from clary.store.objects import ObjectStore
from clary.store.objects_port import Objects

if TYPE_CHECKING:
    from clary.gateway.external_store import ExternalStore

WAITING_THREADS = 64


class ObjectStores:
    """One of the two. `own` and `s3` are None with an external store, `external` is with our own."""

    def __init__(self, layout: Layout, settings: Settings, now: Callable[[], datetime], exists: Exists) -> None:
        self._layout = layout
        self.own: ObjectStore | None = None
        self.s3: S3 | None = None
        self.external: ExternalStore | None = None
        if not settings.s3_endpoint_url:
            self.own = ObjectStore(layout.objects, now=now)
            self.s3 = S3(self.own, settings.account, now, exists)
            self.objects: Objects = self.own
            return
        # Here, because they cost memory and time that a clary with a store of its own need not spend.
        from clary.gateway.external_store import ExternalStore
        from clary.store.external.client import ExternalClient
        from clary.store.external.objects import ExternalObjects, Probe

        url, region = settings.s3_endpoint_url, settings.s3_region
        key_file = KeyFile(layout.data, settings.s3_credentials_file)
        self.objects = ExternalObjects(ExternalClient(url, region, key_file), layout.fetched)
        self.external = ExternalStore(url, region, key_file, settings.account, now)
        self._probe = Probe(ExternalClient(url, region, key_file, tries=1, read_s=5.0))
        # asyncio's own few threads would all soon wait for a store that is lost, and everything else for them.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING_THREADS, "control"))

    async def look(self) -> dict[str, str]:
        """{"state": "ok", "note" or "missing", "detail": which store, and whether it answers}."""
        if self.external is None:
            return {"state": "ok", "detail": f"our own, {self._layout.objects}"}
        state, detail = await asyncio.to_thread(self._probe.look)
        return {"state": state, "detail": detail}

    def close(self) -> None:
        if self.s3 is not None:
            self.s3.close()
        if self.external is not None:
            self.external.close()
            self._probe.close()
        self.objects.close()
