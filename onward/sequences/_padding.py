"""Pads sequences of several lengths with zeros into one array."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import PyTree

from ..targets import Masked


def padded(name: str, sequences: Sequence, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The sequences, each `[steps, ...]`, in one array `[sequences, steps, ...]`, and their lengths.

    The array has `steps` steps, or those of the longest sequence. Raises `ValueError`, naming the first sequence that
    does not fit the others.
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


def padded_targets(ys: PyTree, lengths: np.ndarray) -> PyTree:
    """The targets of a list of sequences, in arrays. They are padded if each sequence has a target at every step.

    Raises `ValueError` if there are not as many targets as `lengths`, or if the targets of a sequence are neither one
    nor one for each step.
    """
    if isinstance(ys, Masked):
        return Masked(padded_targets(ys.ys, lengths), padded_targets(ys.mask, lengths))
    if not isinstance(ys, list | tuple):
        return ys
    if len(ys) != len(lengths):
        raise ValueError(f"ys must be for the {len(lengths)} sequences of xs, got {len(ys)}.")
    arrays = [np.asarray(y) for y in ys]
    if all(array.ndim and len(array) == length for array, length in zip(arrays, lengths, strict=True)):
        return padded("ys", arrays)[0]
    if len({array.shape for array in arrays}) > 1:
        i = next((i for i, a in enumerate(arrays) if not a.ndim or len(a) != lengths[i]), 0)
        raise ValueError(
            f"ys must have one target at each step of its sequence, {lengths[i]} for sequence {i}, or one for each "
            f"sequence, got the shape {arrays[i].shape}."
        )
    return np.stack(arrays)


def _shape(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
