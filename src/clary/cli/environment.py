"""`clary env`: what points every AWS client at this clary, ready to be evaluated by a shell or read by a program.

Both SageMaker SDKs build their STS client with a hard-wired regional address and send telemetry outside. A small
module that Python loads at start-up (a `sitecustomize` on PYTHONPATH) gives them the endpoint from the environment
instead, and a configuration file opts out of the telemetry; the user's code stays as it is.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from clary.cli.local import Local
from clary.cli.output import DataOption, data_dir, fail
from clary.domain.names import is_region
from clary.paths import replace_file

ROLE = "clary-execution-role"


class Shell(StrEnum):
    """How the variables are printed."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"
    JAVA = "java"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Key:
    """The administrator's key."""

    access_key_id: str
    secret: str


def admin_key(local: Local) -> Key:
    """The key that first start made; a readable file is asked for, nothing else."""
    try:
        text = local.layout.identities.read_text()
    except FileNotFoundError:
        fail(f"{local.layout.data} has no keys yet; start clary once: `clary up --data {local.layout.data}`")
    except PermissionError:
        fail(f"{local.layout.identities} may only be read by the user that runs clary")
    state = json.loads(text.partition("\n")[2])
    for key in state["keys"].values():
        if key["user"] == "clary-admin" and key["active"] and not key["session_token"]:
            return Key(key["access_key_id"], key["secret"])
    return fail("every key of the administrator is disabled")


def variables(local: Local, region: str) -> dict[str, str]:
    """The environment of a client."""
    settings = local.settings()
    url, key = local.url(), admin_key(local)
    hooks = _client_files(local)
    python_path = os.pathsep.join(
        [
            str(hooks),
            *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", str(hooks))),
        ]
    )
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_ROLE": f"arn:aws:iam::{settings.account}:role/{ROLE}",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(hooks / "sagemaker-config.yaml"),
        "PYTHONPATH": python_path,
    }


def _client_files(local: Local) -> Path:
    """The folder with what SageMaker's SDKs need, written anew where it differs."""
    folder = local.layout.data / "client"
    folder.mkdir(mode=0o755, exist_ok=True)
    for source in files("clary.client").iterdir():
        if source.name.startswith("_"):
            continue
        target = folder / source.name.removesuffix(".txt")
        text = source.read_text()
        if not target.exists() or target.read_text() != text:
            replace_file(target, text.encode(), mode=0o644)
    return folder


def env(
    data: DataOption = None,
    shell: Annotated[Shell, typer.Option(help="Form of the output.")] = Shell.SH,
    region: Annotated[str | None, typer.Option(help="Region for the clients.", show_default="us-east-1")] = None,
) -> None:
    """Print the environment that points AWS clients here: eval "$(clary env)"."""
    local = Local(data_dir(data))
    chosen = region or local.settings().region
    if not is_region(chosen):
        fail(f"{chosen!r} is not a region; one looks like us-east-1", 2)
    found = variables(local, chosen)
    if shell is Shell.JSON:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(_line(shell, name, value) + "\n")


def _line(shell: Shell, name: str, value: str) -> str:
    match shell:
        case Shell.FISH:
            return f"set -gx {name} {shlex.quote(value)};"
        case Shell.POWERSHELL:
            quoted = value.replace("'", "''")
            return f"$env:{name} = '{quoted}'"
        case Shell.JAVA:
            java = {"AWS_ACCESS_KEY_ID": "aws.accessKeyId", "AWS_SECRET_ACCESS_KEY": "aws.secretAccessKey"}
            java |= {"AWS_REGION": "aws.region", "AWS_ENDPOINT_URL": "aws.endpointUrl"}
            return f"-D{java[name]}={shlex.quote(value)}" if name in java else f"# {name}={value}"
        case _:
            return f"export {name}={shlex.quote(value)}"
