"""Who may share a warm interpreter with whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

# Read by loaders, interpreters and thread pools when they start: a fork of a warm process would not see them, and a
# zygote must not be started with them.
START_ONLY = ("LD_", "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "NUMEXPR_")
# Read by frameworks at import: a zygote of its own, started with them, sees them.
READ_AT_IMPORT = ("TORCH_", "CUDA_", "HF_", "TRANSFORMERS_")
# Of these names, what a worker reads when it loads its model: nothing that is imported before looks at them.
READ_AT_LOAD = frozenset(
    ("HF_TASK", "HF_MODEL_ID", "HF_MODEL_REVISION", "HF_MODEL_QUANTIZE", "HF_API_TOKEN", "HF_TRUST_REMOTE_CODE")
)


def zygote_environ(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container that its zygote must be started with."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_IMPORT) and name not in READ_AT_LOAD
    }


def zygote_key(
    environment_key: str, trusted: bool, role_arn: str, network: bool, environment: Mapping[str, str]
) -> str:
    """The key of the zygote that may fork a container's workers; "" where they must be started plainly.

    A trusted environment's is shared by all. One with packages of the user's choice belongs to one execution role.
    Workers with and without connections are kept apart, because a zygote's children choose their network before they
    are told whom they serve; so are those whose variables are read at import.
    """
    if not environment_key or any(name.startswith(START_ONLY) for name in environment):
        return ""
    key = environment_key + ("-net" if network else "")
    if not trusted:
        key += f"-{_short(role_arn)}"
    if early := zygote_environ(environment):
        key += f"-{_short(json.dumps(early, sort_keys=True))}"
    return key


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
