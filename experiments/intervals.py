"""Intervals of a mean difference between two methods, seed by seed."""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # left out at each side


class Interval(NamedTuple):
    """From `low` to `high`. It is unbounded if nothing is known."""

    low: float
    high: float


def difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """The interval of the mean of a − b that leaves out 5 % at each side, by Student's t.

    Seeds that only one of them has, and those that are not finite, are left out. With fewer than two it is unbounded.

        >>> low, high = difference(np.array([3.0, 4.0, 5.0]), np.array([1.0, 1.0, 1.0, 7.0]))
        >>> print(f"{low:.2f} {high:.2f}")
        1.31 4.69
    """
    count = min(len(a), len(b))
    apart = np.subtract(a[:count], b[:count])
    apart = apart[np.isfinite(apart)]
    if len(apart) < 2:
        return Interval(-np.inf, np.inf)
    half = stdtrit(len(apart) - 1, 1 - LEVEL) * apart.std(ddof=1) / np.sqrt(len(apart))
    return Interval(float(apart.mean() - half), float(apart.mean() + half))
