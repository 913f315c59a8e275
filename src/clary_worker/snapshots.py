"""A pickled model's objects once more, as one fast pickle, kept for the next wake of the same deployment.

joblib reads its files with Python's own unpickler: a forest of 100 trees takes it 15 to 30 ms, the compiled one 3.
So the first worker of a deployment, which proves that the model works, writes what it unpickled into the folder that
only this deployment's workers (one uid) can see; later ones read that. It never replaces the artifact: whatever is
missing, older than the artifact or written by other versions is left alone and the artifact is read.

Kept are only estimators of packages whose objects survive this exactly (scikit-learn and its kin).
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from typing import Any, Optional, Tuple

NAME = "model.snapshot"
MAX_BYTES = 256 * 1024 * 1024
_PACKAGES = frozenset(("sklearn", "xgboost", "lightgbm"))


def _key(path: str) -> Tuple[Any, ...]:
    """What must be the same for a snapshot to stand for the artifact."""
    facts = os.stat(path)
    versions = tuple(getattr(sys.modules.get(name), "__version__", "") for name in ("numpy", "sklearn", "xgboost"))
    return (os.path.basename(path), facts.st_size, facts.st_mtime_ns, sys.version, versions)


def freeze(value: Any) -> Optional[bytes]:
    """The objects as bytes; None for what is not known to survive."""
    if type(value).__module__.partition(".")[0] not in _PACKAGES:
        return None
    try:
        frozen = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        return None  # a part of it cannot be pickled again: the artifact will be read each time
    return frozen if len(frozen) <= MAX_BYTES else None


def write(folder: str, path: str, frozen: Optional[bytes], note: str, proven: Tuple[bool, ...]) -> None:
    """Keeps a snapshot of the artifact at `path`; replaced whole. A full disk leaves none."""
    if frozen is None:
        return
    temporary = os.path.join(folder, ".%s.%d" % (NAME, os.getpid()))
    try:
        with open(temporary, "wb") as file:
            pickle.dump((_key(path), note, proven), file, protocol=5)
            file.write(frozen)
        os.rename(temporary, os.path.join(folder, NAME))
    except OSError as error:
        print("no snapshot of the model was kept: %s" % error, file=sys.stderr)


def read(folder: str, path: str) -> Optional[Tuple[Any, str, Tuple[bool, ...]]]:
    """(the model's objects, the note of its first load, what was proven of it), or None."""
    try:
        file = open(os.path.join(folder, NAME), "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return None
    enabled = gc.isenabled()
    gc.disable()  # tens of thousands of new objects and no garbage among them
    try:
        key, note, proven = pickle.load(file)
        if key != _key(path):
            return None
        return pickle.load(file), note, proven
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
        print("the model's snapshot could not be read, the artifact is: %s" % error, file=sys.stderr)
        return None
    finally:
        file.close()
        if enabled:
            gc.enable()
