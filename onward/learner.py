"""The learner: an estimator, an optimiser and a loss, over one stream or a batch of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from . import _learner_programs
from ._carry import Carry as Carry
from ._carry import Metrics as Metrics
from ._carry import Observe as Observe
from ._carry import spread
from ._checks import check_model, check_step, check_targets
from ._learner_checks import (
    check_arguments,
    check_key,
    check_loss,
    check_observe,
    check_optimizer,
    check_predictions,
    check_update,
    started,
)
from ._learner_programs import How
from ._updates import scalar_loss
from .cells.initial_state import learns_initial_state
from .estimators.base import AbstractEstimator, Said
from .model import Model
from .support.arguments import whole
from .support.compiled import programs_of
from .support.devices import placed
from .support.freezing import freeze, learnable, thaw
from .support.streams_axis import spread_along
from .transforms.composition import check_each_gradient, check_fptt_first, update_of


class Learner(eqx.Module):
    """Trains a model on a stream: `estimator` computes a gradient of each chunk, and `optimizer` applies it.

    Parameters are fixed within a chunk and updated after it. The gradients of a batch are averaged over its streams.
    With the default chunk of one step, this is fully online learning. Memory does not grow with the stream (with `BPTT`
    it grows with the chunk).

    **Arguments:**

    - `estimator`: for example `onward.NoBackTrack(rank=1)`, `onward.RTRL()`, or `onward.BPTT()` with its window as the
      chunk.
    - `optimizer`: any Optax gradient transformation, with any schedule. The learner passes it `value`, the number whose
      gradient it receives (for `optax.contrib.reduce_on_plateau` or `optax.polyak_sgd`), `grad_fn`, the same gradient
      as a function of the parameters (for `onward.fptt_exact`), `weight`, the sum of the chunk's weights, in the mean
      over the streams (for `onward.transforms.in_proportion`), and `gradients_of` (for
      `onward.transforms.extended_kalman`). This takes a function from the prediction of a chunk of one step to several
      derivatives of a loss, `[K, outputs]`, and gives the K gradients of the estimator for them. A line search such as
      that of `optax.lbfgs` is refused: it compares values of one objective, but each chunk of a stream is a different
      objective.
    - `loss`: `loss(prediction, y) -> scalar`, for one step of one stream. With `has_aux=True` it returns a pair: the
      scalar, and auxiliary values of any shapes, which are returned as `Metrics.auxiliary`.
    - `chunk`: S, the number of steps between updates, at least 1.
    - `batch`: the number of streams; `None` for a single stream without a batch axis. If `xs` is sharded along the
      batch over the devices of one process or of several, each device learns from its own streams, and one reduction an
      update averages the gradients. On CPU, one device per core is faster than threads (see
      `benchmarks/sequences.py`).

    A learner is a frozen module: make another one with `dataclasses.replace(learner, chunk=2)`. Two learners are equal
    if their settings are equal. Equal learners share their compiled programs, which are freed together with the last of
    them. Functions are equal only if they are the same object. An Optax transformation consists of functions, so two
    calls of `optax.adam(1e-3)` give two different optimisers. To share programs, make an optimiser once and pass it to
    every learner.

    Raises `ValueError` if `estimator`, `optimizer` or `loss` is of the wrong kind, or if `chunk` or `batch` is below 1.

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

    estimator: AbstractEstimator
    optimizer: optax.GradientTransformation
    loss: Callable[[PyTree, PyTree], Any]
    chunk: int = eqx.field(static=True)
    batch: int | None = eqx.field(static=True)
    has_aux: bool = eqx.field(static=True)

    def __init__(
        self,
        estimator: AbstractEstimator,
        optimizer: optax.GradientTransformation | optax.MultiSteps,
        *,
        loss: Callable[[PyTree, PyTree], Any],
        chunk: int = 1,
        batch: int | None = None,
        has_aux: bool = False,
    ):
        if not isinstance(estimator, AbstractEstimator):
            raise ValueError(f"estimator must be an estimator such as onward.RTRL(), got {estimator!r}.")
        check_optimizer(optimizer)
        check_loss(loss)
        if not isinstance(optimizer, optax.GradientTransformation):
            functions: Any = optimizer
            optimizer = optax.GradientTransformationExtraArgs(functions.init, functions.update)
        self.estimator, self.optimizer, self.loss = estimator, optimizer, loss
        self.chunk, self.batch = whole("chunk", chunk), None if batch is None else whole("batch", batch)
        self.has_aux = has_aux

    # Equinox's own looks up attributes in Python and builds a module for every method, which costs much of a call of
    # `update`: see `benchmarks/results/xla-on-cpu.md`, "Calls and flags".
    __getattribute__ = object.__getattribute__

    def init(
        self,
        model: Model,
        *,
        key: PRNGKeyArray,
        example: tuple[PyTree, PyTree] | None = None,
        filter_spec: PyTree = eqx.is_inexact_array,
    ) -> Carry:
        """The carry at the start of a stream.

        **Arguments:**

        - `model`: the `onward.Model` to train.
        - `key`: the random key of the estimator's random draws.
        - `example`: one `(x, y)` of one stream, for estimators that store inputs or read the cell's program
          (`SlidingBPTT`, `FPP`, and `SnAp` unless the cell is affine-gated and the order is 1).
        - `filter_spec`: which arrays are trained, as in `eqx.filter`: true, false, or a function of a leaf, for each
          leaf or subtree of the model; by default all floating-point arrays. A frozen array has no influence, no
          gradient and no optimiser state, and weight decay does not move it.

        Raises `ValueError` if the model has nothing to train, if trained parameters or the hidden state are complex, if
        `filter_spec` does not fit, or if the example is needed and missing.

            >>> import equinox as eqx, jax, jax.random as jr, onward, optax
            >>> model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
            >>> frozen = jax.tree.map(lambda leaf: False, model)
            >>> readout_alone = eqx.tree_at(lambda m: m.readout, frozen, True)
            >>> loss = onward.losses.softmax_cross_entropy
            >>> learner = onward.Learner(onward.RTRL(), optax.adam(1e-2), loss=loss)
            >>> carry = learner.init(model, key=jr.key(2), filter_spec=readout_alone)
            >>> jax.tree.leaves(carry.estimator)
            []
        """
        model = freeze(model, filter_spec)
        check_model(model)
        check_key(key)
        if example is not None:
            if not isinstance(example, tuple) or len(example) != 2:
                raise ValueError(f"example must be a pair (x, y) of one step, got {type(example).__name__}.")
            check_step(thaw(model), thaw(model).cell.init_hidden(), scalar_loss(self), *example)
        arrays, skeleton = eqx.partition(model, eqx.is_array)
        # A weak dtype, such as that of `jnp.array(0.3)`, would be lost at the first update, and everything would
        # compile again.
        arrays = jax.tree.map(lambda a: a.astype(a.dtype) if eqx.is_inexact_array(a) else a, arrays)
        model = eqx.combine(arrays, skeleton)
        hidden = thaw(model).cell.init_hidden()

        def start(key):
            return hidden, self.estimator.init(model, hidden, key=key, example=example)

        hidden, state = start(key) if self.batch is None else jax.vmap(start)(jr.split(key, self.batch))
        fresh = jnp.ones(() if self.batch is None else self.batch, bool) if learns_initial_state(model.cell) else None
        optimizer = started(self.optimizer, learnable(arrays))
        check_each_gradient(optimizer)
        check_update(update_of(self.optimizer), optimizer, learnable(arrays))
        check_fptt_first(self.optimizer, optimizer, learnable(arrays))
        carry = Carry(arrays, skeleton, hidden, state, optimizer, fresh)
        # An optimiser's state may share the parameters' memory, and several arrays of zeros may be the same array.
        # `jnp.copy` would compile a program for each shape.
        return jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=False), carry)

    def update(
        self,
        carry: Carry,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, "steps *batch"] | None = None,
        weight: Float[Array, "steps *batch"] | None = None,
        predictions: bool = False,
        observe: Observe | None = None,
    ) -> tuple[Carry, Metrics]:
        """One chunk and one update. `xs` and `ys` are `[steps, ...]`, or `[steps, batch, ...]` with a batch;
        see `run`.
        """
        check_predictions(predictions)
        if observe is not None:
            check_observe(observe)
        programs, shared = programs_of(self), None if self.batch is None else spread_along(xs, 1)
        update = programs[_learner_programs.update, How(predictions, observe, None, shared)]
        try:
            if shared is None:  # the way of small steps, in which every microsecond counts
                return update(carry, xs, ys, reset, weight)
            return update(*_placed(shared, carry, xs, ys, reset, weight))
        except Exception:
            check_arguments(carry, Carry, xs, ys)  # here, because at every call it would cost a tenth of a small step
            raise

    def run(
        self,
        carry: Carry,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, "steps *batch"] | None = None,
        weight: Float[Array, "steps *batch"] | None = None,
        predictions: bool = False,
        observe: Observe | None = None,
    ) -> tuple[Carry, Metrics]:
        """Runs over the next steps of the stream, chunk after chunk, in one compiled program.

        **Arguments:**

        - `carry`: from `init` or from the previous call. If a stream is cut into several calls at multiples of the
          chunk, the results have the same bits as in one call.
        - `xs`, `ys`: inputs and targets, `[steps, ...]`, or `[steps, batch, ...]` with a batch. If the number of steps
          is not a multiple of the chunk, the last chunk is shorter.
        - `reset`: true if a new sequence starts at the step.
        - `weight`: a factor of the step's loss. A weight of 0 leaves the loss out. If all weights of a chunk are 0, the
          parameters and the optimiser do not change, unless the estimator also learns from the past, as `onward.FPP`
          does.
        - `predictions`: whether `Metrics` holds the predictions. If not, they are never stored.
        - `observe`: a function of an `onward.observing.Update`, called in the compiled program at every update. It
          returns a tree of arrays, which are stacked in `Metrics.observed`; `onward.observing.update_norms` is an
          example. Pass the same function at every call, because a new function compiles again.

        Returns the carry to continue with, and `Metrics`. Each new number of steps compiles again, so feed a long
        stream in blocks of one size. Raises `ValueError` with the argument's name for shapes and dtypes that do not
        fit, and for targets out of the range of a loss of `onward.losses`, such as a class that the model does not
        predict.

        A run has derivatives of every order, forward and reverse. For example, you can differentiate its last loss with
        respect to a rate in the optimiser, or to the initial weights (meta-gradients). Reverse mode stores the carry of
        every chunk. To differentiate through `optax.adam`, give it an `eps_root` above 0, because its square roots have
        no derivative where a gradient has always been 0.
        """
        check_arguments(carry, Carry, xs, ys)
        check_targets(self.loss, carry, ys, weight)
        check_predictions(predictions)
        if observe is not None:
            check_observe(observe)
        shape = np.shape(next(iter(jax.tree.leaves(xs)), 0))
        steps = shape[0] if shape else 0  # tracing reports what is wrong with xs
        taken, parts, at = self.estimator.taken(carry.estimator), [], 0
        stages = [(None, steps)]
        # A stream that cannot be cut goes to the program whole, which reports what is wrong with it.
        if taken is not None and steps and _all_as_long(steps, (xs, ys, reset, weight)):
            stages = self.estimator.stages(taken, steps, self.chunk)
        shared = None if self.batch is None else spread_along(xs, 1)
        for stage, here in stages:
            stream = xs, ys, reset, weight
            if len(stages) > 1:
                stream = jax.tree.map(lambda leaf, a=at, b=at + here: leaf[a:b], stream)
            count = np.int32(here // self.chunk)
            run = programs_of(self)[_learner_programs.run, How(predictions, observe, stage, shared)]
            carry, metrics = run(*_placed(shared, carry, *stream), count)
            parts.append(metrics)
            at += here
        return carry, parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def predict(self, carry: Carry, x: PyTree, *, reset: Bool[Array, "*batch"] | None = None) -> tuple[Carry, Said]:
        """Advances by one step and predicts, before the target is known. Later, `learn` takes the target.

        **Arguments:** `x`: one input, `[...]`, or `[batch, ...]` with a batch; `reset`: whether a new sequence starts
        with it. Returns the carry after the step and a `Said`. This holds the `prediction`, on which you may act, and a
        copy of what `learn` needs; with an estimator such as `onward.RTRL` the copy is as large as the influence.

        `predict` and then `learn` give the same result as `update` with a chunk of 1; the cell runs once. If a step has
        no target, just predict the next step: the influence is carried along with the state.

        Raises `ValueError` for an estimator that does not carry its influence forward.

            >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
            >>> learner = onward.Learner(onward.SnAp(), optax.adam(3e-2), loss=onward.losses.squared_error)
            >>> model = onward.Model(onward.GRUCell(1, 8, key=jr.key(0)), eqx.nn.Linear(8, 1, key=jr.key(1)))
            >>> carry, position = learner.init(model, key=jr.key(2)), jnp.ones(1)
            >>> for _ in range(300):                                       # predict where the action will lead
            ...     carry, said = learner.predict(carry, position)
            ...     position = 0.5 * said.prediction + 0.25                # the world answers what was said
            ...     carry, metrics = learner.learn(carry, said, position)
            >>> bool(metrics.losses < 1e-4)
            True
        """
        try:
            return programs_of(self)[_learner_programs.predict, How()](carry, x, reset)
        except Exception:
            check_arguments(carry, Carry, x, None)
            raise

    def learn(
        self, carry: Carry, said: Said, y: PyTree, *, weight: Float[Array, "*batch"] | None = None
    ) -> tuple[Carry, Metrics]:
        """One update with the target of an earlier prediction.

        The loss and its gradient are those of the prediction when it was made, at the parameters of that time. The
        update is applied to the parameters of `carry`, which may have changed since. Several predictions may wait for
        their targets, which may come in any order.

        **Arguments:** `y`: the target, `[...]`, or `[batch, ...]`; `weight`: a factor of the loss. Returns the carry
        and the `Metrics` of this one step, without a leading axis. Raises `ValueError` for a target that does not fit,
        and for an optimiser such as `onward.fptt_exact`, which needs the gradient at other parameters.
        """
        if not isinstance(said, Said):
            raise ValueError(f"said must be what learner.predict returned, got {type(said).__name__}.")
        try:
            return programs_of(self)[_learner_programs.learn, How()](carry, said, y, weight)
        except Exception:
            check_arguments(carry, Carry, y, None)
            raise

    def influence_norm(self, carry: Carry) -> Float[Array, "*batch"]:
        """The norm of the influence (the estimate of ∂hidden/∂θ) of each stream, so that you can watch for overflow."""
        norm = self.estimator.influence_norm
        return norm(carry.estimator) if self.batch is None else jax.vmap(norm, axis_size=self.batch)(carry.estimator)


def _all_as_long(steps: int, stream: PyTree) -> bool:
    """Whether each leaf of a stream has `steps` as its leading axis."""
    return all(np.shape(leaf)[:1] == (steps,) for leaf in jax.tree.leaves(stream))


def _placed(shared: NamedSharding | None, carry: Carry, *streams: PyTree) -> tuple[PyTree, ...]:
    """The arguments of a program on the devices that share the streams. While a program is traced they stay as they
    are.
    """
    if shared is None or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((carry, streams))):
        return carry, *streams
    along = NamedSharding(shared.mesh, PartitionSpec(None, *shared.spec))
    return spread(carry, shared), *placed(streams, along)
