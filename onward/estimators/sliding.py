"""Sliding truncated backpropagation: at every step, backward through the last few steps for the newest loss alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..arguments import whole
from ..rollouts import restarted
from ..trees import select
from .base import AbstractEstimator, Estimate, any_active, inexact, length, weighted_loss


class Window(eqx.Module):
    """The last transitions, oldest first: the state each left from, its input, and whether nothing before it counts."""

    before: PyTree[Float[Array, "horizon ..."]]
    xs: PyTree[Array]
    start: Bool[Array, " horizon"]


class SlidingState(eqx.Module):
    """The stored transitions, and whether any is real yet."""

    window: Window
    begun: Bool[Array, ""]


class SlidingBPTT(AbstractEstimator):
    """Sliding truncated backpropagation, TBPTT(T) with T = `horizon`: the gradient of each step's loss through T steps.

    The last T steps are rolled again, with the current parameters, from the state stored T steps ago; fewer while the
    stream is younger than that, or since a reset. With T as long as the stream this is RTRL at fixed parameters. The
    loss reported is that of the online state; the gradient is that of the re-rolled one.

    A step costs T times a chunked `onward.BPTT`'s; the window holds T + S − 1 transitions for a chunk of S.

    **Arguments:** `horizon` T, at least 1. Raises `ValueError` otherwise, and at `init` if no `example` is given.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.SlidingBPTT(horizon=3), optax.sgd(1e-2), loss=loss)
        >>> xs, ys = jnp.ones((5, 3)), jnp.zeros(5, int)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2), example=(xs[0], ys[0])), xs, ys)
    """

    horizon: int = eqx.field(static=True)

    def __init__(self, horizon: int):
        self.horizon = whole("horizon", horizon)

    def init(self, model, hidden, *, key, example=None):
        if example is None:
            raise ValueError(
                "example must be given, one (x, y) of the stream: SlidingBPTT stores inputs of that shape."
            )

        def repeat(leaf):
            return jnp.broadcast_to(leaf, (self.horizon, *jnp.shape(leaf)))

        # Filled with the example, not with zeros: what is never used must still be differentiable.
        xs = jax.tree.map(lambda leaf: repeat(jnp.asarray(leaf)), example[0])
        window = Window(jax.tree.map(repeat, hidden), xs, jnp.ones(self.horizon, bool))
        return SlidingState(window, jnp.array(False))

    def draw(self, state, steps):
        return None

    def influence_norm(self, state):
        return jnp.zeros(())

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        def forward(hidden, inputs):
            x, restart = inputs
            before = restarted(model.cell, hidden, restart)
            after = model.cell(before, x)
            return after, (before, after)

        _, (before, after) = _scan(forward, hidden, (xs, reset))
        predictions = jax.vmap(model.predict)(after)
        losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, ys, weight)

        # The chunk's steps behind the stored ones; the window that ends at step s is a slice of that.
        start = jnp.zeros(length(xs), bool) if reset is None else reset
        start = start.at[0].set(start[0] | ~state.begun)
        line = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), state.window, Window(before, xs, start))

        def one(s, y, weight):
            window = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, s + 1, self.horizon), line)

            def newest(parameters):
                m = eqx.combine(parameters, model)

                def step(hidden, inputs):
                    before, x, start = inputs
                    return m.cell(select(start, before, hidden), x), None

                first = jax.tree.map(lambda leaf: leaf[0], window.before)
                rolled, _ = jax.lax.scan(step, first, (window.before, window.xs, window.start))
                return weighted_loss(loss, m.predict(rolled), y, weight)

            return jax.grad(newest)(inexact(model))

        if length(xs) == 1:
            grads = one(0, *jax.tree.map(lambda leaf: leaf[0], (ys, weight)))
        else:
            grads = jax.vmap(one)(jnp.arange(length(xs)), ys, weight)
            grads = jax.tree.map(lambda leaf: leaf.sum(0), grads)
        last = jax.tree.map(lambda leaf: leaf[-1], after)
        window = jax.tree.map(lambda leaf: leaf[-self.horizon :], line)
        return Estimate(losses, grads, last, SlidingState(window, jnp.array(True)), predictions, any_active(weight))


def _scan(step, hidden, inputs):
    """`lax.scan`, without a loop for a single step."""
    if length(inputs) > 1:
        return jax.lax.scan(step, hidden, inputs)
    hidden, out = step(hidden, jax.tree.map(lambda leaf: leaf[0], inputs))
    return hidden, jax.tree.map(lambda leaf: leaf[None], out)
