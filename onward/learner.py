"""The learner: an estimator, an optimiser and a loss, over one stream or a batch of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ._checks import check_model, check_step, check_stream, check_targets
from .cells.affine import constants_at_zero
from .estimators.backward import AbstractBackwardEstimator
from .estimators.base import AbstractEstimator, any_active, inexact
from .estimators.posing import AbstractPosingEstimator, AbstractReplayEstimator, derivatives
from .model import Model
from .support.arguments import whole
from .support.trees import mean_of_leading, select
from .transforms.kalman import information_of

# As many updates of one estimate are written out one after another, and fuse with one another where the optimiser goes
# number by number: a step of four updates of 4 units takes 7 % less, and of 32 units 4 %.
WRITTEN_OUT = 8


class Carry(eqx.Module):
    """All that training carries on: a pytree whose leaves are arrays, to scan, `vmap` over seeds, and checkpoint as
    one.

    * `arrays`: the model's arrays; `model` puts the model together again;
    * `hidden`: the hidden state, with the batch of streams leading if there is one;
    * `estimator`, `optimizer`: their states, the first with the batch leading.
    """

    arrays: PyTree
    skeleton: PyTree = eqx.field(static=True)
    hidden: PyTree
    estimator: PyTree
    optimizer: PyTree

    @property
    def model(self) -> Model:
        """The model as it is now."""
        return eqx.combine(self.arrays, self.skeleton)


class Metrics(NamedTuple):
    """What a run reports.

    * `losses`: one a step, `[steps]` or `[steps, batch]`, each times its weight;
    * `predictions`: `[steps, ...]` or `[steps, batch, ...]`, each made before its step was learned; `None` unless the
      run was asked for them.
    """

    losses: Float[Array, "steps *batch"]
    predictions: PyTree = None


class Learner:
    """Trains a model on a stream: `estimator` makes a gradient of each chunk, `optimizer` applies it.

    Parameters are fixed within a chunk and updated after it; a batch's gradients are averaged over its streams. With
    the default chunk of one step this is fully online learning. Memory does not grow with the stream (with `BPTT` it
    grows with the chunk).

    **Arguments:**

    - `estimator`: such as `onward.NoBackTrack(rank=1)`, `onward.RTRL()`, or `onward.BPTT()` with a chunk of its window.
    - `optimizer`: any Optax gradient transformation, with any schedule. One that asks for it, such as
      `onward.fptt_exact`, is given `grad_fn`: the same gradient at other parameters, from the same carry.
    - `loss`: `loss(prediction, y) -> scalar`, of one step of one stream.
    - `chunk`: S, the number of steps between updates, at least 1.
    - `batch`: the number of streams; `None` for a single one without a batch axis. Where `xs`, `ys` and what goes with
      them are sharded along the batch over several devices, each device learns from its own streams: on CPU, a device
      for each core is faster than threads (see `benchmarks/sequences.py`).

    Raises `ValueError` for a chunk or batch below 1.

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(4, 8, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(8, 4, key=jr.key(1)))
        >>> learner = onward.Learner(onward.NoBackTrack(), optax.adam(3e-2), loss=onward.losses.softmax_cross_entropy)
        >>> ys = jax.numpy.arange(400) % 4                                 # a wheel: predict the next symbol
        >>> xs = jax.nn.one_hot(ys - 1, 4)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), xs, ys)
        >>> metrics.losses[:20].mean() > 1 > metrics.losses[-20:].mean()
        Array(True, dtype=bool)
    """

    def __init__(
        self,
        estimator: AbstractEstimator,
        optimizer: optax.GradientTransformation,
        *,
        loss: Callable[[PyTree, PyTree], Float[Array, ""]],
        chunk: int = 1,
        batch: int | None = None,
    ):
        if not isinstance(estimator, AbstractEstimator):
            raise ValueError(f"estimator must be an estimator such as onward.RTRL(), got {estimator!r}.")
        self.estimator, self.optimizer, self.loss = estimator, optimizer, loss
        self.chunk, self.batch = whole("chunk", chunk), None if batch is None else whole("batch", batch)

    def init(self, model: Model, *, key: PRNGKeyArray, example: tuple[PyTree, PyTree] | None = None) -> Carry:
        """The carry at the start of a stream.

        `example` is one `(x, y)` of one stream, for the estimators that store inputs or probe the cell (`SlidingBPTT`,
        `FPP`, `SnAp` beyond its cheap case). Raises `ValueError` if the model has nothing to learn, or the example is
        needed and missing.
        """
        check_model(model)
        if example is not None:
            if not isinstance(example, tuple) or len(example) != 2:
                raise ValueError(f"example must be a pair (x, y) of one step, got {type(example).__name__}.")
            check_step(model, model.cell.init_hidden(), self.loss, *example)
        arrays, skeleton = eqx.partition(model, eqx.is_array)
        # A weak dtype, as of `jnp.array(0.3)`, would be lost at the first update, and all be compiled again.
        arrays = jax.tree.map(lambda a: a.astype(a.dtype) if eqx.is_inexact_array(a) else a, arrays)
        model = eqx.combine(arrays, skeleton)
        hidden = model.cell.init_hidden()

        def start(key):
            return hidden, self.estimator.init(model, hidden, key=key, example=example)

        hidden, state = start(key) if self.batch is None else jax.vmap(start)(jr.split(key, self.batch))
        return Carry(arrays, skeleton, hidden, state, self.optimizer.init(inexact(arrays)))

    @partial(jax.jit, static_argnums=0, static_argnames="predictions")
    def update(
        self,
        carry: Carry,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, "steps *batch"] | None = None,
        weight: Float[Array, "steps *batch"] | None = None,
        predictions: bool = False,
    ) -> tuple[Carry, Metrics]:
        """One chunk and one update. `xs`, `ys`: `[steps, ...]`, or `[steps, batch, ...]` with a batch; see `run`."""
        check_stream(carry.model, carry.hidden, self.loss, self.batch, xs, ys, reset, weight)
        steps = jax.tree.leaves(xs)[0].shape[0]
        return self._step(carry, (xs, ys, reset, weight, self._draw(carry, steps)), predictions)

    def run(
        self,
        carry: Carry,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, "steps *batch"] | None = None,
        weight: Float[Array, "steps *batch"] | None = None,
        predictions: bool = False,
    ) -> tuple[Carry, Metrics]:
        """A stretch of the stream, chunk after chunk, in one compiled program.

        **Arguments:**

        - `carry`: from `init`, or from the call before: a stream cut into calls at multiples of the chunk gives the
          same bits as in one call.
        - `xs`, `ys`: inputs and targets, `[steps, ...]`, or `[steps, batch, ...]` with a batch. If the steps are no
          multiple of the chunk, the last chunk is shorter.
        - `reset`: true where a new sequence starts with that step.
        - `weight`: multiplies the step's loss; 0 leaves it out, and a chunk of zeros leaves the parameters and the
          optimiser untouched, unless the estimator learns from the past as well, like `onward.FPP`.
        - `predictions`: whether `Metrics` holds the predictions; without, they are never stored.

        Returns the carry to go on with, and `Metrics`. Each new number of steps compiles anew: feed long streams in
        blocks of one size. Raises `ValueError`, naming the argument, for shapes and dtypes that do not fit, and for
        targets outside the range of a loss of `onward.losses`, such as a class that the model does not predict.
        """
        check_targets(self.loss, carry, ys, weight)
        shape = np.shape(next(iter(jax.tree.leaves(xs)), 0))
        steps = shape[0] if shape else 0  # what is wrong with xs is said in tracing
        return self._run(carry, xs, ys, reset, weight, np.int32(steps // self.chunk), predictions)

    @partial(jax.jit, static_argnums=(0, 7))
    def _run(self, carry, xs, ys, reset, weight, count, predictions):
        check_stream(carry.model, carry.hidden, self.loss, self.batch, xs, ys, reset, weight)
        steps = jax.tree.leaves(xs)[0].shape[0]
        whole = steps - steps % self.chunk
        stream = (xs, ys, reset, weight, self._draw(carry, steps))
        parts = []
        if whole:
            carry, chunks = _loop(
                lambda carry, chunk: self._step(carry, chunk, predictions), carry, stream, self.chunk, count
            )
            parts.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:whole], chunks))
        if whole < steps:
            carry, rest = self._step(carry, jax.tree.map(lambda leaf: leaf[whole:], stream), predictions)
            parts.append(rest)
        return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def influence_norm(self, carry: Carry) -> Float[Array, "*batch"]:
        """The norm of the carried approximation of ∂hidden/∂θ of each stream: watch it before it overflows."""
        norm = self.estimator.influence_norm
        return norm(carry.estimator) if self.batch is None else jax.vmap(norm, axis_size=self.batch)(carry.estimator)

    def _draw(self, carry, steps):
        """The noise of all steps, drawn outside the loop, time first."""
        if self.batch is None:
            return self.estimator.draw(carry.estimator, steps)
        draw = jax.vmap(lambda state: self.estimator.draw(state, steps), out_axes=1, axis_size=self.batch)
        return draw(carry.estimator)

    def _step(self, carry, chunk, predictions) -> tuple[Carry, Metrics]:
        carry, metrics = self._turn(carry, lambda carry: self._estimate(carry, *chunk))
        if isinstance(self.estimator, AbstractReplayEstimator) and self.estimator.replays:

            def again(turn, carry):
                return self._turn(carry, lambda carry: self._replay(carry, chunk[-1], turn))[0]

            carry = jax.lax.fori_loop(1, 1 + self.estimator.replays, again, carry)
        return carry, metrics if predictions else Metrics(metrics.losses)

    def _turn(self, carry, estimate) -> tuple[Carry, Any]:
        """One estimate from the carry, and its update of the parameters; or its several, one after another."""
        metrics, grads, hidden, state, active = estimate(carry)

        def grads_at(parameters):
            # Constants stay where they are, whatever the optimiser would have done to them.
            learned = constants_at_zero(jax.tree.map(lambda p: jnp.array(True), parameters))
            arrays = jax.tree.map(jnp.where, learned, parameters, inexact(carry.arrays))
            arrays = eqx.combine(arrays, carry.arrays)
            there = Carry(arrays, carry.skeleton, carry.hidden, carry.estimator, carry.optimizer)
            return constants_at_zero(estimate(there)[1])

        def apply(moving, grads, active, grad_fn):
            arrays, optimizer = moving
            # What does not ask for the gradient at other parameters never has it traced.
            update = optax.with_extra_args_support(self.optimizer).update
            updates, after = update(grads, optimizer, inexact(arrays), grad_fn=grad_fn)
            moved = eqx.apply_updates(arrays, constants_at_zero(updates))
            # An optimiser with a memory moves even at a gradient of zero.
            return select(active, (moved, after), moving)

        moving = carry.arrays, carry.optimizer
        if active.ndim == 0:
            arrays, optimizer = apply(moving, grads, active, grads_at)
        else:

            def one(k, moving):
                def part(tree):
                    return jax.tree.map(lambda leaf: leaf[k], tree)

                return apply(moving, part(grads), active[k], lambda parameters: part(grads_at(parameters)))

            arrays, optimizer = jax.lax.fori_loop(0, len(active), one, moving, unroll=min(len(active), WRITTEN_OUT))
        return Carry(arrays, carry.skeleton, hidden, state, optimizer), metrics

    def _estimate(self, carry, xs, ys, reset, weight, noise) -> tuple[Metrics, Any, PyTree, PyTree, Array]:
        """Metrics, gradient, hidden and estimator state, activity of the chunk; over a batch, the mean gradient."""

        model, metric = carry.model, information_of(carry.optimizer)
        if self.batch is not None and isinstance(self.estimator, AbstractBackwardEstimator):
            return self._mean_estimate(self.estimator, carry, xs, ys, reset, weight, noise)
        if self.batch is not None and isinstance(self.estimator, AbstractPosingEstimator):
            return self._posed_estimate(self.estimator, carry, xs, ys, reset, weight, noise)

        def grad(hidden, state, xs, ys, reset, weight, noise):
            e = self.estimator.grad(
                model, self.loss, hidden, state, xs, ys, reset=reset, weight=weight, noise=noise, metric=metric
            )
            return Metrics(e.losses, e.predictions), e.grads, e.hidden, e.state, e.active

        if self.batch is None:
            return grad(carry.hidden, carry.estimator, xs, ys, reset, weight, noise)
        over_streams = jax.vmap(grad, in_axes=(0, 0, 1, 1, 1, 1, 1), out_axes=(1, 0, 0, 0, 0))
        metrics, grads, hidden, state, active = over_streams(
            carry.hidden, carry.estimator, xs, ys, reset, weight, noise
        )
        return metrics, mean_of_leading(grads), hidden, state, active.any(0)

    def _mean_estimate(self, estimator, carry, xs, ys, reset, weight, noise):
        """As `_estimate`, with the mean over the streams differentiated as one function."""

        def mean(parameters):
            model = eqx.combine(parameters, carry.model)

            def unroll(hidden, state, xs, ys, reset, weight, noise):
                unrolled = estimator.unroll(
                    model, self.loss, hidden, state, xs, ys, reset=reset, weight=weight, noise=noise
                )
                return Metrics(unrolled.losses, unrolled.predictions), unrolled.hidden, unrolled.state

            over_streams = jax.vmap(unroll, in_axes=(0, 0, 1, 1, 1, 1, 1), out_axes=(1, 0, 0))
            metrics, hidden, state = over_streams(carry.hidden, carry.estimator, xs, ys, reset, weight, noise)
            return metrics.losses.sum(0).mean(), (metrics, hidden, state)

        (_, (metrics, hidden, state)), grads = jax.value_and_grad(mean, has_aux=True)(inexact(carry.arrays))
        return metrics, grads, hidden, state, any_active(weight)

    def _posed_estimate(self, estimator, carry, xs, ys, reset, weight, noise):
        """As `_estimate`, with all streams' objectives differentiated as one function."""

        def advance(hidden, state, xs, ys, reset, weight, noise):
            a = estimator.advance(
                carry.model, self.loss, hidden, state, xs, ys, reset=reset, weight=weight, noise=noise
            )
            return Metrics(a.losses, a.predictions), a.state, a.posed

        over_streams = jax.vmap(advance, in_axes=(0, 0, 1, 1, 1, 1, 1), out_axes=(1, 0, 0))
        metrics, state, posed = over_streams(carry.hidden, carry.estimator, xs, ys, reset, weight, noise)
        return metrics, *self._settled(carry.model, estimator, state, posed)

    def _settled(self, model, estimator, state, posed):
        """The mean gradient of what the streams pose, and what they go on with."""
        grads, by_variables = derivatives(estimator, model, self.loss, posed, self.batch)
        hidden, state = jax.vmap(estimator.settle)(state, posed, by_variables)
        return grads, hidden, state, posed.active.any(0)

    def _replay(self, carry, noise, turn) -> tuple[None, Any, PyTree, PyTree, Array]:
        """As `_estimate`, without metrics, of what the estimator's state remembers."""

        model, estimator = carry.model, cast(AbstractReplayEstimator, self.estimator)
        if self.batch is None:
            r = estimator.replay(model, self.loss, carry.estimator, turn, noise=noise)
            return None, r.grads, r.hidden, r.state, r.active
        pose = jax.vmap(lambda state, noise: estimator.pose_again(model, state, turn, noise=noise), in_axes=(0, 1))
        posed = pose(carry.estimator, noise)
        return None, *self._settled(model, estimator, carry.estimator, posed)


def _loop(step, carry, stream, size, count):
    """`lax.scan` of `step` over the stream's first `count` chunks of `size`, with a count the compiler does not know.

    A loop known to run once is inlined, and an index into a single chunk folded; either fuses the step with what
    surrounds it and changes the last bits, so that a stream fed in pieces would depend on their sizes. A lone chunk is
    doubled, to be run once.
    """
    chunks = len(jax.tree.leaves(stream)[0]) // size
    if chunks == 1:
        chunks, stream = 2, jax.tree.map(lambda leaf: jnp.concatenate([leaf[:size], leaf[:size]]), stream)
    shapes = jax.eval_shape(step, carry, jax.tree.map(lambda leaf: leaf[:size], stream))[1]
    out = jax.tree.map(lambda s: jnp.zeros((chunks, *s.shape), s.dtype), shapes)

    def body(i, loop):
        carry, out = loop
        chunk = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i * size, size), stream)
        carry, value = step(carry, chunk)
        return carry, jax.tree.map(lambda o, v: jax.lax.dynamic_update_index_in_dim(o, v, i, 0), out, value)

    return jax.lax.fori_loop(0, count, body, (carry, out))
