"""What malloc does with what is freed: a process of its own, because it is set for good."""

import json
import subprocess
import sys

import pytest

from clary_worker import memory

CODE = """
import ctypes, json, resource, sys
from clary_worker import memory
getattr(memory, sys.argv[1])() if sys.argv[1] else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE = 8 << 20

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    # As a request of a batch does: the same arrays again, the last ones of the step before gone.
    before = faults()
    held = [libc.malloc(SIZE) for _ in range(12)]
    for one in held:
        ctypes.memset(one, 1, SIZE)
    for one in held:
        libc.free(one)
    return faults() - before

counts = [step() for _ in range(6)]
print(json.dumps({"faults": counts, "resident": memory.resident_bytes()}))
"""


def told(setting: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", CODE, setting], check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(memory.allocated_bytes() == 0, reason="this C library is not glibc 2.33 or newer: nothing is set")
def test_a_batch_worker_takes_no_new_pages_for_what_it_had_before() -> None:
    kept, plain = told("keep_freed"), told("")
    assert kept["faults"][0] > 10_000  # type: ignore[index]
    assert max(kept["faults"][1:]) < 500  # type: ignore[index]
    assert min(plain["faults"][1:]) > 10_000  # type: ignore[index]  # or there would be nothing to set


@pytest.mark.skipif(memory.allocated_bytes() == 0, reason="this C library is not glibc 2.33 or newer: nothing is set")
def test_a_worker_of_many_models_gives_large_arrays_back() -> None:
    assert told("map_large_arrays")["resident"] < 48 << 20  # type: ignore[operator]
