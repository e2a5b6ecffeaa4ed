"""Sliding truncated backpropagation: every step backpropagates its own loss through the last few steps."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..cells.initial_state import learns_initial_state
from ..cells.rollout import SHORT, restarted
from ..support.arguments import whole
from ..support.freezing import thaw
from ..support.trees import select
from ._padding import mended, mended_inputs
from .base import length, weighted_loss
from .posing import AbstractPosingEstimator, Advanced, Posed


class Window(eqx.Module):
    """The last transitions, oldest first: the state before each, its input, and `start`, whether a sequence starts
    there. If the initial state is trained, `fresh` says whether the transition started from it.
    """

    before: PyTree[Float[Array, "horizon ..."]]
    xs: PyTree[Array]
    start: Bool[Array, " horizon"]
    fresh: Bool[Array, " horizon"] | None


class SlidingState(eqx.Module):
    """The stored transitions, and whether any of them is real yet."""

    window: Window
    begun: Bool[Array, ""]


class Given(NamedTuple):
    """The windows of a chunk, one for each step's loss, and the hidden state after the chunk."""

    windows: Window
    ys: PyTree[Array]
    weight: Float[Array, " steps"] | None
    hidden: PyTree


class SlidingBPTT(AbstractPosingEstimator):
    """Sliding truncated backpropagation, TBPTT(T) with T = `horizon`: the gradient of each step's loss through the last
    T steps.

    The last T steps are run again with the current parameters, from the state stored T steps ago. There are fewer steps
    at the start of a stream or after a reset. If T is the length of the stream, this is RTRL at fixed parameters. The
    reported loss is the loss of the online state; the gradient is the gradient of the loss of the recomputed state.

    A step costs T times as much as with a chunked `onward.BPTT`. The window holds T + S − 1 transitions for a chunk of
    S steps.

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

    def start(self, model, hidden, *, key, example):
        if example is None:
            raise ValueError(
                "example must be given, one (x, y) of the stream: SlidingBPTT stores inputs of that shape."
            )

        def repeat(leaf):
            return jnp.broadcast_to(leaf, (self.horizon, *jnp.shape(leaf)))

        # Filled with the example and not with zeros, because even unused entries must be differentiable.
        x = mended_inputs(thaw(model).cell, jnp.array(True), example[0])
        xs = jax.tree.map(lambda leaf: repeat(jnp.asarray(leaf)), x)
        fresh = jnp.zeros(self.horizon, bool) if learns_initial_state(model.cell) else None
        window = Window(jax.tree.map(repeat, hidden), xs, jnp.ones(self.horizon, bool), fresh)
        return SlidingState(window, jnp.array(False))

    def draw(self, state, steps):
        return None

    def influence_norm(self, state):
        return jnp.zeros(())

    @property
    def several(self) -> bool:
        return False

    def advance(self, model, loss, hidden, state, chunk):
        def forward(hidden, inputs):
            x, restart = inputs
            before = restarted(model.cell, hidden, restart)
            after = model.cell(before, x)
            return after, (before, after)

        _, (before, after) = scan_steps(forward, hidden, (chunk.xs, chunk.reset))
        predictions = jax.vmap(model.predict)(after)
        losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, chunk.ys, chunk.weight)

        # The chunk's steps follow the stored ones, and the window that ends at step s is a slice of this line.
        reset = jnp.zeros(chunk.steps, bool) if chunk.reset is None else chunk.reset
        start = reset.at[0].set(reset[0] | ~state.begun)
        ran = Window(before, chunk.xs, start, None if state.window.fresh is None else reset)
        line = jax.tree.map(lambda old, new: jnp.concatenate([old, new]), state.window, ran)

        def window(s):
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, s + 1, self.horizon), line)

        newest = stored = window(chunk.steps - 1)
        if chunk.reset is not None:  # what no later loss depends on is not to disturb it either
            stored = _without_padding(model.cell, newest, None)
        if chunk.steps == 1:
            windows = jax.tree.map(lambda leaf: leaf[None], newest)
        else:
            windows = jax.vmap(window)(jnp.arange(chunk.steps))
        if chunk.reset is not None or chunk.weight is not None:
            windows = jax.vmap(partial(_without_padding, model.cell))(windows, chunk.weight)
        last = jax.tree.map(lambda leaf: leaf[-1], after)
        posed = Posed(None, Given(windows, chunk.ys, chunk.weight, last), chunk.active)
        return Advanced(losses, SlidingState(stored, jnp.array(True)), predictions, posed)

    def objective(self, model, loss, variables, given):
        def newest(window, y, weight):
            def step(hidden, inputs):
                before, x, start, fresh = inputs
                before = restarted(model.cell, before, fresh)
                return model.cell(select(start, before, hidden), x), None

            first = jax.tree.map(lambda leaf: leaf[0], window.before)
            stretch = window.before, window.xs, window.start, window.fresh
            rolled, _ = jax.lax.scan(step, first, stretch, unroll=self.horizon <= SHORT)
            return jnp.asarray(weighted_loss(loss, model.predict(rolled), y, weight))

        each = given.windows, given.ys, given.weight
        if length(given.windows) == 1:
            return newest(*jax.tree.map(lambda leaf: leaf[0], each))
        return jax.vmap(newest)(*each).sum()

    def settle(self, state, posed, by_variables):
        return posed.given.hidden, state


def _without_padding(cell, window, weight):
    """The window, with finite numbers in the steps that its loss does not depend on.

    These are all steps before the last start of a sequence, or all steps of the window if the weight is 0.
    """
    starts = jnp.flip(jnp.cumsum(jnp.flip(window.start)))  # the number of sequences that start at this step or later
    unused = jnp.append(starts[1:] > 0, False)
    if weight is not None:
        unused = unused | (weight == 0)
    before, xs = mended(unused, window.before), mended_inputs(cell, unused, window.xs)
    return Window(before, xs, window.start, window.fresh)


def scan_steps(step, hidden, inputs):
    """`lax.scan`; for a single step, without a loop."""
    if length(inputs) > 1:
        return jax.lax.scan(step, hidden, inputs)
    hidden, out = step(hidden, jax.tree.map(lambda leaf: leaf[0], inputs))
    return hidden, jax.tree.map(lambda leaf: leaf[None], out)
