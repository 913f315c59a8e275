"""What can go wrong, told as facts.

A domain error names the kind of trouble and carries what a caller needs to act on it; it knows nothing of HTTP, of AWS
error codes or of exit statuses. Each border (an API service, the command line, a controller) turns a kind into its own
words through one table.

    ClaryError
    ├── NotFound             (kind, name)                      it does not exist
    ├── AlreadyExists        (kind, name)                      it exists and must not
    ├── Invalid              (what, why, rule)                 the request breaks a rule; asking again changes nothing
    ├── InUse                (kind, name, by)                  it exists and something still needs it
    ├── LimitExceeded        (limit, maximum, asked, setting)  a limit stands in the way, and the setting that moves it
    ├── NotReady             (kind, name, state, next_step)    later perhaps: it is in a state that forbids this
    ├── Conflict             (what, why)                       two changes met; ask again
    ├── PreconditionFailed   (condition)                       the caller's own condition does not hold
    ├── NotModified          (etag, last_modified_at)          the caller's copy is current
    ├── AccessDenied         (action, resource, reason)        the caller may not
    ├── Unsupported          (what, why)                       known, and refused here on purpose
    ├── Corrupt              (kind, name, detail)              what is stored is not what was stored
    └── StoreFailed          (what, detail)                    disk or database refused; the outcome may be unknown
"""

from __future__ import annotations

from datetime import datetime


class ClaryError(Exception):
    """Any trouble that clary foresaw. `str(error)` is a sentence for people."""


class NotFound(ClaryError):
    """A named thing does not exist."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f'{kind} "{name}" does not exist')
        self.kind = kind
        self.name = name


class AlreadyExists(ClaryError):
    """A named thing exists and the request needs it not to."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f'{kind} "{name}" already exists')
        self.kind = kind
        self.name = name


class Invalid(ClaryError):
    """A request breaks a rule.

    `rule` is a stable word for the rule, in the vocabulary of the service that owns it ("BadDigest", "InvalidPart"),
    so that a border can choose its code without reading the sentence. Empty when there is no finer word.
    """

    def __init__(self, what: str, why: str, *, rule: str = "") -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.rule = rule


class InUse(ClaryError):
    """A thing cannot go or change because something still needs it."""

    def __init__(self, kind: str, name: str, *, by: str) -> None:
        super().__init__(f'{kind} "{name}" is in use by {by}')
        self.kind = kind
        self.name = name
        self.by = by


class LimitExceeded(ClaryError):
    """A limit stands in the way. `setting` names what moves it; empty when nothing does."""

    def __init__(self, limit: str, *, maximum: int, asked: int, setting: str = "") -> None:
        hint = f"; the setting {setting} moves it" if setting else ""
        super().__init__(f"{limit}: {asked} asked, {maximum} allowed{hint}")
        self.limit = limit
        self.maximum = maximum
        self.asked = asked
        self.setting = setting


class NotReady(ClaryError):
    """A thing exists in a state that forbids the request for now."""

    def __init__(self, kind: str, name: str, *, state: str, next_step: str = "") -> None:
        super().__init__(f'{kind} "{name}" is {state}' + (f"; {next_step}" if next_step else ""))
        self.kind = kind
        self.name = name
        self.state = state
        self.next_step = next_step


class Conflict(ClaryError):
    """Two changes met; the same request may succeed when asked again."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class PreconditionFailed(ClaryError):
    """A condition that the caller set does not hold. `condition` is its name, as "If-Match"."""

    def __init__(self, condition: str) -> None:
        super().__init__(f"the condition {condition} does not hold")
        self.condition = condition


class NotModified(ClaryError):
    """The caller's copy is current; carries what a 304 answer shows."""

    def __init__(self, *, etag: str, last_modified_at: datetime) -> None:
        super().__init__(f"not modified since {last_modified_at.isoformat()} (etag {etag})")
        self.etag = etag
        self.last_modified_at = last_modified_at


class AccessDenied(ClaryError):
    """The caller may not do this. `reason` says which policy said so, or that none allowed it."""

    def __init__(self, *, action: str, resource: str, reason: str) -> None:
        super().__init__(f"{action} on {resource} is denied: {reason}")
        self.action = action
        self.resource = resource
        self.reason = reason


class Unsupported(ClaryError):
    """A known request that is refused here on purpose; `why` says what to do instead."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is not supported here: {why}")
        self.what = what
        self.why = why


class Corrupt(ClaryError):
    """Stored bytes are not the bytes that were acknowledged."""

    def __init__(self, kind: str, name: str, *, detail: str) -> None:
        super().__init__(f'{kind} "{name}" is damaged: {detail}')
        self.kind = kind
        self.name = name
        self.detail = detail


class StoreFailed(ClaryError):
    """The disk or the database refused. Whether the change took hold is unknown until the store is opened again."""

    def __init__(self, what: str, *, detail: str) -> None:
        super().__init__(f"{what} failed: {detail}")
        self.what = what
        self.detail = detail
