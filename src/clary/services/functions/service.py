"""The `lambda` service: its rooms put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clary.domain.errors import AlreadyExists, ClaryError, Invalid, LimitExceeded, NotFound, NotReady, Unsupported
from clary.services.base import Handler, common_error
from clary.services.functions.room import Room
from clary.wire.errors import WireError

_STATUS = {"RequestTooLargeException": 413, "PreconditionFailedException": 412}


class Lambda:
    """All operations that are served."""

    name = "lambda"

    def __init__(self, rooms: Sequence[Room]) -> None:
        self.operations: Mapping[str, Handler] = {
            name: handler for room in rooms for name, handler in room.operations.items()
        }

    def wire_error(self, error: ClaryError) -> WireError:
        match error:
            case NotFound(kind="function"):
                return WireError("ResourceNotFoundException", 404, f"Function not found: {error.name}")
            case NotFound():
                return WireError(
                    "ResourceNotFoundException", 404, f"The resource you requested does not exist: {error}"
                )
            case AlreadyExists(kind="function"):
                return WireError(
                    "ResourceConflictException", 409, f"Function already exist: {error.name.split('/')[-1]}"
                )
            case AlreadyExists():
                text = f"The {error.kind} id ({error.name}) provided already exists. Please provide a new one."
                return WireError("ResourceConflictException", 409, text)
            case NotReady():
                text = (
                    f"The operation cannot be performed at this time. The function is {error.state}: {error.next_step}"
                )
                return WireError("ResourceConflictException", 409, text)
            case LimitExceeded():
                return WireError(
                    "TooManyRequestsException", 429, f"Rate Exceeded. {error}", headers={"Retry-After": "1"}
                )
            case Unsupported():
                return WireError("InvalidParameterValueException", 400, str(error))
            case Invalid(why=why, rule=rule):
                return WireError(rule or "InvalidParameterValueException", _STATUS.get(rule, 400), why)
            case _:
                return common_error(error, invalid="InvalidParameterValueException")
