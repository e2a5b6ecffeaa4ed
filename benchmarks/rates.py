"""How fast this core moves and computes numbers, measured: what turns a count into a time."""

import time
from functools import lru_cache

import numpy as np

from benchmarks.counts import Count


def least_microseconds(count: Count, batch: int) -> float:
    """The time that a step's bytes or its operations take at this core's best rate, whichever is longer."""
    moved = count.bytes(batch)
    return max(moved / bytes_per_microsecond(moved), count.operations(batch) / operations_per_microsecond())


def bytes_per_microsecond(moved: float) -> float:
    """Read plus written, over arrays as large as what a step moves, at least the 256 KiB that a core's cache holds."""
    return _stream_rate(1 << max(17, min(26, (round(moved / 2) - 1).bit_length())))


@lru_cache
def _stream_rate(size: int) -> float:
    """Of `y += x`, two arrays of `size` bytes."""
    # Not a copy, the obvious choice: on some processors it is 20 times slower when the two addresses lie badly.
    x, y = (np.full(size // 4, value, np.float32) for value in (0, 1))
    return 3 * size / _best(lambda: np.add(x, y, out=y))


@lru_cache
def operations_per_microsecond() -> float:
    """In float32, when multiplying two matrices of 512 × 512."""
    a = np.full((512, 512), 0.5, np.float32)
    out = np.empty_like(a)
    return 2 * 512**3 / _best(lambda: np.matmul(a, a, out=out))


def _best(call, seconds: float = 0.1) -> float:
    """The shortest of many calls, in µs: a bound wants the best rate."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
    return best / 1000
