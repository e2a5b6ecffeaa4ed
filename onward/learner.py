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

from ._checks import (
    check_arguments,
    check_carry,
    check_estimator_state,
    check_key,
    check_loss,
    check_model,
    check_optimizer,
    check_step,
    check_stream,
    check_targets,
)
from .cells.affine import constants_at_zero
from .cells.initial_state import learns_initial_state
from .estimators.base import AbstractEstimator, Chunk, Estimate, Replay
from .model import Model
from .support.arguments import whole
from .support.compiled import programs_of
from .support.devices import explicit_mesh, with_auto_axes
from .support.freezing import freeze, learnable, thaw
from .support.trees import select
from .transforms.informed import metric_of

# As many updates of one estimate are written out one after another, and fuse with one another where the optimiser goes
# number by number: a step of four updates of 4 units takes 7 % less, and of 32 units 4 %.
WRITTEN_OUT = 8

Given = TypeVar("Given", Estimate, Replay)


class Carry(eqx.Module):
    """All that training carries on: a pytree whose leaves are arrays, to scan, `vmap` over seeds, and checkpoint as
    one.

    * `arrays`: the model's arrays, frozen ones in an `onward.support.freezing.Frozen`; `model` puts the model together
      again;
    * `hidden`: the hidden state, with the batch of streams leading if there is one;
    * `estimator`, `optimizer`: their states, the first with the batch leading. A random key is held as its numbers;
    * `fresh`: whether a stream has not begun yet; `None` unless the model's initial state learns.

    NumPy can hold every leaf, and no two leaves of a carry from `Learner.init` share their memory with one another or
    with the model: a fresh carry can be donated to a compiled function. `onward.checkpoints` saves and loads carries.
    """

    arrays: PyTree
    skeleton: PyTree = eqx.field(static=True)
    hidden: PyTree
    estimator: PyTree
    optimizer: PyTree
    fresh: Bool[Array, "*batch"] | None = None

    @property
    def model(self) -> Model:
        """The model as it is now."""
        return thaw(self.learning)

    @property
    def learning(self) -> Model:
        """The model as estimators take it, in which what is frozen is marked."""
        return eqx.combine(self.arrays, self.skeleton)


class Metrics(NamedTuple):
    """What a run reports.

    * `losses`: one a step, `[steps]` or `[steps, batch]`, each times its weight;
    * `predictions`: `[steps, ...]` or `[steps, batch, ...]`, each made before its step was learned; `None` unless the
      run was asked for them.
    """

    losses: Float[Array, "steps *batch"]
    predictions: PyTree = None


class Learner(eqx.Module):
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

    A learner is a frozen module: make another one with `dataclasses.replace(learner, chunk=2)`. Two learners are equal
    if their settings are, and equal learners share their compiled programs, which leave memory with the last of them.
    Functions are equal only if they are the same object: an Optax transformation is made of functions, so that two
    calls of `optax.adam(1e-3)` are two optimisers. Make an optimiser once, and hand it to every learner that is to
    share its programs.

    Raises `ValueError` for an estimator, optimiser or loss that is none, and for a chunk or batch below 1.

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
    loss: Callable[[PyTree, PyTree], Float[Array, ""]]
    chunk: int = eqx.field(static=True)
    batch: int | None = eqx.field(static=True)

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
        check_optimizer(optimizer)
        check_loss(loss)
        self.estimator, self.optimizer, self.loss = estimator, optimizer, loss
        self.chunk, self.batch = whole("chunk", chunk), None if batch is None else whole("batch", batch)

    def __getattribute__(self, name: str) -> Any:
        # Equinox makes a module of every method that is asked for: a third of what a call of `update` costs.
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

        - `model`: what learns, an `onward.Model`.
        - `key`: decides what a random estimator draws.
        - `example`: one `(x, y)` of one stream, for the estimators that store inputs or read the cell's program
          (`SlidingBPTT`, `FPP`, `SnAp` beyond its cheap case).
        - `filter_spec`: which arrays learn, as in `eqx.filter`: true, false, or a function of a leaf, for each leaf or
          subtree of the model; by default all floating-point arrays. For a frozen array no influence is carried, no
          gradient made and no optimiser's state held, and no weight decay moves it.

        Raises `ValueError` if the model has nothing to learn, if what learns or the hidden state is complex, for a
        `filter_spec` that does not fit, or if the example is needed and missing.

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
            check_step(thaw(model), thaw(model).cell.init_hidden(), self.loss, *example)
        arrays, skeleton = eqx.partition(model, eqx.is_array)
        # A weak dtype, as of `jnp.array(0.3)`, would be lost at the first update, and all be compiled again.
        arrays = jax.tree.map(lambda a: a.astype(a.dtype) if eqx.is_inexact_array(a) else a, arrays)
        model = eqx.combine(arrays, skeleton)
        hidden = thaw(model).cell.init_hidden()

        def start(key):
            return hidden, self.estimator.init(model, hidden, key=key, example=example)

        hidden, state = start(key) if self.batch is None else jax.vmap(start)(jr.split(key, self.batch))
        fresh = jnp.ones(() if self.batch is None else self.batch, bool) if learns_initial_state(model.cell) else None
        carry = Carry(arrays, skeleton, hidden, state, self.optimizer.init(learnable(arrays)), fresh)
        # An optimiser may hold the parameters once more, and several zeros be one array.
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
    ) -> tuple[Carry, Metrics]:
        """One chunk and one update. `xs`, `ys`: `[steps, ...]`, or `[steps, batch, ...]` with a batch; see `run`."""
        check_arguments(carry, Carry, xs, ys)
        update = programs_of(self)(_update, static_argnames="predictions")
        return update(carry, xs, ys, reset, weight, predictions=predictions)

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

        A run has derivatives of every order, forward and reverse, for example of its last loss with respect to a rate
        in the optimiser or to the weights it starts from (meta-gradients). Reverse mode stores every chunk's carry.
        Give `optax.adam` an `eps_root` above 0 for that: it takes square roots, which have no derivative where a
        gradient has always been 0.
        """
        check_arguments(carry, Carry, xs, ys)
        check_targets(self.loss, carry, ys, weight)
        shape = np.shape(next(iter(jax.tree.leaves(xs)), 0))
        steps = shape[0] if shape else 0  # what is wrong with xs is said in tracing
        run = programs_of(self)(_run, static_argnames="predictions")
        return run(carry, xs, ys, reset, weight, np.int32(steps // self.chunk), predictions=predictions)

    def influence_norm(self, carry: Carry) -> Float[Array, "*batch"]:
        """The norm of the carried approximation of ∂hidden/∂θ of each stream: watch it before it overflows."""
        norm = self.estimator.influence_norm
        return norm(carry.estimator) if self.batch is None else jax.vmap(norm, axis_size=self.batch)(carry.estimator)

    def _check(self, carry, xs, ys, reset, weight) -> int:
        """The number of steps, where carry and stream fit this learner; `ValueError` where they do not."""
        check_carry(carry, self.optimizer, self.batch)
        check_stream(carry.model, carry.hidden, self.loss, self.batch, xs, ys, reset, weight)
        check_estimator_state(carry, self.estimator, self.batch, xs, ys)
        return jax.tree.leaves(xs)[0].shape[0]

    def _draw(self, carry, steps):
        """The noise of all steps, drawn outside the loop, time first."""
        if self.batch is None:
            return self.estimator.draw(carry.estimator, steps)
        draw = jax.vmap(lambda state: self.estimator.draw(state, steps), out_axes=1, axis_size=self.batch)
        return draw(carry.estimator)

    def _step(self, carry: Carry, chunk: Chunk, predictions: bool) -> tuple[Carry, Metrics]:
        carry, estimate = self._turn(carry, lambda carry: self._estimate(carry, chunk))
        if self.estimator.replays:

            def again(turn, carry):
                return self._turn(carry, lambda carry: self._replay(carry, turn, chunk.noise))[0]

            carry = jax.lax.fori_loop(1, 1 + self.estimator.replays, again, carry)
        return carry, Metrics(estimate.losses, estimate.predictions if predictions else None)

    def _estimate(self, carry: Carry, chunk: Chunk) -> Estimate:
        estimator = self.estimator.informed(metric_of(self.optimizer, carry.optimizer))
        of = estimator.estimate if self.batch is None else estimator.mean_estimate
        return of(carry.learning, self.loss, carry.hidden, carry.estimator, chunk)

    def _replay(self, carry: Carry, turn: Array, noise: PyTree) -> Replay:
        of = self.estimator.replay if self.batch is None else self.estimator.mean_replay
        return of(carry.learning, self.loss, carry.estimator, turn, noise=noise)

    def _turn(self, carry: Carry, estimate: Callable[[Carry], Given]) -> tuple[Carry, Given]:
        """An estimate from the carry, and the update of the parameters by it; by each of its gradients in turn."""
        given = estimate(carry)

        def grads_at(parameters):
            # Constants stay where they are, whatever the optimiser would have done to them.
            learned = constants_at_zero(jax.tree.map(lambda p: jnp.array(True), parameters))
            arrays = jax.tree.map(jnp.where, learned, parameters, learnable(carry.arrays))
            arrays = eqx.combine(arrays, carry.arrays)
            there = Carry(arrays, carry.skeleton, carry.hidden, carry.estimator, carry.optimizer)
            return constants_at_zero(estimate(there).grads)

        def apply(moving, grads, active, grad_fn):
            arrays, optimizer = moving
            # What does not ask for the gradient at other parameters never has it traced.
            update = optax.with_extra_args_support(self.optimizer).update
            updates, after = update(grads, optimizer, learnable(arrays), grad_fn=grad_fn)
            moved = eqx.apply_updates(arrays, constants_at_zero(updates))
            # An optimiser with a memory moves even at a gradient of zero.
            return select(active, (moved, after), moving)

        moving, grads, active = (carry.arrays, carry.optimizer), given.grads, given.active
        if active.ndim == 0:
            arrays, optimizer = apply(moving, grads, active, grads_at)
        else:

            def one(k, moving):
                def part(tree):
                    return jax.tree.map(lambda leaf: leaf[k], tree)

                return apply(moving, part(grads), active[k], lambda parameters: part(grads_at(parameters)))

            arrays, optimizer = jax.lax.fori_loop(0, len(active), one, moving, unroll=min(len(active), WRITTEN_OUT))
        fresh = None if carry.fresh is None else jnp.zeros_like(carry.fresh)
        return Carry(arrays, carry.skeleton, given.hidden, given.state, optimizer, fresh), given


def _on_any_mesh(function: Callable) -> Callable:
    """The function from a learner, a carry and a stream to a carry and metrics, on meshes with Explicit axes too."""

    def placed(learner: Learner, carry: Carry, xs, *rest, predictions: bool):
        mesh = explicit_mesh((carry, xs))
        if mesh is None:
            return function(learner, carry, xs, *rest, predictions=predictions)

        def parts(*arguments):
            carry, metrics = function(learner, *arguments, predictions=predictions)
            return (carry.arrays, carry.optimizer), (carry.hidden, carry.estimator), metrics

        # Results lie as the streams do; parameters are everywhere.
        first = next(iter(jax.tree.leaves(xs)), None)
        spec = () if learner.batch is None or first is None else jax.typeof(first).sharding.spec[1:2]
        places = PartitionSpec(), PartitionSpec(*spec), PartitionSpec(None, *spec)
        everywhere, of_streams, metrics = with_auto_axes(parts, mesh, places)(carry, xs, *rest)
        (arrays, optimizer), (hidden, estimator) = everywhere, of_streams
        return Carry(arrays, carry.skeleton, hidden, estimator, optimizer), metrics

    placed.__name__ = function.__name__
    return placed


@_on_any_mesh
def _update(learner: Learner, carry, xs, ys, reset, weight, *, predictions: bool):
    steps = learner._check(carry, xs, ys, reset, weight)
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, learner._draw(carry, steps))
    return learner._step(carry, stream, predictions)


def _resets(carry: Carry, reset, steps: int):
    """`reset`, and true at the first step of a stream whose initial state learns: its derivative passes through it."""
    if carry.fresh is None:
        return reset
    reset = jnp.zeros((steps, *carry.fresh.shape), bool) if reset is None else jnp.asarray(reset)
    return reset.at[0].set(reset[0] | carry.fresh)


@_on_any_mesh
def _run(learner: Learner, carry, xs, ys, reset, weight, count, *, predictions: bool):
    steps = learner._check(carry, xs, ys, reset, weight)
    whole = steps - steps % learner.chunk
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, learner._draw(carry, steps))
    parts = []
    if whole:
        carry, chunks = _loop(
            lambda carry, chunk: learner._step(carry, chunk, predictions), carry, stream, learner.chunk, count
        )
        parts.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:whole], chunks))
    if whole < steps:
        carry, rest = learner._step(carry, jax.tree.map(lambda leaf: leaf[whole:], stream), predictions)
        parts.append(rest)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _loop(step, carry, stream, size, count):
    """`lax.scan` of `step` over the stream's first `count` chunks of `size`, with a count the compiler does not know.

    A loop known to run once is inlined, and an index into a single chunk folded; either fuses the step with what
    surrounds it and changes the last bits, so that a stream fed in pieces would depend on their sizes. A lone chunk is
    doubled, to be run once.

    Such a loop has no derivative in reverse mode. Where derivatives are asked for, `lax.scan` itself runs.
    """
    # What the step closes over, such as a rate, becomes an argument, to be differentiated as well.
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
    del count  # a call runs all its chunks

    def scan(step, carry, stream):
        def cut(leaf):
            chunks = len(leaf) // size
            return leaf[: chunks * size].reshape(chunks, size, *leaf.shape[1:])

        return jax.lax.scan(lambda *inputs: step(*inputs), carry, jax.tree.map(cut, stream))

    return eqx.filter_jvp(scan, primals, tangents)
