"""A function's archive unpacked behind walls, once for all functions of the same bytes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from clary.controllers.turns import Turns
from clary.controllers.unpacking import Kind, Unpacking, fresh, refusal, seal
from clary.domain.errors import Invalid
from clary.domain.functions import MAX_CODE_BYTES
from clary.store.function_code import FunctionCode

ZIP = Kind(
    ("-c", "import sys; sys.path.insert(0, '{root}'); from clary_worker.zip_archive import main; sys.exit(main())"),
    memory_bytes=1 << 30,
    limit_s=120.0,
)


class UnpackedCode:
    """Remembers nothing but what lies on the disk."""

    def __init__(self, code: FunctionCode, unpacking: Unpacking) -> None:
        self._code = code
        self._unpacking = unpacking
        self._turns = Turns()

    async def provide(self, sha256: str) -> Path:
        """The folder with the code. Raises: Invalid with the reason when the archive is refused, StoreFailed."""
        folder = self._code.unpacked(sha256)
        async with self._turns.of(sha256):
            if not folder.is_dir():
                await self._extract(self._code.archive(sha256), folder)
        return folder

    async def _extract(self, archive: Path, folder: Path) -> None:
        temporary = await asyncio.to_thread(fresh, folder)
        try:
            why = refusal(await self._unpacking.run(ZIP, archive, temporary, MAX_CODE_BYTES))
            if why:
                raise Invalid("ZipFile", f"Could not unzip uploaded file: {why}")
            await asyncio.to_thread(seal, temporary, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, temporary, True)
