"""Tables for the terminal: aligned columns, means with their standard error, counted nouns."""

from collections.abc import Sequence

import numpy as np


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of words as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows
    ]
    return ["  " + "   ".join(row) for row in padded]


def mean_and_error(values: np.ndarray, digits: int = 4) -> str:
    """`mean ± standard error` of some seeds."""
    if values.size == 0:
        return "none"
    if values.size == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / np.sqrt(values.size):.{digits}f}"


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural unless it is one."""
    return f"{number} {noun}" + "s" * (number != 1)
