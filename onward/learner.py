"""The learner: an estimator, an optimiser and a loss, over one stream or a batch of them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ._checks import check_model, check_step, check_stream, check_targets
from ._learner_checks import (
    check_arguments,
    check_carry,
    check_estimator_state,
    check_input,
    check_key,
    check_loss,
    check_optimizer,
    check_outcome,
    check_update,
)
from .cells.affine import constants_at_zero
from .cells.initial_state import learns_initial_state
from .estimators.base import AbstractEstimator, Chunk, Estimate, Replay, Said, weighted_loss
from .model import Model
from .observing import Update
from .support.arguments import whole
from .support.compiled import programs_of
from .support.devices import explicit_mesh, with_auto_axes
from .support.freezing import freeze, learnable, thaw
from .support.trees import mean_of_leading, select, zeros_like
from .transforms.composition import check_fptt_first, update_of
from .transforms.informed import metric_of

# Up to this many updates of one estimate are written out instead of looped. XLA then fuses them if the optimiser works
# number by number, which is faster: see `benchmarks/results/xla-on-cpu.md`, "Small loops".
WRITTEN_OUT = 8

Given = TypeVar("Given", Estimate, Replay)
Observe = Callable[[Update], PyTree]


class Carry(eqx.Module):
    """Everything that training carries from chunk to chunk: a pytree of arrays, which you can scan, `vmap` over seeds,
    and save.

    * `arrays`: the model's arrays; a frozen array is wrapped in an `onward.support.freezing.Frozen`. `model` is the
      whole model;
    * `hidden`: the hidden state, with the batch of streams as its leading axis if there is one;
    * `estimator`, `optimizer`: their states; the estimator's has the batch as its leading axis. A random key is stored
      as its numbers;
    * `fresh`: whether a stream has not begun yet; `None` unless the model's initial state is trained.

    NumPy can hold every leaf. No two leaves of a carry from `Learner.init` share memory with each other or with the
    model, so a fresh carry can be donated to a compiled function. `onward.checkpoints` saves and loads carries.
    """

    arrays: PyTree
    skeleton: PyTree = eqx.field(static=True)
    hidden: PyTree
    estimator: PyTree
    optimizer: PyTree
    fresh: Bool[Array, "*batch"] | None = None

    @property
    def model(self) -> Model:
        """The current model."""
        return thaw(self.learning)

    @property
    def learning(self) -> Model:
        """The model in the form that estimators take, in which frozen arrays are marked."""
        return eqx.combine(self.arrays, self.skeleton)


class Metrics(NamedTuple):
    """The results of a run.

    * `losses`: `[steps]` or `[steps, batch]`, the loss of each step times its weight;
    * `predictions`: `[steps, ...]` or `[steps, batch, ...]`, each made before its step was learned; `None` unless you
      ask for them;
    * `auxiliary`: what the loss returned besides its value, with the axes of `losses` first; `None` without `has_aux`;
    * `observed`: what `observe=` returned at each update, `[updates, ...]`; `None` without it.
    """

    losses: Float[Array, "steps *batch"]
    predictions: PyTree = None
    auxiliary: PyTree = None
    observed: PyTree = None


class Learner(eqx.Module):
    """Trains a model on a stream: `estimator` computes a gradient of each chunk, and `optimizer` applies it.

    Parameters are fixed within a chunk and updated after it. The gradients of a batch are averaged over its streams.
    With the default chunk of one step, this is fully online learning. Memory does not grow with the stream (with `BPTT`
    it grows with the chunk).

    **Arguments:**

    - `estimator`: for example `onward.NoBackTrack(rank=1)`, `onward.RTRL()`, or `onward.BPTT()` with its window as the
      chunk.
    - `optimizer`: any Optax gradient transformation, with any schedule. The learner passes it `value`, the number whose
      gradient it receives (for `optax.contrib.reduce_on_plateau` or `optax.polyak_sgd`), and `grad_fn`, the same
      gradient as a function of the parameters (for `onward.fptt_exact`). A line search such as that of `optax.lbfgs` is
      refused: it compares values of one objective, but each chunk of a stream is a different objective.
    - `loss`: `loss(prediction, y) -> scalar`, for one step of one stream. With `has_aux=True` it returns a pair: the
      scalar, and auxiliary values of any shapes, which are returned as `Metrics.auxiliary`.
    - `chunk`: S, the number of steps between updates, at least 1.
    - `batch`: the number of streams; `None` for a single stream without a batch axis. If `xs`, `ys` and the other
      inputs are sharded along the batch over several devices, each device learns from its own streams. On CPU, one
      device per core is faster than threads (see `benchmarks/sequences.py`).

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

    def __getattribute__(self, name: str) -> Any:
        # Equinox builds a module whenever a method is looked up, which costs much of a call of `update`: see
        # `benchmarks/results/xla-on-cpu.md`, "Calls and flags".
        return object.__getattribute__(self, name)

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
          (`SlidingBPTT`, `FPP`, and `SnAp` except in its cheap case).
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
            check_step(thaw(model), thaw(model).cell.init_hidden(), self._scalar_loss, *example)
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
        optimizer = self.optimizer.init(learnable(arrays))
        check_update(update_of(self.optimizer), optimizer, learnable(arrays))
        check_fptt_first(self.optimizer, optimizer, learnable(arrays))
        carry = Carry(arrays, skeleton, hidden, state, optimizer, fresh)
        # An optimiser's state may share the parameters' memory, and several arrays of zeros may be the same array.
        return jax.tree.map(jnp.copy, carry)

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
        check_arguments(carry, Carry, xs, ys)
        update = programs_of(self)(_update, static_argnames=("predictions", "observe"))
        return update(carry, xs, ys, reset, weight, predictions=predictions, observe=observe)

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
        every chunk. For this, give `optax.adam` an `eps_root` above 0: its square roots have no derivative where a
        gradient has always been 0.
        """
        check_arguments(carry, Carry, xs, ys)
        check_targets(self.loss, carry, ys, weight)
        shape = np.shape(next(iter(jax.tree.leaves(xs)), 0))
        steps = shape[0] if shape else 0  # tracing reports what is wrong with xs
        run, count = programs_of(self)(_run, static_argnames=("predictions", "observe")), np.int32(steps // self.chunk)
        return run(carry, xs, ys, reset, weight, count, predictions=predictions, observe=observe)

    def predict(self, carry: Carry, x: PyTree, *, reset: Bool[Array, "*batch"] | None = None) -> tuple[Carry, Said]:
        """Advances by one step and predicts, before the target is known. Later, `learn` takes the target.

        **Arguments:** `x`: one input, `[...]`, or `[batch, ...]` with a batch; `reset`: whether a new sequence starts
        with it. Returns the carry after the step and a `Said`. This holds the `prediction`, on which you may act, and a
        copy of what `learn` needs; with an estimator such as `onward.RTRL` the copy is as large as the influence.

        Predicting a step and then learning it is the same as `update` with a chunk of 1, and the cell runs once. If no
        target comes, just predict the next step: the influence continues with the state.

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
        check_arguments(carry, Carry, x, None)
        return programs_of(self)(_predict)(carry, x, reset)

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
        check_arguments(carry, Carry, y, None)
        if not isinstance(said, Said):
            raise ValueError(f"said must be what learner.predict returned, got {type(said).__name__}.")
        return programs_of(self)(_learn)(carry, said, y, weight)

    def influence_norm(self, carry: Carry) -> Float[Array, "*batch"]:
        """The norm of the influence (the estimate of ∂hidden/∂θ) of each stream, so that you can watch for overflow."""
        norm = self.estimator.influence_norm
        return norm(carry.estimator) if self.batch is None else jax.vmap(norm, axis_size=self.batch)(carry.estimator)

    def _check(self, carry, xs, ys, reset, weight) -> int:
        """The number of steps. Raises `ValueError` unless carry and stream fit this learner."""
        check_carry(carry, self.optimizer, self.batch)
        check_stream(carry.model, carry.hidden, self._scalar_loss, self.batch, xs, ys, reset, weight)
        check_estimator_state(carry, self.estimator, self.batch, xs, ys)
        return jax.tree.leaves(xs)[0].shape[0]

    def _draw(self, carry, steps):
        """The random bits of all steps, drawn outside the loop, with time as the leading axis."""
        if self.batch is None:
            return self.estimator.draw(carry.estimator, steps)
        draw = jax.vmap(lambda state: self.estimator.draw(state, steps), out_axes=1, axis_size=self.batch)
        return draw(carry.estimator)

    @property
    def _scalar_loss(self) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
        return _Scalar(self.loss) if self.has_aux else self.loss

    def _step(
        self, carry: Carry, chunk: Chunk, predictions: bool, observe: Observe | None = None
    ) -> tuple[Carry, Metrics]:
        carry, estimate, observed = self._turn(carry, lambda carry: self._estimate(carry, chunk), observe)
        if self.estimator.replays:
            turns = 1 + self.estimator.replays
            observed = jax.tree.map(lambda leaf: jnp.zeros((turns, *leaf.shape), leaf.dtype).at[0].set(leaf), observed)

            def again(turn, loop):
                carry, observed = loop
                carry, _, here = self._turn(carry, lambda carry: self._replay(carry, turn, chunk.noise), observe)
                return carry, jax.tree.map(lambda every, one: every.at[turn].set(one), observed, here)

            carry, observed = jax.lax.fori_loop(1, turns, again, (carry, observed))
            observed = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), observed)
        auxiliary = self._auxiliary(estimate.predictions, chunk.ys) if self.has_aux else None
        return carry, Metrics(estimate.losses, estimate.predictions if predictions else None, auxiliary, observed)

    def _auxiliary(self, predictions: PyTree, ys: PyTree) -> PyTree:
        """The auxiliary values of the loss, computed here so that estimators need not know of them."""

        def one(prediction, y):
            return self.loss(prediction, y)[1]

        return jax.vmap(one if self.batch is None else jax.vmap(one))(predictions, ys)

    def _estimate(self, carry: Carry, chunk: Chunk) -> Estimate:
        estimator = self.estimator.informed(metric_of(self.optimizer, carry.optimizer))
        of = estimator.estimate if self.batch is None else estimator.mean_estimate
        return of(carry.learning, self._scalar_loss, carry.hidden, carry.estimator, chunk)

    def _replay(self, carry: Carry, turn: Array, noise: PyTree) -> Replay:
        of = self.estimator.replay if self.batch is None else self.estimator.mean_replay
        return of(carry.learning, self._scalar_loss, carry.estimator, turn, noise=noise)

    def _turn(
        self, carry: Carry, estimate: Callable[[Carry], Given], observe: Observe | None = None
    ) -> tuple[Carry, Given, PyTree]:
        """Estimates gradients at the carry and applies each of them in turn. Also returns what is observed at each
        update.
        """
        given = estimate(carry)
        after_chunk = Carry(carry.arrays, carry.skeleton, given.hidden, given.state, carry.optimizer)

        def grads_at(parameters):
            # Constants do not move, whatever the optimiser does to them.
            learned = constants_at_zero(jax.tree.map(lambda p: jnp.array(True), parameters))
            arrays = jax.tree.map(jnp.where, learned, parameters, learnable(carry.arrays))
            arrays = eqx.combine(arrays, carry.arrays)
            there = Carry(arrays, carry.skeleton, carry.hidden, carry.estimator, carry.optimizer)
            return constants_at_zero(estimate(there).grads)

        def apply(moving, grads, active, value, grad_fn):
            arrays, optimizer = moving
            # An optimiser that does not ask for the value, or for the gradient at other parameters, does not have them
            # computed.
            updates, after = update_of(self.optimizer)(
                grads, optimizer, learnable(arrays), value=value, grad_fn=grad_fn
            )
            updates = constants_at_zero(updates)
            # An optimiser with a memory changes the parameters even if the gradient is zero.
            moved = select(active, (eqx.apply_updates(arrays, updates), after), moving)
            return moved, observe and observe(
                Update(
                    thaw(eqx.combine(arrays, carry.skeleton)),
                    value,
                    grads,
                    select(active, updates, zeros_like(updates)),
                    self.influence_norm(after_chunk),
                    active,
                )
            )

        moving, grads, active = (carry.arrays, carry.optimizer), given.grads, given.active
        if active.ndim == 0:
            (arrays, optimizer), observed = apply(moving, grads, active, given.value, grads_at)
            observed = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], observed)
        else:
            values = jnp.broadcast_to(given.value, active.shape)

            def one(k, moving):
                def part(tree):
                    return jax.tree.map(lambda leaf: leaf[k], tree)

                here, is_active, value = part((grads, active, values))
                return apply(moving, here, is_active, value, lambda parameters: part(grads_at(parameters)))

            def body(k, loop):
                moving, observed = loop
                moving, here = one(k, moving)
                return moving, jax.tree.map(lambda every, one: every.at[k].set(one), observed, here)

            count = len(active)
            shapes = observe and jax.eval_shape(one, 0, moving)[1]
            observed = jax.tree.map(lambda s: jnp.zeros((count, *s.shape), s.dtype), shapes)
            (arrays, optimizer), observed = jax.lax.fori_loop(
                0, count, body, (moving, observed), unroll=min(count, WRITTEN_OUT)
            )
        fresh = None if carry.fresh is None else jnp.zeros_like(carry.fresh)
        return Carry(arrays, carry.skeleton, given.hidden, given.state, optimizer, fresh), given, observed


class _Scalar(eqx.Module):
    """A loss without its auxiliary values."""

    loss: Callable

    def __call__(self, prediction, y):
        return self.loss(prediction, y)[0]


def _on_any_mesh(function: Callable) -> Callable:
    """Extends a function from a learner, a carry and a stream to a carry and metrics to meshes with Explicit axes."""

    def placed(learner: Learner, carry: Carry, xs, *rest, **options):
        mesh = explicit_mesh((carry, xs))
        if mesh is None:
            return function(learner, carry, xs, *rest, **options)

        def parts(*arguments):
            carry, metrics = function(learner, *arguments, **options)
            everywhere = carry.arrays, carry.optimizer, metrics.observed
            return everywhere, (carry.hidden, carry.estimator, carry.fresh), metrics._replace(observed=None)

        # Results are sharded like the streams; parameters are replicated.
        first = next(iter(jax.tree.leaves(xs)), None)
        spec = () if learner.batch is None or first is None else jax.typeof(first).sharding.spec[1:2]
        places = PartitionSpec(), PartitionSpec(*spec), PartitionSpec(None, *spec)
        everywhere, of_streams, metrics = with_auto_axes(parts, mesh, places)(carry, xs, *rest)
        (arrays, optimizer, observed), (hidden, estimator, fresh) = everywhere, of_streams
        return Carry(arrays, carry.skeleton, hidden, estimator, optimizer, fresh), metrics._replace(observed=observed)

    placed.__name__ = function.__name__
    return placed


@_on_any_mesh
def _update(learner: Learner, carry, xs, ys, reset, weight, *, predictions: bool, observe: Observe | None):
    steps = learner._check(carry, xs, ys, reset, weight)
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, learner._draw(carry, steps))
    return learner._step(carry, stream, predictions, observe)


def _resets(carry: Carry, reset, steps: int):
    """`reset`, set to true at the first step of a stream whose initial state is trained, because its gradient enters
    there.
    """
    if carry.fresh is None:
        return reset
    reset = jnp.zeros((steps, *carry.fresh.shape), bool) if reset is None else jnp.asarray(reset)
    return reset.at[0].set(reset[0] | carry.fresh)


@_on_any_mesh
def _run(learner: Learner, carry, xs, ys, reset, weight, count, *, predictions: bool, observe: Observe | None):
    steps = learner._check(carry, xs, ys, reset, weight)
    whole = steps - steps % learner.chunk
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, learner._draw(carry, steps))
    parts = []
    if whole:
        carry, chunks = _loop(
            lambda carry, chunk: learner._step(carry, chunk, predictions, observe), carry, stream, learner.chunk, count
        )
        given = whole // learner.chunk
        parts.append(jax.tree.map(lambda leaf: leaf[:given].reshape(-1, *leaf.shape[2:]), chunks))
    if whole < steps:
        carry, rest = learner._step(carry, jax.tree.map(lambda leaf: leaf[whole:], stream), predictions, observe)
        parts.append(rest)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _predict(learner: Learner, carry, x, reset):
    model, estimator = carry.learning, learner.estimator.informed(metric_of(learner.optimizer, carry.optimizer))
    check_carry(carry, learner.optimizer, learner.batch)
    check_input(carry.model, carry.hidden, learner.batch, x, reset)
    reset, noise = jax.tree.map(lambda leaf: leaf[0], (_resets(carry, _leading(reset), 1), learner._draw(carry, 1)))

    def one(hidden, state, x, reset, noise) -> tuple[PyTree, PyTree, Said]:
        return estimator.say(model, hidden, state, x, reset, noise)

    each = one if learner.batch is None else jax.vmap(one, axis_size=learner.batch)
    hidden, state, said = each(carry.hidden, carry.estimator, x, reset, noise)
    fresh = None if carry.fresh is None else jnp.zeros_like(carry.fresh)
    return Carry(carry.arrays, carry.skeleton, hidden, state, carry.optimizer, fresh), said


def _leading(tree: PyTree) -> PyTree:
    """The tree of one step, with a leading axis of time."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def _learn(learner: Learner, carry, said, y, weight):
    check_carry(carry, learner.optimizer, learner.batch)
    check_outcome(learner._scalar_loss, learner.batch, said.prediction, y, weight)

    def one(said, y, weight):
        loss = jax.value_and_grad(lambda prediction: weighted_loss(learner._scalar_loss, prediction, y, weight))
        value, derivative = loss(said.prediction)
        grads = said.pullback(derivative)
        return value, grads if weight is None else select(weight != 0, grads, zeros_like(grads))

    if learner.batch is None:
        losses, grads = one(said, y, weight)
    else:
        losses, grads = jax.vmap(one)(said, y, weight)
        grads = mean_of_leading(grads)
    active = jnp.array(True) if weight is None else jnp.any(weight != 0)
    estimate = Estimate(losses[None], grads, carry.hidden, carry.estimator, said.prediction, active)

    def here(there):
        if there is not carry:
            raise ValueError(
                "optimizer needs the gradient at other parameters, as fptt_exact does, which predict does not keep; "
                "use update instead of predict and learn."
            )
        return estimate

    carry, _, _ = learner._turn(carry, here)
    auxiliary = None
    if learner.has_aux:
        auxiliary = learner._auxiliary(_leading(said.prediction), _leading(y))
        auxiliary = jax.tree.map(lambda leaf: leaf[0], auxiliary)
    return carry, Metrics(losses, auxiliary=auxiliary)


def _loop(step, carry, stream, size, count):
    """`lax.scan` of `step` over the stream's first `count` chunks of `size`; the compiler does not know the count.

    If the compiler knows that a loop runs once, it inlines it; if it knows that there is a single chunk, it folds the
    index. Either way it fuses the step with its surroundings and changes the last bits, and results would depend on how
    a stream is cut into calls. A single chunk is therefore doubled, and the loop runs once.

    Such a loop has no derivative in reverse mode. If derivatives are asked for, `lax.scan` itself runs.
    """
    # Values that the step closes over, such as a rate, become arguments, so that they can be differentiated too.
    step = eqx.filter_closure_convert(step, carry, jax.tree.map(lambda leaf: leaf[:size], stream))
    return _counted(step, carry, stream, size=size, count=count)


@eqx.filter_custom_jvp
def _counted(step, carry, stream, *, size, count):
    given = chunks = len(jax.tree.leaves(stream)[0]) // size
    if chunks == 1:
        chunks, stream = 2, jax.tree.map(lambda leaf: jnp.concatenate([leaf[:size], leaf[:size]]), stream)
    out = jax.tree.map(lambda s: jnp.zeros((chunks, *s.shape), s.dtype), step.out_struct[1])

    def body(i, loop):
        carry, out = loop
        chunk = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i * size, size), stream)
        carry, value = step(carry, chunk)
        return carry, jax.tree.map(lambda o, v: jax.lax.dynamic_update_index_in_dim(o, v, i, 0), out, value)

    carry, out = jax.lax.fori_loop(0, count, body, (carry, out))
    return carry, jax.tree.map(lambda leaf: leaf[:given], out)


@_counted.def_jvp
def _scanned(primals, tangents, *, size, count):
    del count  # one call runs all its chunks

    def scan(step, carry, stream):
        def cut(leaf):
            chunks = len(leaf) // size
            return leaf[: chunks * size].reshape(chunks, size, *leaf.shape[1:])

        return jax.lax.scan(lambda *inputs: step(*inputs), carry, jax.tree.map(cut, stream))

    return eqx.filter_jvp(scan, primals, tangents)
