"""Sequences of several lengths in one array: zeros after the end of each."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array


def padded(name: str, sequences: Sequence, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The sequences, each `[steps, ...]`, in one array `[sequences, steps, ...]`, and their lengths.

    They are as long as the longest one, or `steps` long. Raises `ValueError`, naming the first sequence that does not
    fit the others.
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise ValueError(f"{name} must hold at least one sequence, got an empty list.")
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.ndim < 1 or not len(array) or array.dtype == object:
            raise ValueError(f"{name} must be sequences of at least one step, got {_shape(array)} for sequence {i}.")
        if array.shape[1:] != first.shape[1:] or array.dtype.kind != first.dtype.kind:
            raise ValueError(
                f"{name} must be alike in all but their steps, got {_shape(first)} for sequence 0 and {_shape(array)} "
                f"for sequence {i}."
            )
    lengths = np.array([len(array) for array in arrays])
    steps = int(lengths.max()) if steps is None else steps
    together = np.zeros((len(arrays), steps, *first.shape[1:]), np.result_type(*{array.dtype for array in arrays}))
    for row, array in zip(together, arrays, strict=True):
        row[: len(array)] = array
    return together, lengths


def _shape(array: Array | np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
