"""What this process holds in memory, and what malloc does with what is freed (glibc's; elsewhere nothing is set)."""

import ctypes
import os
import resource

# Arrays of this size and more are mappings of their own, given back to the system when their model goes. Without it
# glibc raises its threshold to 32 MiB with the first one freed, keeps the others in its heap, and holes in a heap count
# against the limit of `bound` for good.
_MAPPED_BYTES = 4 << 20
_KEPT_BYTES = 256 << 20  # of freed memory at the heap's end
_GROWTH_BYTES = 32 << 20  # of the heap, and the largest threshold that glibc takes for mappings
_BOUND_BYTES = 24 << 20  # below the limit of memory: stacks, tables of pages, files that are written
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What this process holds in memory now (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated_bytes() -> int:
    """What malloc has given out (mallinfo(3), glibc from 2.33 on; 0 elsewhere). Unlike the resident size it grows with
    a model that lies where another one lay."""
    told = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if told is None:
        return 0
    told.restype = _MallInfo2
    info = told()
    return int(info.uordblks + info.hblkhd)


def bound(memory_bytes: int) -> None:
    """Lets allocations fail before the kernel would end the process, and all its models with it.

    The soft limit on data (setrlimit(2), RLIMIT_DATA) counts what is reserved, not only what is touched; so what was
    reserved untouched until now is allowed beside the memory.
    """
    with open("/proc/self/status") as file:
        data_kib = next((int(line.split()[1]) for line in file if line.startswith("VmData:")), 0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = data_kib * 1024 + memory_bytes - resident_bytes() - _BOUND_BYTES
    if soft > data_kib * 1024 and (hard == resource.RLIM_INFINITY or soft < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def trim() -> None:
    """Gives freed memory back to the system (glibc's malloc_trim; other C libraries have none and need none)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def map_large_arrays() -> None:
    """Has malloc map large arrays one by one (mallopt(3); other C libraries do so anyway)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def keep_freed() -> None:
    """Has malloc keep what is freed: for work whose every step takes the same megabytes again. New pages cost more than
    they look, most of all in a virtual machine whose host takes unused ones back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _GROWTH_BYTES)
        mallopt(_M_TOP_PAD, _GROWTH_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
