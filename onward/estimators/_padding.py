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
from ..support.trees import all_finite
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
    # Four steps are found for each step: the next one whose loss counts, the start of the next sequence, the start of
    # the current sequence, and the last unreadable one. A sequence that began before the chunk starts at -1. An
    # unreadable hidden state is the unreadable step -1. If there is no unreadable step, the value is -2.
    next_loss = jax.lax.cummin(jnp.where(counts, place, S), reverse=True)
    next_start = jnp.append(jax.lax.cummin(jnp.where(reset, place, S), reverse=True)[1:], S)
    last_start = jax.lax.cummax(jnp.where(reset, place, -1))
    last_unreadable = jax.lax.cummax(jnp.where(unreadable, place, jnp.where(all_finite(hidden), -2, -1)))
    padding = (last_unreadable >= last_start) & (next_loss >= next_start)
    chunk = Chunk(mended_inputs(cell, padding, chunk.xs), chunk.ys, chunk.reset, chunk.weight, chunk.noise)
    return Readable(mended(padding[0], hidden), chunk, padding)


def readable(cell: AbstractCell, x: PyTree) -> Bool[Array, ""]:
    """Whether the cell can read an input: finite numbers, or a known symbol."""
    if isinstance(cell, StackedCell):
        return readable(cell.layers[0], x)
    return cell.knows(x) if isinstance(cell, EmbeddedCell) else all_finite(x)


def mended_inputs(cell: AbstractCell, unused: Bool[Array, "*steps"], xs: PyTree) -> PyTree:
    """The inputs, with others that the cell can read where they are unused."""
    if isinstance(cell, StackedCell):
        return mended_inputs(cell.layers[0], unused, xs)
    return jnp.where(unused & ~cell.knows(xs), 0, xs) if isinstance(cell, EmbeddedCell) else mended(unused, xs)


def mended(unused: Bool[Array, "*steps"], tree: PyTree) -> PyTree:
    """The tree with 1 for the unused floating-point numbers that are not finite.

    Not with 0: a cell that takes a norm or a logarithm has no derivative there.
    """

    def mend(leaf):
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(_spread(unused, leaf) & ~jnp.isfinite(leaf), 1, leaf)

    return jax.tree.map(mend, tree)


def marked(padding: Bool[Array, "*steps"], tree: PyTree) -> PyTree:
    """The tree, with its floating-point numbers at padding steps replaced by NaN."""

    def mark(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(_spread(padding, leaf), jnp.nan, leaf)

    return jax.tree.map(mark, tree)


def _spread(flags: Bool[Array, "*steps"], leaf: Array) -> Bool[Array, "..."]:
    """The flags in a shape that broadcasts against an array with the same leading axes."""
    return flags.reshape(*flags.shape, *[1] * (leaf.ndim - flags.ndim))
