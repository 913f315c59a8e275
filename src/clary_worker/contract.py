"""The values and ports that the rooms of the model server share; nothing here knows HTTP, a framework or a file.

A request goes `server -> batching -> handler -> codecs -> predictor -> codecs -> server`. Every refusal on that way is
a `RequestError` with the status that the caller shall see; every other exception is the model's and becomes a 500 at
the handler's border.

    RequestError                 status, text
    +-- BadRequest          400  the body cannot be read, or does not fit the model
    +-- NotAcceptable       406  no type in Accept can carry the prediction
    +-- UnsupportedMedia    415  the body's type is not read here
    LoadError                    the artifact cannot be served: reason and hint for the endpoint's FailureReason

The package runs inside the model's own environment, so its syntax floor is Python 3.8: no match, no slotted
dataclasses, no StrEnum.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple, Union

CSV = "text/csv"
JSON = "application/json"
JSON_LINES = "application/jsonlines"
NPY = "application/x-npy"
NPZ = "application/x-npz"
LIBSVM = "text/libsvm"
RECORDIO = "application/x-recordio-protobuf"
TEXT = "text/plain; charset=utf-8"

Body = Union[bytes, Iterator[bytes]]


class RequestError(Exception):
    """A refusal whose text goes to the caller as it stands."""

    status = 400

    def __init__(self, text: str, status: Optional[int] = None) -> None:
        super().__init__(text)
        self.text = text
        if status is not None:
            self.status = status


class BadRequest(RequestError):
    status = 400


class NotAcceptable(RequestError):
    status = 406


class UnsupportedMedia(RequestError):
    status = 415


class LoadError(Exception):
    """The artifact cannot be served. `reason` says what and which, `hint` what to do next."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Request:
    """One invocation. `content_type` and `accept` are the raw header texts ("" when absent); header names are lower."""

    __slots__ = ("accept", "body", "content_type", "headers")

    def __init__(
        self, body: bytes, content_type: str = "", accept: str = "", headers: Optional[Dict[bytes, bytes]] = None
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.accept = accept
        self.headers = headers if headers is not None else {}


class Response:
    """What goes back. `headers` are extra ones (X-Amzn-SageMaker-Custom-Attributes); an iterator body is streamed."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, body: Body, content_type: str, status: int = 200, headers: Optional[Sequence[Tuple[str, str]]] = None
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.status = status
        self.headers = headers


class Table:
    """A decoded body: rows as an array, or named inputs, and the form they came in (so that answers can mirror it).

    `rows` is a numpy array (rank as sent; rank 1 may mean one row: the predictor decides, it knows the model),
    a scipy CSR matrix, or None when `inputs` (name -> array) is given. `columns` are names when the body had them.
    """

    __slots__ = ("columns", "form", "inputs", "rows")

    def __init__(
        self,
        rows: Any,
        form: str,
        columns: Optional[List[str]] = None,
        inputs: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.rows = rows
        self.form = form
        self.columns = columns
        self.inputs = inputs


class Predictor(Protocol):
    """A loaded model that turns rows into predictions. Calls run on the loop's thread, one at a time."""

    loader: str  # what loaded it, for the event: "xgboost booster (ubj)"
    features: Optional[int]  # columns that the model takes; None when it does not say
    batchable: bool  # row-wise: f(concat(a, b)) == concat(f(a), f(b))

    def shape(self, table: Table) -> Any:
        """The model's own input from a table. Raises BadRequest when it cannot fit."""
        ...

    def signature(self, data: Any) -> Any:
        """Equal for inputs that may be joined in one call; None for one that must go alone."""
        ...

    def join(self, parts: List[Any]) -> Tuple[Any, List[int]]:
        """The parts as one input and each part's row count."""
        ...

    def predict(self, data: Any) -> Any:
        """A prediction with one item a row: an array, or {output name: array}."""
        ...

    def warm(self) -> str:
        """Predicts once where the shape is known. Returns "" when it did, else why it did not."""
        ...


class Handler(Protocol):
    """What the server calls. Never raises: every failure is a Response."""

    loader: str
    note: str
    warmed: bool

    @property
    def batchable(self) -> bool: ...

    def invoke(self, request: Request) -> Response: ...

    def invoke_many(self, requests: List[Request]) -> List[Response]: ...


class Status(Protocol):
    """Where the worker tells how its start went; `failed` comes before an exit code other than 0."""

    def ready(self, detail: Dict[str, Any]) -> None: ...

    def failed(self, reason: str, hint: str) -> None: ...
