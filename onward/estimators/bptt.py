"""Backpropagation through time: exact within a chunk, truncated at its ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells.rollout import rollout
from ..model import Model
from .backward import AbstractBackwardEstimator, Unrolled
from .base import Chunk, weighted_loss


class BPTT(AbstractBackwardEstimator):
    """Backpropagation through the chunk. The hidden state is carried to the next chunk, but no gradient flows back
    through it.

    If the chunk is a whole sequence, this is full backpropagation. If it is S steps of a stream, this is truncated
    backpropagation in its chunked form, TBPTT(S). Memory grows with the chunk, not with the stream.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> estimator, hidden = onward.BPTT(), cell.init_hidden()
        >>> state = estimator.init(model, hidden, key=jr.key(2))
        >>> estimate = estimator.grad(
        ...     model, onward.losses.softmax_cross_entropy, hidden, state, jnp.ones((5, 3)), jnp.zeros(5, int)
        ... )
        >>> estimate.losses.shape
        (5,)
    """

    def start(self, model, hidden, *, key, example):
        return None

    def draw(self, state, steps):
        return None

    def influence_norm(self, state):
        return jnp.zeros(())

    def unroll(self, model, loss, hidden, state, chunk):
        states, predictions, losses = run(model, loss, hidden, chunk)
        return Unrolled(losses, jax.tree.map(lambda leaf: leaf[-1], states), state, predictions)


class Run(NamedTuple):
    """The states after each step of a chunk, and their predictions and losses."""

    states: PyTree
    predictions: PyTree
    losses: Float[Array, " steps"]


def run(model: Model, loss: Callable, hidden: PyTree, chunk: Chunk) -> Run:
    """A chunk of one stream, from this hidden state."""
    return read(model, loss, rollout(model.cell, hidden, chunk.xs, reset=chunk.reset), chunk)


def read(model: Model, loss: Callable, states: PyTree, chunk: Chunk) -> Run:
    """What the states after each step predict, and the losses."""
    predictions = jax.vmap(model.predict)(states)
    losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, chunk.ys, chunk.weight)
    return Run(states, predictions, losses)
