"""SageMaker's words for domain errors: a missing endpoint is a ValidationException whose text clients match."""

from __future__ import annotations

from clary.domain.errors import AlreadyExists, ClaryError, Invalid, NotFound, NotReady
from clary.services.base import common_error
from clary.wire.errors import WireError

# Jobs have words of their own.
JOBS = {"transform-job": "transform job"}
KINDS = {"endpoint": "endpoint", "endpoint-config": "endpoint configuration", "model": "model"} | {
    "inference-component": "inference component"
}


def wire_error(error: ClaryError) -> WireError:
    match error:
        case NotFound(kind=kind, name=name) if kind in JOBS:
            return WireError(
                "ValidationException", 400, f"Could not find requested job with name: {name.rpartition('/')[2]}"
            )
        case AlreadyExists(kind=kind, name=name) if kind in JOBS:
            word = JOBS[kind]
            return WireError(
                "ResourceInUse",
                400,
                f"{word.capitalize()} names must be unique within an AWS account and region, and a {word} with this "
                f"name already exists ({name})",
            )
        case NotReady(kind=kind, state=state) if kind in JOBS:
            return WireError(
                "ValidationException", 400, f"The request was rejected because the {JOBS[kind]} is in status {state}."
            )
        case NotFound(kind=kind, name=name):
            return WireError("ValidationException", 400, f'Could not find {KINDS.get(kind, kind)} "{name}".')
        case AlreadyExists(kind=kind, name=name):
            return WireError(
                "ValidationException", 400, f'Cannot create already existing {KINDS.get(kind, kind)} "{name}".'
            )
        case NotReady(kind="inference-component", name=name, state=state):
            text = f'Cannot update in-progress inference component "{name}" (it is {state}).'
            return WireError("ValidationException", 400, text)
        case NotReady(name=name):
            return WireError("ValidationException", 400, f'Cannot update in-progress endpoint "{name}".')
        case Invalid(why=why):
            return WireError("ValidationException", 400, why)
        case _:
            return common_error(error)
