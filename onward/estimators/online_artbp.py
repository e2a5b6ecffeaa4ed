"""ARTBP on an endless stream: segments run on across chunks until a random cut, in a memory of bounded size."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from ..cells import AbstractCell
from ..cells.rollout import restarted
from ..model import Model
from ..support.arguments import unless_traced, whole
from ..support.freezing import learnable, thaw
from ..support.trees import select
from ._padding import mended, mended_inputs, without_padding
from ._random_bits import Counter, uniform
from .artbp import check_cut, scale_cotangent
from .base import AbstractEstimator, Chunk, Estimate, weighted_loss
from .bptt import run


class Stretch(NamedTuple):
    """Steps of a stream. The fields are those of an `onward.estimators.Chunk`; each step has a reset and a weight."""

    xs: PyTree[Shaped[Array, "steps ..."]]
    ys: PyTree[Shaped[Array, "steps ..."]]
    reset: Bool[Array, " steps"]
    weight: Float[Array, " steps"]


class Segment(eqx.Module):
    """The open segment: the steps since the last cut, at the end of a memory of M − 1 steps.

    * `begin`: the hidden state before its first step;
    * `steps`: the memory; `length`: how many of its steps belong to the segment, at its end.
    """

    begin: PyTree
    steps: Stretch
    length: Int[Array, ""]

    @classmethod
    def stored(cls, cell: AbstractCell, begin: PyTree, steps: Stretch, length: Int[Array, ""]) -> "Segment":
        """The segment at the end of these steps. Numbers that are not finite are replaced where no loss depends on
        them.
        """
        memory = len(steps.weight)
        unused = jnp.arange(memory, dtype=jnp.int32) < memory - length
        if memory:
            padding = without_padding(cell, begin, Chunk(*steps._replace(weight=jnp.where(unused, 0, steps.weight))))
            # A sequence that has not ended may still have a loss.
            ended = jnp.append(jnp.flip(jnp.cumsum(jnp.flip(steps.reset)))[1:] > 0, False)
            unused = unused | (padding.padding & ended)
        xs, ys = mended_inputs(cell, unused, steps.xs), mended(steps.weight == 0, steps.ys)
        return cls(begin, steps._replace(xs=xs, ys=ys), length)

    def followed_by(self, chunk: Chunk) -> Stretch:
        """The memory and a chunk behind it, as one stretch of steps."""
        weight = jnp.ones(chunk.steps, float) if chunk.weight is None else chunk.weight.astype(float)
        reset = jnp.zeros(chunk.steps, bool) if chunk.reset is None else chunk.reset
        new = Stretch(chunk.xs, chunk.ys, reset, weight)
        return jax.tree.map(lambda *both: jnp.concatenate(both), self.steps, new)


class OnlineARTBPState(eqx.Module):
    """The open segment, and the counter of the random cuts."""

    segment: Segment
    counter: Counter


class Line(NamedTuple):
    """The open segment and the chunk behind it, as one stretch of M − 1 + S steps.

    * `begin`: the hidden state before the first step in use;
    * `steps`: the steps, whose weight is 0 unless their segment ends in this chunk; `used`: which steps are in use;
    * `factor`: the factor of the cotangent that passes from each step back to the state before it;
    * `closed`: whether a segment ends in this chunk.
    """

    begin: PyTree
    steps: Stretch
    used: Bool[Array, " line"]
    factor: Float[Array, " line"]
    closed: Bool[Array, ""]


class Advanced(NamedTuple):
    """The results of running through a chunk. The fields are those of `Estimate`, and the line to learn from."""

    losses: Float[Array, " steps"]
    predictions: PyTree
    hidden: PyTree
    state: OnlineARTBPState
    line: Line


class OnlineARTBP(AbstractEstimator):
    """Anticipated reweighted truncated backpropagation (Tallec & Ollivier 2017) on an endless stream. After each step
    the stream is cut with probability c. At a cut, the segment since the last cut is learned, by

        δ_s = ∂loss_s/∂h_s + [not cut after s] (1 − c)⁻¹ (∂h_(s+1)/∂h_s)ᵀ δ_(s+1).

    The factor makes up for the cuts: if segments may have any length, the mean over the cuts is the gradient of the
    whole stream. `onward.ARTBP` also cuts at the end of every chunk, which has the bias of truncation. Here a segment
    runs on from chunk to chunk. Only a segment of M steps or more, at the end of a chunk, is cut there without a
    factor. With chunks of one step, a dependence over k steps is thus learned with a mean weight of

        (1 − (1 − c)^(M − k)) / (1 − (1 − c)^M),

    and a step's own loss, k = 0, with 1. The bias is about (1 − c)^(M − k). With `M = 10/c` it is 5·10⁻⁵ for small k.

    Nothing is learned between two cuts: the parameters and the optimiser stay as they are. The reported losses are
    those of the online state. At a cut the segment runs again with the current parameters, from the state at its start.
    Each stream of a batch has cuts of its own.

    **Memory and time.** Each stream stores M − 1 inputs and targets, and two hidden states. A chunk of S steps in which
    a segment ends runs forward and backward over M + S steps, and stores as many hidden states meanwhile. Every other
    chunk only runs forward. In a batch, almost every chunk has a cut in some stream: take S of about M there.

    **Arguments:**

    - `cut`: c, a probability of at least 0 and below 1. A traced `cut` is not checked.
    - `memory`: M, the number of steps at which a segment is cut, at least 1.

    Raises `ValueError` for a number out of range, and at `init` if no `example` is given.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> estimator = onward.estimators.OnlineARTBP(cut=0.1, memory=100)
        >>> learner = onward.Learner(estimator, optax.sgd(1e-2), loss=onward.losses.softmax_cross_entropy)
        >>> xs, ys = jnp.ones((50, 3)), jnp.zeros(50, int)
        >>> carry = learner.init(model, key=jr.key(2), example=(xs[0], ys[0]))
        >>> carry, metrics = learner.run(carry, xs, ys)
        >>> bool(metrics.losses[-1] < metrics.losses[0])
        True
    """

    cut: float | Float[Array, ""]
    memory: int = eqx.field(static=True)

    def __init__(self, cut: float | Float[Array, ""], memory: int):
        unless_traced(check_cut, "cut", cut)
        self.cut, self.memory = cut, whole("memory", memory)

    def start(self, model, hidden, *, key, example):
        if example is None:
            raise ValueError("example must be given, one (x, y) of the stream: OnlineARTBP stores steps of that shape.")

        def repeat(leaf):
            return jnp.broadcast_to(leaf, (self.memory - 1, *jnp.shape(leaf)))

        # Filled with the example and not with zeros, because even unused entries must be differentiable.
        everywhere, (x, y) = jnp.array(True), jax.tree.map(jnp.asarray, example)
        xs = jax.tree.map(repeat, mended_inputs(thaw(model).cell, everywhere, x))
        ys = jax.tree.map(repeat, mended(everywhere, y))
        steps = Stretch(xs, ys, jnp.zeros(self.memory - 1, bool), jnp.ones(self.memory - 1, float))
        segment = Segment(hidden, steps, jnp.zeros((), jnp.int32))
        return OnlineARTBPState(segment, Counter.start(key))

    def draw(self, state, steps):
        return state.counter.draw(steps, 1)

    def influence_norm(self, state):
        return jnp.zeros(())

    def estimate(self, model, loss, hidden, state, chunk):
        found = self._advance(thaw(model), loss, hidden, state, chunk)

        def learned(model: Model):
            return _learned(model, loss, found.line)

        return _estimate(model, found, found.line.closed, learned)

    def mean_estimate(self, model, loss, hidden, state, chunk):
        def one(hidden, state, chunk) -> tuple[PyTree, ...]:
            return tuple(self._advance(thaw(model), loss, hidden, state, chunk))

        found = Advanced(*jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 1, 0, 0, 0))(hidden, state, chunk))

        def learned(model: Model):
            return jax.vmap(lambda line: _learned(model, loss, line))(found.line).mean()

        return _estimate(model, found, found.line.closed.any(), learned)

    def _advance(self, model: Model, loss: Callable, hidden: PyTree, state: OnlineARTBPState, chunk: Chunk) -> Advanced:
        """Runs through a chunk, and lays out the segments that end in it."""
        K, S, segment = self.memory - 1, chunk.steps, state.segment
        states, predictions, losses = run(model, loss, hidden, chunk)
        random = uniform(chunk.noise[:, 0])
        cuts = random < jnp.asarray(self.cut, random.dtype)  # after each step
        # The last cut, in steps of the chunk from 1; 0 if there is none. It is the end of the chunk if the steps after
        # the last random cut do not fit.
        last = jnp.max(jnp.where(cuts, jnp.arange(1, S + 1, dtype=jnp.int32), 0))
        last = jnp.where(jnp.where(last > 0, S - last, segment.length + S) > K, S, last)
        closed = last > 0

        stretch, place = segment.followed_by(chunk), jnp.arange(K + S, dtype=jnp.int32)
        used = place >= K - segment.length
        ends = closed & used & (place < K + last)
        xs, weight = mended_inputs(model.cell, ~used, stretch.xs), jnp.where(ends, stretch.weight, 0)
        steps = stretch._replace(xs=xs, weight=weight)
        cut_before = jnp.concatenate([jnp.zeros(K + 1, bool), cuts[:-1]])
        factor = jnp.where(cut_before, 0, 1 / (1 - jnp.asarray(self.cut, float)))
        line = Line(segment.begin, steps, used, factor, closed)

        begin = select(closed, jax.tree.map(lambda leaf: leaf[jnp.maximum(last - 1, 0)], states), segment.begin)
        length = jnp.where(closed, S - last, segment.length + S)
        newest = jax.tree.map(lambda leaf: leaf[S:], stretch)
        segment = Segment.stored(model.cell, begin, newest, length)
        counter = Counter(state.counter.key, state.counter.steps + jnp.uint32(S))
        after = jax.tree.map(lambda leaf: leaf[-1], states)
        return Advanced(losses, predictions, after, OnlineARTBPState(segment, counter), line)


def _learned(model: Model, loss: Callable, line: Line) -> Float[Array, ""]:
    """The sum of the losses of a line. Its derivative passes each cut with the factor of the line."""
    begin, steps, _ = without_padding(model.cell, line.begin, Chunk(*line.steps))

    def step(hidden, inputs):
        x, reset, used, factor = inputs
        before = jax.tree.map(lambda h: scale_cotangent(h, factor.astype(h.dtype)), hidden)
        after = select(used, model.cell(restarted(model.cell, before, reset), x), hidden)
        return after, after

    _, states = jax.lax.scan(step, begin, (steps.xs, steps.reset, line.used, line.factor))
    predictions = jax.vmap(model.predict)(states)
    return jax.vmap(partial(weighted_loss, loss))(predictions, steps.ys, steps.weight).sum()


def _estimate(model: Model, found: Advanced, closed: Bool[Array, ""], learned: Callable) -> Estimate:
    """The estimate of a chunk. Its gradient is that of `learned`, a function of the model, if a segment is closed."""

    def differentiated(parameters):
        return jax.value_and_grad(lambda p: learned(thaw(eqx.combine(p, model))))(parameters)

    def nothing(parameters):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(differentiated, parameters))

    value, grads = jax.lax.cond(closed, differentiated, nothing, learnable(model))
    active = jnp.any(found.line.steps.weight != 0)
    return Estimate(found.losses, grads, found.hidden, found.state, found.predictions, active, value)
