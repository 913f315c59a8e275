"""The proxy's own unix socket, for control and the command line.

{"op": "reload"}  -> {"generation": n}      {"op": "park", "region": r, "endpoint": e} -> {"stopped": n}
{"op": "facts"}   -> per fleet: ready, starting, inside, waiting, models by worker
"""

from __future__ import annotations

from typing import Any

from clary.proxy.authentication import Authenticator
from clary.proxy.dispatch import Dispatcher


class Administration:
    """What may be asked of the proxy."""

    def __init__(self, dispatcher: Dispatcher, authenticator: Authenticator) -> None:
        self._dispatcher = dispatcher
        self._authenticator = authenticator

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Raises: ValueError for an unknown op, and for a route table that is refused."""
        match request["op"]:
            case "reload":
                self._authenticator.refresh()
                generation = self._dispatcher.reload()
                if self._dispatcher.table_error:
                    raise ValueError(self._dispatcher.table_error)
                return {"generation": generation}
            case "park":
                return {"stopped": self._dispatcher.park(request["region"], request["endpoint"])}
            case "facts":
                return self._dispatcher.facts()
            case other:
                raise ValueError(f"unknown op {other!r}")
