"""What a transform job does, as values: how bodies become requests, which objects there are, where outputs go.

Rules are those of CreateTransformJob (service model) and of the guide's pages on batch transform.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from clary.domain.errors import Invalid
from clary.domain.names import parse_s3_uri

MIB = 1024 * 1024
DEFAULT_PAYLOAD_MB = 6
PAYLOAD_MAX_MB = 100  # also of MaxConcurrentTransforms * MaxPayloadInMB
DEFAULT_TIMEOUT_S = 600
DEFAULT_RETRIES = 3
# A request whose worker died under it, or that never reached one, is tried so often in all, whatever
# InvocationsMaxRetries says: that is our trouble, not the model's.
LOST_ATTEMPTS = 3


class SplitType(StrEnum):
    """The service model's SplitType."""

    NONE = "None"
    LINE = "Line"
    RECORD_IO = "RecordIO"
    TF_RECORD = "TFRecord"


class BatchStrategy(StrEnum):
    """The service model's BatchStrategy."""

    MULTI_RECORD = "MultiRecord"
    SINGLE_RECORD = "SingleRecord"


class Format(StrEnum):
    """How records are read where they must be: for filters, joins and quoted line ends."""

    CSV = "csv"
    JSON = "json"
    JSON_LINES = "jsonlines"
    OPAQUE = ""


_FORMATS = {
    "text/csv": Format.CSV,
    "application/json": Format.JSON,
    "application/jsonlines": Format.JSON_LINES,
    "application/x-jsonlines": Format.JSON_LINES,
    "application/jsonlines+json": Format.JSON_LINES,
}


def format_of(content_type: str) -> Format:
    return _FORMATS.get(content_type.partition(";")[0].strip().lower(), Format.OPAQUE)


@dataclass(frozen=True, slots=True)
class Handling:
    """The request's members; None or 0 where the container is asked (execution-parameters) before defaults hold."""

    content_type: str = ""
    accept: str = ""
    compressed: bool = False
    split: SplitType = SplitType.NONE
    strategy: BatchStrategy | None = None
    assemble_lines: bool = False
    max_payload_mb: int | None = None  # 0: unlimited, sent in chunks
    max_concurrent: int = 0
    timeout_s: int = DEFAULT_TIMEOUT_S
    max_retries: int = DEFAULT_RETRIES
    input_filter: str = "$"
    output_filter: str = "$"
    join: bool = False

    @property
    def processes(self) -> bool:
        """Whether records are read, filtered or joined; else bodies pass as they are."""
        return self.join or self.input_filter != "$" or self.output_filter != "$"


@dataclass(frozen=True, slots=True)
class Requests:
    """What holds for an instance once the container was asked: the request's members first, then its, then defaults."""

    strategy: BatchStrategy
    payload_bytes: int  # 0: unlimited
    concurrent: int

    @property
    def single(self) -> bool:
        return self.strategy is BatchStrategy.SINGLE_RECORD


def settle(handling: Handling, parameters: Mapping[str, object] | None, processes: int) -> Requests:
    """`parameters` is the container's answer to GET /execution-parameters, None when it gave none.

    Every process of an instance is asked alike, so what it can do at once counts for each of them.
    """
    told = parameters or {}
    payload_mb = handling.max_payload_mb
    if payload_mb is None:
        payload_mb = _number(told.get("MaxPayloadInMB"), DEFAULT_PAYLOAD_MB)
    concurrent = handling.max_concurrent or _number(told.get("MaxConcurrentTransforms"), 1) * max(1, processes)
    if payload_mb > 0:
        concurrent = min(concurrent, max(1, PAYLOAD_MAX_MB // payload_mb))
    strategy = handling.strategy
    if strategy is None:
        single = str(told.get("BatchStrategy", "")).replace("_", "").upper() == "SINGLERECORD"
        strategy = BatchStrategy.SINGLE_RECORD if single else BatchStrategy.MULTI_RECORD
    return Requests(strategy, payload_mb * MIB, max(1, concurrent))


def _number(value: object, default: int) -> int:
    """A positive number that a stranger's container sent, else the default."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= PAYLOAD_MAX_MB else default


def max_body_bytes(handling: Handling) -> int:
    """What a worker has to take in one request: the container may ask for as much as the API allows."""
    if handling.max_payload_mb == 0:
        return 1 << 40
    return (handling.max_payload_mb or PAYLOAD_MAX_MB) * MIB + 1


# -- objects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of an input's bytes: where they lie in a file of the job's own folder."""

    file: str
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Input:
    """One object to transform and where its output goes. `number` counts from 0 in the order of keys."""

    number: int
    bucket: str
    key: str
    output_bucket: str
    output_key: str
    size_bytes: int
    etag: str
    stretches: tuple[Stretch, ...] = ()

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Order:
    """What the engine gets beside the list of inputs."""

    fleets: tuple[str, ...]  # one, or one of each container of a pipeline
    instances: int
    processes: int  # workers of one instance
    handling: Handling
    start_timeout_s: float
    log: str  # the file that becomes the job's data-log stream


def relative_key(prefix: str, key: str) -> str:
    """The part of `key` that its output keeps: what lies below the prefix, or below the prefix's own folder.

    "in/" or "in" and "in/a/b.csv" give "a/b.csv"; "in/pa" and "in/part.csv" give "part.csv"; a key that is the whole
    prefix gives its last segment.
    """
    rest = key[len(prefix) :]
    if not rest:
        return key.rpartition("/")[2]
    if prefix.endswith("/") or not prefix or rest.startswith("/"):
        return rest.lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def output_key(output_prefix: str, relative: str) -> str:
    """The key of an output below S3OutputPath's key."""
    folder = output_prefix.rstrip("/")
    return f"{folder}/{relative}.out" if folder else f"{relative}.out"


def capture_manifest(bucket: str, keys: Sequence[str]) -> bytes:
    """What DataCaptureConfig leaves of a job's inputs or outputs: [{"prefix": ...}, "name", ...], a manifest.

    The prefix is the folder that all of `keys` (at least one) share. Source: developer guide, "Capture data from batch
    transform job".
    """
    folder = keys[0][: keys[0].rfind("/") + 1]
    while not all(key.startswith(folder) for key in keys):
        folder = folder[: folder.rstrip("/").rfind("/") + 1]
    return json.dumps([{"prefix": f"s3://{bucket}/{folder}"}, *(key[len(folder) :] for key in keys)]).encode()


def parse_manifest(text: str) -> list[tuple[str, str, str]]:
    """(bucket, key, relative key) of every object of a manifest: `[{"prefix": "s3://b/p/"}, "rel", ...]`.

    Raises: Invalid saying which entry is wrong.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise Invalid("manifest", f"it is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise Invalid("manifest", "it must be a list that begins with a prefix")
    prefix = entries[0].get("prefix") if isinstance(entries[0], dict) else None
    place = parse_s3_uri(prefix) if isinstance(prefix, str) else None
    if place is None:
        raise Invalid("manifest", 'its first entry must be {"prefix": "s3://bucket/prefix/"}')
    found = []
    for number, entry in enumerate(entries[1:], 1):
        if not isinstance(entry, str) or not entry:
            raise Invalid("manifest", f"entry {number} is not the relative name of an object: {entry!r}")
        found.append((place.bucket, place.key + entry, entry.lstrip("/")))
    return found
