"""The counters that the proxy keeps of every fleet, and how they lie in the shared file.

One slot a fleet, 4096 bytes: 256 bytes of name, then 480 unsigned 64-bit numbers. Every number only ever grows, has
one writer, and is written whole, so a reader in another process, or after a crash, sees a value that was true. The
header holds the number of slots in its first 8 bytes, and from RECEIPT_AT on what the proxy notes for its successor.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOT_BYTES = 4096
NAME_BYTES = 256
HEADER_BYTES = 4096
RECEIPT_AT = 2048

COUNTERS = (
    "requests",  # completed, whatever the answer; those of a model: the kernel has taken the answer's last byte
    "errors_4xx",
    "errors_5xx",
    "model_errors",
    "throttles",
    "billed_ms",  # serverless: each request rounded up to the millisecond
    "model_latency_us",
    "overhead_latency_us",
    "request_bytes",
    "response_bytes",
    "cold_starts",
    "setup_us",
    "clients_gone",
    "queue_timeouts",
    "no_capacity",
    "model_hits",  # multi-model: calls whose model was loaded
    "model_misses",
    "model_loads",
    "model_load_us",
    "model_fetch_us",  # from the object store, unpacked
    "model_wait_us",  # of calls, for their model's load
    "model_unloads",
    "model_unload_us",
    "steps",  # of a pipeline's container, written first: its model latency is a part of the variant's, not all of it
)
SCALARS = 32
BUCKETS = 224  # of each histogram: 8 a power of two, up to 2**30 us
MODEL_LATENCY_AT = SCALARS
OVERHEAD_LATENCY_AT = SCALARS + BUCKETS
NUMBERS = SCALARS + 2 * BUCKETS
INDEX = {name: i for i, name in enumerate(COUNTERS)}


def bucket(value_us: int) -> int:
    """The histogram bucket of a latency: exact below 16 us, then eight to a power of two (at most 12.5 % wide)."""
    if value_us < 16:
        return value_us if value_us > 0 else 0
    shift = value_us.bit_length() - 4
    index = shift * 8 + (value_us >> shift)
    return index if index < BUCKETS else BUCKETS - 1


def bucket_start_us(index: int) -> int:
    """The smallest latency that falls into bucket `index`."""
    if index < 16:
        return index
    shift = index // 8 - 1
    return (index - shift * 8) << shift


@dataclass(frozen=True, slots=True)
class Usage:
    """One fleet's counters at a moment."""

    fleet: str
    numbers: tuple[int, ...]

    def __getitem__(self, name: str) -> int:
        return self.numbers[INDEX[name]]

    @property
    def model_latency(self) -> tuple[int, ...]:
        return self.numbers[MODEL_LATENCY_AT : MODEL_LATENCY_AT + BUCKETS]

    @property
    def overhead_latency(self) -> tuple[int, ...]:
        return self.numbers[OVERHEAD_LATENCY_AT : OVERHEAD_LATENCY_AT + BUCKETS]
