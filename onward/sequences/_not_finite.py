"""Data that are not finite: where the first such number is, said in one sentence."""

from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..support.trees import time_first
from .data import Block
from .objectives import AbstractObjective


def check_finite(blocks: Iterable[Block], objective: AbstractObjective) -> None:
    """Raises `ValueError` for the first number in these minibatches that is not finite: of an input within its
    sequence, or of a target that counts."""
    for block in blocks:
        for at in range(block.begin, block.begin + block.size):
            entry = jax.tree.map(lambda leaf: leaf[at], block.order)  # noqa: B023
            minibatch = block.data.minibatch(entry)
            ys, counts = objective.score(minibatch.ys, minibatch.lengths, block.data.steps)
            there = jnp.arange(block.data.steps, dtype=jnp.int32)[:, None] < minibatch.lengths
            for name, tree, looked_at in (("xs", time_first(minibatch.xs), there), ("ys", ys, counts)):
                for leaf in jax.tree.leaves(tree):
                    if (place := _first(leaf, looked_at)) is not None:
                        step, row = place[:2]
                        raise ValueError(
                            f"{name} must be finite, got {leaf[place]} at step {step} of "
                            f"{block.data.name(entry, row)} in minibatch {at}, counting from 0."
                        )


def _first(leaf: PyTree, there) -> tuple[int, ...] | None:
    """The place of the first number that is not finite at steps that are there, `[steps, batch]`."""
    if not eqx.is_inexact_array(leaf):
        return None
    wrong = ~np.isfinite(np.asarray(leaf)) & np.asarray(there).reshape(*there.shape, *[1] * (leaf.ndim - there.ndim))
    return tuple(np.argwhere(wrong)[0].tolist()) if wrong.any() else None
