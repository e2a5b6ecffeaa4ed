"""Padding: steps that no loss depends on and whose inputs, such as NaN, a cell cannot read.

Reverse mode multiplies the derivative at such a step by a cotangent of 0, and 0 · NaN is NaN. Therefore the step runs
with a replacement input, and its results are marked as NaN.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..cells import AbstractCell, EmbeddedCell, StackedCell
from ..support.trees import select
from .base import Chunk


class Readable(NamedTuple):
    """A chunk whose inputs can all be read, and the hidden state to start from. `padding` marks the steps whose hidden
    state and prediction come from a replaced input.
    """

    hidden: PyTree
    chunk: Chunk
    padding: Bool[Array, " steps"]


def without_padding(cell: AbstractCell, hidden: PyTree, chunk: Chunk) -> Readable:
    """The chunk with the inputs of padding replaced.

    A step is padding if two conditions hold. Its hidden state depends on an input or an initial state that is not
    finite; and every loss before the next reset, or before the end of the chunk, has weight 0.
    """
    S = chunk.steps
    counts, reset = chunk.weight != 0, jnp.zeros(S, bool) if chunk.reset is None else chunk.reset
    unreadable, place = ~jax.vmap(partial(readable, cell))(chunk.xs), jnp.arange(S)
    # For each step: the next step whose loss counts, the start of the next sequence, the start of this sequence, and
    # the last unreadable step. A sequence from before the chunk starts at -1. An unreadable hidden state counts as step
    # -1; if everything is readable, the value is -2.
    next_loss = jax.lax.cummin(jnp.where(counts, place, S), reverse=True)
    next_start = jnp.append(jax.lax.cummin(jnp.where(reset, place, S), reverse=True)[1:], S)
    last_start = jax.lax.cummax(jnp.where(reset, place, -1))
    last_unreadable = jax.lax.cummax(jnp.where(unreadable, place, jnp.where(finite(hidden), -2, -1)))
    padding = (last_unreadable >= last_start) & (next_loss >= next_start)
    hidden = select(padding[0] & ~finite(hidden), cell.init_hidden(), hidden)
    chunk = Chunk(replaced(cell, padding, chunk.xs), chunk.ys, chunk.reset, chunk.weight, chunk.noise)
    return Readable(hidden, chunk, padding)


def finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floating-point numbers in a tree are finite."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in numbers], bool).all()


def readable(cell: AbstractCell, x: PyTree) -> Bool[Array, ""]:
    """Whether the cell can read an input: finite numbers, or a known symbol."""
    if isinstance(cell, StackedCell):
        return readable(cell.layers[0], x)
    return cell.knows(x) if isinstance(cell, EmbeddedCell) else finite(x)


def replaced(cell: AbstractCell, unused: Bool[Array, " steps"], xs: PyTree) -> PyTree:
    """The inputs, with each unused input that cannot be read replaced by one that can; by zeros if none can be read."""
    good = jax.vmap(partial(readable, cell))(xs)

    def replace(leaf):
        leaf = jnp.asarray(leaf)
        # Zeros are not always safe: a cell may have no derivative there.
        example = jnp.where(good.any(), leaf[jnp.argmax(good)], 0)
        return jnp.where((unused & ~good).reshape(-1, *[1] * (leaf.ndim - 1)), example, leaf)

    return jax.tree.map(replace, xs)


def marked(padding: Bool[Array, "*steps"], tree: PyTree) -> PyTree:
    """The tree, with its floating-point numbers at padding steps replaced by NaN."""

    def mark(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(padding.reshape(*padding.shape, *[1] * (leaf.ndim - padding.ndim)), jnp.nan, leaf)

    return jax.tree.map(mark, tree)
