"""What every service room shares: who calls, how a page is cut, and how a domain error becomes an AWS error.

A service is a table from operation name to handler; a handler gets the call's context and its checked members (by
botocore's names) and returns the answer's members. It checks, stores and tells; it starts and waits for nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from clary.domain.errors import AccessDenied, ClaryError, LimitExceeded, StoreFailed, Unsupported
from clary.domain.identity import Caller
from clary.domain.names import Place
from clary.wire.errors import WireError

Members = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """One call: where, by whom, and the client's own id of it (the same for its retries)."""

    place: Place
    caller: Caller
    request_id: str
    token: str = ""
    base_url: str = ""  # as the client addressed us, for URLs that go back: "http://127.0.0.1:8787"
    authorize: Callable[[str, str], None] = lambda action, resource: None  # raises AccessDenied


Handler = Callable[[Context, Members], Awaitable[Members]]


class Service(Protocol):
    """One room. `name` is botocore's service name."""

    name: str
    operations: Mapping[str, Handler]

    def wire_error(self, error: ClaryError) -> WireError:
        """The service's own words for a domain error."""
        ...


def common_error(
    error: ClaryError, denied: str = "AccessDeniedException", invalid: str = "ValidationException"
) -> WireError:
    """What services agree on; `denied` and `invalid` are the service's codes."""
    match error:
        case AccessDenied():
            return WireError(denied, 403, str(error))
        case StoreFailed():
            return WireError("ServiceUnavailable", 503, f"{error}; try again", headers={"Retry-After": "1"})
        case LimitExceeded():
            return WireError("ResourceLimitExceeded", 400, str(error))
        case Unsupported():
            return WireError("UnsupportedOperation", 400, str(error))
        case _:
            return WireError(invalid, 400, str(error))


def page_token(position: list[Any] | None) -> str | None:
    """An opaque token for the start of the next page; None at the end."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def page_position(token: str | None) -> list[Any] | None:
    """The position in a token that we gave. Raises: WireError for any other text."""
    if token is None:
        return None
    try:
        position = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, binascii.Error):
        position = None
    if not isinstance(position, list) or len(position) != 2:
        raise WireError("ValidationException", 400, "NextToken is not one that an earlier answer gave.")
    return position


def present(**members: Any) -> Members:
    """The members that have a value: AWS leaves out what is not there, it does not say null."""
    return {name: value for name, value in members.items() if value is not None}
