"""Lambda functions: names, what is wanted and seen of one, its state, and how a failure is told. Pure.

Figures: Lambda developer guide, "Lambda quotas"; states: "Lambda function states".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clary.domain.errors import Invalid, Unsupported
from clary.domain.names import Place, partition

FUNCTION = "function"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
LATEST = "$LATEST"
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
MAX_EVENT_BYTES = 1024 * 1024  # of an asynchronous invocation
MAX_ZIP_BYTES = 50 * 1024 * 1024
MAX_CODE_BYTES = 250 * 1024 * 1024  # unpacked
MAX_ENVIRONMENT_BYTES = 4096
ATTEMPTS = 3  # of an asynchronous invocation, in all
PYTHON = re.compile(r"python3\.(\d{1,2})")
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Environment variables that are the platform's (developer guide, "Reserved environment variables").
RESERVED = frozenset(
    {
        "_HANDLER", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FunctionDesired:
    """What the API's callers want. `user` and `role` are whose rights hold where IAM holds no such role."""

    runtime: str
    handler: str
    role_arn: str
    code_sha256: str  # hexadecimal; names the archive and the folder it is unpacked to
    code_bytes: int
    description: str = ""
    timeout_s: int = 3
    memory_mib: int = 128
    environment: dict[str, str] = field(default_factory=dict)
    dead_letter_arn: str = ""
    user: str = ""
    user_role: str = ""
    revision: str = ""
    modified_at: str = ""  # ISO 8601
    statements: tuple[str, ...] = ()  # of the resource policy, JSON each
    deleted: bool = False  # it goes as soon as nothing of it runs

    @property
    def code_key(self) -> str:
        """What has to be prepared: the archive under an interpreter."""
        return f"{self.runtime}:{self.code_sha256}"


@dataclass(frozen=True, slots=True)
class FunctionObserved:
    """What the controller has seen to be so. `code_key` is of what can be invoked, "" while there is nothing."""

    code_key: str = ""
    python: str = ""
    prefixes: tuple[str, ...] = ()
    folder: str = ""
    uid: int = -1
    note: str = ""  # e.g. which Python stands in for the runtime
    failed_key: str = ""
    reason: str = ""


def function_arn(place: Place, name: str) -> str:
    return f"arn:{partition(place.region)}:lambda:{place.region}:{place.account}:function:{name}"


def parse_name(text: str, place: Place, qualifier: str = "") -> tuple[Place, str]:
    """(place, name) of a name, a partial or a whole ARN. Raises: Invalid, Unsupported for versions and aliases."""
    where, name = place, text
    if text.startswith("arn:"):
        parts = text.split(":")
        if len(parts) not in (7, 8) or parts[2] != "lambda" or parts[5] != "function":
            raise Invalid("FunctionName", f"{text} is not the ARN of a function.")
        where, name = Place(parts[4], parts[3]), parts[6]
        qualifier = parts[7] if len(parts) == 8 else qualifier
    elif ":function:" in text:
        account, _, name = text.partition(":function:")
        where = Place(account, place.region)
    if not text.startswith("arn:") and ":" in name:
        name, _, qualifier = name.partition(":")
    if NAME.fullmatch(name) is None:
        raise Invalid("FunctionName", f"{text} is no name of a function: 1 to 64 of a-z A-Z 0-9 - _.")
    if qualifier not in ("", LATEST):
        raise Unsupported(f"the version or alias {qualifier}", f"functions have one version, {LATEST}")
    return where, name


def state(desired: FunctionDesired, observed: FunctionObserved) -> tuple[str, str]:
    """(State, LastUpdateStatus); total over every pair of values."""
    failed = observed.failed_key == desired.code_key
    if not observed.code_key:
        return ("Failed", "Failed") if failed else ("Pending", "InProgress")
    if observed.code_key == desired.code_key:
        return "Active", "Successful"
    return "Active", "Failed" if failed else "InProgress"


def python_for(runtime: str, installed: Sequence[str], exact: bool) -> tuple[str, str]:
    """(the Python that runs a runtime, a note when it is another one): the same minor version, else the nearest.

    `installed` are minor versions, as "3.11". Raises: Invalid for what is no Python, or for which there is none.
    """
    found = PYTHON.fullmatch(runtime)
    if found is None:
        raise Unsupported(f"the runtime {runtime}", "functions are Python: python3.11, python3.12 or python3.13")
    if f"3.{found[1]}" in installed:
        return f"3.{found[1]}", ""
    if exact or not installed:
        known = ", ".join(f"python{one}" for one in installed) or "none"
        raise Unsupported(f"the runtime {runtime}", f"this host has no such Python; it has {known}")
    wanted = int(found[1])
    nearest = min(installed, key=lambda one: (abs(int(one.split(".")[1]) - wanted), -int(one.split(".")[1])))
    return nearest, f"substituted: {runtime} -> python{nearest}"


def check_environment(variables: Mapping[str, str]) -> None:
    """Raises: Invalid."""
    taken = sorted(set(variables) & RESERVED)
    if taken:
        raise Invalid(
            "Environment",
            "Lambda was unable to configure your environment variables because the environment variables you have "
            "provided contains reserved keys that are currently not supported for modification. Reserved keys used in "
            f"this request: {', '.join(taken)}",
        )
    for name in variables:
        if _VARIABLE.fullmatch(name) is None:
            raise Invalid("Environment", f"{name} is no name of an environment variable: letters, digits and _.")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
    if size > MAX_ENVIRONMENT_BYTES:
        raise Invalid(
            "Environment",
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. {size} bytes came.",
        )


def failure(kind: str, message: str, trace: Iterable[str] = ()) -> bytes:
    """The document by which a failed invocation is told."""
    body: dict[str, Any] = {"errorMessage": message, "errorType": kind}
    lines = list(trace)
    if lines:
        body["stackTrace"] = lines
    return json.dumps(body).encode()
