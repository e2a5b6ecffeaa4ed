"""How fast this core copies and multiplies, measured: what turns a count into a time."""

import time
from functools import lru_cache

import numpy as np

from .counts import Count


def least_microseconds(count: Count, batch: int) -> float:
    """The time that a step's bytes or its operations take at this core's best rate, whichever is longer."""
    moved = count.bytes(batch)
    return max(moved / bytes_per_microsecond(moved), count.operations(batch) / operations_per_microsecond())


def bytes_per_microsecond(moved: float) -> float:
    """Read plus written, when copying as many bytes as a step moves, at least the 256 KiB that a core's cache holds."""
    return _copy_rate(1 << max(17, min(25, (round(moved / 2) - 1).bit_length())))


@lru_cache
def _copy_rate(size: int) -> float:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return 2 * size / _best(lambda: np.copyto(target, source))


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
