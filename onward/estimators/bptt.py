"""Backpropagation through time: exact within a chunk, truncated at its ends."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..rollouts import rollout
from .base import AbstractEstimator, Estimate, any_active, inexact, weighted_loss


class BPTT(AbstractEstimator):
    """Backpropagation through the chunk; the hidden state is carried to the next one, its gradient is not.

    With a whole sequence as the chunk this is full backpropagation; with a chunk of S steps of a stream it is truncated
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

    def init(self, model, hidden, *, key, example=None):
        return None

    def draw(self, state, steps):
        return None

    def influence_norm(self, state):
        return jnp.zeros(())

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        def unroll(parameters):
            m = eqx.combine(parameters, model)
            states = rollout(m.cell, hidden, xs, reset=reset)
            predictions = jax.vmap(m.predict)(states)
            losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, ys, weight)
            return losses.sum(), (losses, states, predictions)

        (_, (losses, states, predictions)), grads = jax.value_and_grad(unroll, has_aux=True)(inexact(model))
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        return Estimate(losses, grads, last, state, predictions, any_active(weight))
