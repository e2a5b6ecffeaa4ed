"""Backpropagation through a window, continued beyond its edge by a forward estimator."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..cells.rollout import rollout
from ..model import Model
from ..support.freezing import learnable, thaw
from ..support.trees import mean_of_leading, select, zeros_like
from ._jacobians import with_parameters
from ._padding import Readable, marked, without_padding
from ._passage import Passage
from .base import AbstractEstimator, AbstractForwardEstimator, Chunk, Estimate, carries_influence
from .bptt import Run, read, run


class ContinuedBPTT(AbstractEstimator):
    """Backpropagation through the chunk, continued into the past by the influence `G = ∂h/∂θ` at the chunk's edge:

        ∂loss/∂θ = ∂loss/∂θ|_(h₀) + (∂loss/∂h₀) G₀,    G_S = (∂h_S/∂h₀) G₀ + ∂h_S/∂θ|_(h₀).

    Within the window of S steps the gradient goes backward. The part that `onward.BPTT` would cut off at the window's
    start is carried forward by the estimator `edge`. So there is no truncation; what bias remains is that of `edge`.
    With `onward.RTRL` as `edge` the gradient is exact for every cell. For a unit-wise cell, such as
    `onward.cells.LRUCell`, it costs little more than the window alone. With `onward.NoBackTrack` or `onward.UORO` it is
    unbiased, and noise enters only through the edge. The window is the chunk of the learner. Memory is that of the
    window and of the edge's influence.

    **Arguments:** `edge`, an estimator that carries an influence forward. Raises `ValueError` for any other.

        >>> import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.LRUCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(8, 2, key=jr.key(1)))
        >>> xs, ys = jr.normal(jr.key(2), (12, 3)), jnp.zeros(12, int)
        >>> loss = onward.losses.softmax_cross_entropy
        >>> windows = onward.audit(onward.BPTT(), model, loss, xs, ys, chunk=4, key=jr.key(3))
        >>> estimator = onward.estimators.ContinuedBPTT(onward.RTRL())
        >>> continued = onward.audit(estimator, model, loss, xs, ys, chunk=4, key=jr.key(3))
        >>> windows.rows[0].bias > 1e-2 > 1e-5 > continued.rows[0].bias
        True
    """

    edge: AbstractForwardEstimator

    def __init__(self, edge: AbstractForwardEstimator):
        self.edge = carries_influence("edge", edge)

    def start(self, model, hidden, *, key, example):
        return self.edge.start_windows(model, hidden, key=key, example=example)

    def draw(self, state, steps):
        return self.edge.draw(state, steps)

    def influence_norm(self, state):
        return self.edge.influence_norm(state)

    def informed(self, metric):
        return ContinuedBPTT(carries_influence("edge", self.edge.informed(metric)))

    def estimate(self, model, loss, hidden, state, chunk):
        hidden, chunk, padding = _readable(model, hidden, chunk)

        def steps(parameters, hidden):
            return rollout(with_parameters(model.cell, parameters), hidden, chunk.xs, reset=chunk.reset)

        def summed(parameters, states):
            found = read(thaw(eqx.combine(parameters, model)), loss, states, chunk)
            return found.losses.sum(), found

        # The edge may take its derivatives from this run. A batch has one gradient for all streams, but the edge needs
        # one for each, and so it runs the steps again.
        states, pullback = jax.vjp(steps, learnable(model).cell, hidden)
        (_, found), (grads, errors) = jax.value_and_grad(summed, (0, 1), has_aux=True)(learnable(model), states)
        through_time, H = pullback(errors)
        grads = eqx.tree_at(lambda m: m.cell, grads, jax.tree.map(jnp.add, grads.cell, through_time))
        passage = Passage.differentiated(pullback, chunk.xs, chunk.reset, states)
        state, by_edge = self._across(model, hidden, state, chunk, passage, H)
        return _estimate(found, state, grads, by_edge, chunk, padding)

    def mean_estimate(self, model, loss, hidden, state, chunk):
        def readable(hidden, chunk) -> tuple[Any, ...]:
            return tuple(_readable(model, hidden, chunk))

        hidden, chunk, padding = jax.vmap(readable, in_axes=(0, 1), out_axes=(0, 1, 1))(hidden, chunk)

        def mean(parameters, hidden):
            learning = thaw(eqx.combine(parameters, model))
            over_streams = jax.vmap(lambda h, c: run(learning, loss, h, c), in_axes=(0, 1), out_axes=1)
            found = over_streams(hidden, chunk)
            return found.losses.sum(0).mean(), found

        (_, found), (grads, H) = jax.value_and_grad(mean, (0, 1), has_aux=True)(learnable(model), hidden)
        streams = len(jax.tree.leaves(hidden)[0])
        H = jax.tree.map(lambda leaf: streams * leaf, H)  # of each stream's own loss

        def across(hidden, state, chunk, states, H):
            passage = Passage.again(model.cell, hidden, chunk.xs, chunk.reset, states)
            return self._across(model, hidden, state, chunk, passage, H)

        state, by_edge = jax.vmap(across, in_axes=(0, 0, 1, 1, 0))(hidden, state, chunk, found.states, H)
        return _estimate(found, state, grads, mean_of_leading(by_edge), chunk, padding)

    def _across(self, model, hidden, state, chunk, passage, H):
        """The edge's state after the window, and the gradient through the window's start."""
        state, contract = self.edge.across(model, hidden, state, passage, chunk.noise)
        grads = contract(H)
        # Where no loss depends on the past, the influence may be NaN, and so is its product with 0.
        return state, select(_loss_before_a_reset(chunk), grads, zeros_like(grads))


def _readable(model: Model, hidden: PyTree, chunk: Chunk) -> Readable:
    """The chunk with the inputs of padding replaced."""
    if chunk.weight is None:
        return Readable(hidden, chunk, jnp.zeros(chunk.steps, bool))
    return without_padding(model.cell, hidden, chunk)


def _loss_before_a_reset(chunk: Chunk) -> Bool[Array, ""]:
    """Whether any loss of the chunk depends on what came before the chunk."""
    counts = jnp.ones(chunk.steps, bool) if chunk.weight is None else chunk.weight != 0
    return counts.any() if chunk.reset is None else (counts & (jnp.cumsum(chunk.reset) == 0)).any()


def _estimate(found: Run, state: PyTree, grads: Model, by_edge: PyTree, chunk: Chunk, padding: Array) -> Estimate:
    """The estimate of a chunk, for one stream or a batch."""
    hidden = marked(padding[-1], jax.tree.map(lambda leaf: leaf[-1], found.states))
    grads = eqx.tree_at(lambda m: m.cell, grads, jax.tree.map(jnp.add, grads.cell, by_edge))
    return Estimate(found.losses, grads, hidden, state, marked(padding, found.predictions), chunk.active)
