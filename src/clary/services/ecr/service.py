"""The `ecr` service: its rooms put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clary.domain.errors import AlreadyExists, ClaryError, InUse, Invalid, LimitExceeded, NotFound, Unsupported
from clary.services.base import Handler, common_error
from clary.services.ecr.room import Room
from clary.store.registry import KIND
from clary.wire.errors import WireError


class Ecr:
    """All operations that are served."""

    name = "ecr"

    def __init__(self, rooms: Sequence[Room], account: str) -> None:
        self._account = account
        self.operations: Mapping[str, Handler] = {
            name: handler for room in rooms for name, handler in room.operations.items()
        }

    def wire_error(self, error: ClaryError) -> WireError:
        in_registry = f"in the registry with id '{self._account}'"
        match error:
            case NotFound(kind="image"):
                text = f"The image with imageId '{error.name}' does not exist within the repository {in_registry}"
                return WireError("ImageNotFoundException", 400, text)
            case NotFound(kind="registry"):
                text = f"The registry with id '{error.name}' does not exist; this server's is '{self._account}'"
                return WireError("RegistryNotFoundException", 400, text)
            case NotFound():
                text = f"The repository with name '{error.name}' does not exist {in_registry}"
                return WireError("RepositoryNotFoundException", 400, text)
            case AlreadyExists(kind=kind) if kind == KIND:
                name = error.name.partition("/")[2]
                text = f"The repository with name '{name}' already exists {in_registry}"
                return WireError("RepositoryAlreadyExistsException", 400, text)
            case InUse():
                name = f"The repository with name '{error.name}' {in_registry}"
                text = f"{name} cannot be deleted because it still contains images"
                return WireError("RepositoryNotEmptyException", 400, text)
            case LimitExceeded():
                return WireError("LimitExceededException", 400, str(error))
            case Unsupported():
                return WireError("InvalidParameterException", 400, str(error))
            case Invalid():
                return WireError("InvalidParameterException", 400, str(error))
            case _:
                return common_error(error, invalid="InvalidParameterException")
