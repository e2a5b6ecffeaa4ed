"""Finds data that are not finite, and says where."""

import builtins
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..losses import Masked, Range
from ..support.trees import like, time_first
from .data import Block
from .objectives import AbstractObjective


def check_finite(blocks: Iterable[Block], objective: AbstractObjective, range: Range | None) -> None:
    """Checks the inputs within each sequence and the targets that count.

    Raises `ValueError` for the first number that is not finite, and for the first target outside `range`.
    """
    for block in blocks:
        for at in builtins.range(block.begin, block.begin + block.size):
            entry = jax.tree.map(lambda leaf: leaf[at], block.order)  # noqa: B023
            minibatch = block.data.minibatch(entry)
            ys, counts = objective.score(minibatch.ys, minibatch.lengths, block.data.steps)
            there = jnp.arange(block.data.steps, dtype=jnp.int32)[:, None] < minibatch.lengths
            if isinstance(ys, Masked):
                ys, counts = ys.ys, ys.mask & like(counts, ys.mask)

            def said(step: int, row: int) -> str:
                return f"at step {step} of {block.data.name(entry, row, at)}, counting from 0"  # noqa: B023

            for name, tree, looked_at in (("xs", time_first(minibatch.xs), there), ("ys", ys, counts)):
                for leaf in filter(eqx.is_inexact_array, jax.tree.leaves(tree)):
                    if (place := _first(~jnp.isfinite(leaf), looked_at)) is not None:
                        raise ValueError(f"{name} must be finite, got {leaf[place]} {said(*place[:2])}.")
            if range is not None and (place := _first(range.lacks(ys), counts)) is not None:
                raise ValueError(
                    f"ys must lie between {range.least} and {range.most}, got {ys[place]} {said(*place[:2])}."
                )


def _first(wrong, counts) -> tuple[int, ...] | None:
    """The place of the first entry that is wrong and counts; the leading axes are steps and batch."""
    found = np.asarray(wrong & like(counts, wrong))
    return tuple(np.argwhere(found)[0].tolist()) if found.any() else None
