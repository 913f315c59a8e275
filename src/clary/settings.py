"""Every setting: one row each with its default and one sentence; flags, environment and `clary.toml` come from here.

This is the one reader of the environment. `clary up` resolves the settings once and writes them to run/settings.json;
the processes of the tree read that file, so all of them agree.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clary.domain.errors import Invalid
from clary.domain.names import DEFAULT_ACCOUNT, DEFAULT_REGION
from clary.domain.topics import networks


def _row(default: Any, sentence: str) -> Any:
    return field(default=default, metadata={"sentence": sentence})


@dataclass(frozen=True, slots=True)
class Settings:
    """One clary's settings. The environment variable of `host` is CLARY_HOST, and so on."""

    host: str = _row("127.0.0.1", "Address that the one port listens on; loopback unless you mean otherwise.")
    port: int = _row(8787, "The one port that clients are pointed at.")
    account: str = _row(DEFAULT_ACCOUNT, "The 12-digit account id that ARNs carry.")
    region: str = _row(DEFAULT_REGION, "The region that `clary env` hands to clients.")
    auth: bool = _row(True, "Whether signatures are verified; switching it off is allowed on loopback only.")
    insecure_listen: bool = _row(False, "Allow a listener beyond loopback without TLS in front of it.")
    isolation: str = _row("auto", "Walls around workers: auto takes the strongest that the host offers, or none.")
    images: str = _row("nearest", "Image resolution: nearest installable framework version, or exact.")
    docker: str = _row("auto", "Container engine for own images: auto (where one listens), off, or unix:///its.sock.")
    docker_writable: bool = _row(False, "Whether containers may write to their root folder, not only /tmp and /run.")
    worker_network: bool = _row(False, "Whether workers may open network connections.")
    keep_alive_s: float = _row(-1.0, "Idle seconds after which a sleeping variant's worker goes; -1 adapts to traffic.")
    hold_s: float = _row(2.0, "Longest time that Create/UpdateEndpoint wait for InService before they answer.")
    uid_first: int = _row(52000, "First of the uids that endpoints' workers run under (as root).")
    uid_last: int = _row(59999, "Last of those uids; the 65 after it are the unpacker's and the unprivileged zygotes'.")
    durability: str = _row("full", "Object store: full survives a power cut, process survives only a crash.")
    environments_dir: str = _row("", "Folder of environments and interpreters; inside the data folder when empty.")
    async_queue_limit: int = _row(1_000_000, "Asynchronous invocations that may wait or be in process at once.")
    async_concurrency: int = _row(64, "Asynchronous invocations that are worked on at once, over all endpoints.")
    disk_reserve_mib: int = _row(1024, "Free space below which no further asynchronous invocation is accepted.")
    queue_messages_limit: int = _row(1_000_000, "Messages that one SQS queue holds.")
    webhook_networks: str = _row("", "Private networks (CIDR, commas between) that SNS may post to; none when empty.")
    calls_limit: int = _row(1_000_000, "Calls of triggers (functions, queues, topics) that may wait at once.")
    function_concurrency: int = _row(16, "Functions that run at once; a synchronous Invoke beyond it is told to wait.")
    function_retry_s: float = _row(
        60.0, "Seconds before the second try of an asynchronous Invoke; twice that, its third."
    )
    hugging_face_models: str = _row(
        "", "Snapshots of Hugging Face models by name: an s3:// prefix here or a folder; see design 011."
    )
    s3_endpoint_url: str = _row(
        "", "An external S3 in the place of our own object store, as http://host:9000; ours when empty."
    )
    s3_region: str = _row(DEFAULT_REGION, "The region that requests to the external S3 are signed for.")
    s3_credentials_file: str = _row(
        "keys/external-s3",
        "The external S3's keys, a credentials file of mode 0600; below the data folder if relative.",
    )
    host_names: str = _row("", "Further host names that unsigned requests may be sent to, separated by commas.")


TYPES: dict[str, type] = {f.name: type(f.default) for f in fields(Settings)}
SENTENCES = {f.name: f.metadata["sentence"] for f in fields(Settings)}


def inherited() -> dict[str, str]:
    """The environment that this process was started with, for those who hand it on."""
    return dict(os.environ)


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """CLARY_DATA, else /var/lib/clary as root, else the user's data folder."""
    if given := environ.get("CLARY_DATA"):
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/clary")
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "clary"


def load(data: Path, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Defaults, then DATA/clary.toml, then CLARY_* variables, then flags. Raises: Invalid naming the setting."""
    values: dict[str, Any] = {}
    file = data / "clary.toml"
    if file.exists():
        try:
            document = tomllib.loads(file.read_text())
        except tomllib.TOMLDecodeError as error:
            raise Invalid(str(file), str(error)) from error
        for name, value in document.items():
            values[name] = _typed(name, value, str(file))
    for name in TYPES:
        if (text := environ.get(f"CLARY_{name.upper()}")) is not None:
            values[name] = _typed(name, text, f"CLARY_{name.upper()}")
    values |= {name: value for name, value in flags.items() if value is not None}
    settings = Settings(**values)
    check(settings)
    return settings


def _typed(name: str, value: Any, source: str) -> Any:
    kind = TYPES.get(name)
    if kind is None:
        raise Invalid(source, f"{name} is not a setting; there are {', '.join(TYPES)}")
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("1", "true", "yes", "on"):
            return True
        if str(value).lower() in ("0", "false", "no", "off"):
            return False
        raise Invalid(source, f"{name} is true or false, not {value!r}")
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise Invalid(source, f"{name} takes {kind.__name__}, not {value!r}") from error


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def check(settings: Settings) -> None:
    """Raises: Invalid for what must not stand together."""
    if not is_loopback(settings.host):
        if not settings.auth:
            raise Invalid("auth", f"signatures can only be switched off on loopback, not on {settings.host}")
        if not settings.insecure_listen:
            raise Invalid("host", f"{settings.host} is not loopback: put TLS in front, or give --insecure-listen")
    if not (settings.account.isdigit() and len(settings.account) == 12):
        raise Invalid("account", f"an account id has 12 digits, not {settings.account!r}")
    if not 0 <= settings.port <= 65535:
        raise Invalid("port", f"{settings.port} is not a port")
    try:
        networks(settings.webhook_networks)
    except ValueError as error:
        raise Invalid("webhook_networks", str(error)) from error
    if settings.docker not in ("auto", "off") and not settings.docker.startswith("unix:///"):
        raise Invalid("docker", f"one of auto, off, unix:///path/of.sock, not {settings.docker!r}")
    _check_external_s3(settings)
    for name, allowed in (
        ("isolation", ("auto", "none")),
        ("images", ("nearest", "exact")),
        ("durability", ("full", "process")),
    ):
        if getattr(settings, name) not in allowed:
            raise Invalid(name, f"one of {', '.join(allowed)}, not {getattr(settings, name)!r}")


def _check_external_s3(settings: Settings) -> None:
    """Raises: Invalid for what is no address of an S3, or is our own."""
    url = settings.s3_endpoint_url
    if not url:
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise Invalid("s3_endpoint_url", f"{error}") from error
    beyond = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not host or beyond or parts.username is not None:
        raise Invalid("s3_endpoint_url", "it has the form http://host:port or https://host:port")
    if port == settings.port and (host == settings.host or (is_loopback(host) and is_loopback(settings.host))):
        raise Invalid("s3_endpoint_url", f"{url} is this clary's own address")
    if not settings.s3_region or not settings.s3_credentials_file:
        raise Invalid("s3_endpoint_url", "it needs s3_region and s3_credentials_file")


def to_json(settings: Settings) -> str:
    return json.dumps(asdict(settings), indent=1)


def from_json(text: str) -> Settings:
    """Settings as `to_json` wrote them; members of other versions are left out."""
    return Settings(**{name: value for name, value in json.loads(text).items() if name in TYPES})
