"""One chunk of a stream: the gradient that the estimator makes of it, and the updates by the optimiser.

`learner` is the `onward.Learner`, whose module stands above this one.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._carry import Carry, Metrics, Observe
from ._checks import OutcomeError, check_arrays
from .cells.affine import constants_at_zero
from .estimators.base import Chunk, Estimate, Replay, Said, carries_influence
from .observing import Update
from .support.freezing import learnable, thaw
from .support.streams_axis import mean_over_devices, of_all_devices, shared_by_devices
from .support.trees import described, select, zeros_like
from .transforms.composition import update_of
from .transforms.informed import metric_of

# Up to this many updates of one estimate are written out instead of looped. XLA then fuses them if the optimiser works
# number by number, which is faster: see `benchmarks/results/xla-on-cpu.md`, "Small loops".
WRITTEN_OUT = 8

Given = TypeVar("Given", Estimate, Replay)


def draw(learner, carry, steps):
    """The random bits of all steps, drawn outside the loop, with time as the leading axis."""
    if learner.batch is None:
        return learner.estimator.draw(carry.estimator, steps)
    each = jax.vmap(lambda state: learner.estimator.draw(state, steps), out_axes=1, axis_size=learner.batch)
    return each(carry.estimator)


def scalar_loss(learner) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
    """The learner's loss without auxiliary values."""
    return _Scalar(learner.loss) if learner.has_aux else learner.loss


def step(
    learner, carry: Carry, chunk: Chunk, predictions: bool, observe: Observe | None = None
) -> tuple[Carry, Metrics]:
    """Learns one chunk, with all the updates that the estimator asks for."""
    weight = total_weight(chunk.weight, chunk.steps)
    carry, estimate, observed = apply_estimate(
        learner, carry, lambda carry: _estimate(learner, carry, chunk), weight, observe, along(learner, carry, chunk)
    )
    if learner.estimator.replays:
        turns = 1 + learner.estimator.replays
        observed = jax.tree.map(lambda leaf: jnp.zeros((turns, *leaf.shape), leaf.dtype).at[0].set(leaf), observed)

        def again(turn, loop):
            carry, observed = loop
            carry, _, here = apply_estimate(
                learner, carry, lambda carry: _replay(learner, carry, turn, chunk.noise), weight, observe
            )
            return carry, jax.tree.map(lambda every, one: every.at[turn].set(one), observed, here)

        carry, observed = jax.lax.fori_loop(1, turns, again, (carry, observed))
        observed = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), observed)
    auxiliary = auxiliary_values(learner, estimate.predictions, chunk.ys) if learner.has_aux else None
    return carry, Metrics(estimate.losses, estimate.predictions if predictions else None, auxiliary, observed)


def total_weight(weight: Float[Array, "steps *batch"] | None, steps: int) -> Float[Array, ""]:
    """The sum of the weights of a chunk, in the mean over the streams."""
    return jnp.array(float(steps)) if weight is None else mean_over_devices(weight.sum(0).mean())


def auxiliary_values(learner, predictions: PyTree, ys: PyTree) -> PyTree:
    """The auxiliary values of the loss, computed here so that estimators need not know of them."""

    def one(prediction, y):
        return learner.loss(prediction, y)[1]

    return jax.vmap(one if learner.batch is None else jax.vmap(one))(predictions, ys)


def _estimate(learner, carry: Carry, chunk: Chunk) -> Estimate:
    estimator = learner.estimator.informed(metric_of(learner.optimizer, carry.optimizer))
    of = estimator.estimate if learner.batch is None else estimator.mean_estimate
    return of_all_streams(of(carry.learning, scalar_loss(learner), carry.hidden, carry.estimator, chunk))


def along(learner, carry: Carry, chunk: Chunk) -> Callable[[Callable], PyTree]:
    """The function `gradients_of` that an optimiser may call: see `onward.Learner`."""

    def gradients_of(factors: Callable) -> PyTree:
        if learner.batch is not None or chunk.steps != 1:
            raise ValueError(
                "optimizer needs gradients of single predictions, as extended_kalman does: the learner must have "
                f"chunk=1 and no batch, got a chunk of {chunk.steps} and batch={learner.batch}."
            )
        now = jax.tree.map(lambda leaf: leaf[0], chunk)
        estimator = carries_influence(
            "estimator", learner.estimator.informed(metric_of(learner.optimizer, carry.optimizer))
        )
        said = estimator.say(carry.learning, carry.hidden, carry.estimator, now.xs, now.reset, now.noise)[2]
        return gradients_of_prediction(said, factors, now.weight)

    return gradients_of


def gradients_of_prediction(said: Said, factors: Callable, weight: Float[Array, ""] | None) -> PyTree:
    """The gradients for several derivatives of the loss with respect to a prediction, along a leading axis."""
    rows = jax.vmap(said.pullback)(factors(said.prediction))
    if weight is None:
        return rows
    return jax.tree.map(lambda g: jnp.where(weight != 0, weight.astype(g.dtype) * g, 0), rows)


def _replay(learner, carry: Carry, turn: Array, noise: PyTree) -> Replay:
    of = learner.estimator.replay if learner.batch is None else learner.estimator.mean_replay
    return of_all_streams(of(carry.learning, scalar_loss(learner), carry.estimator, turn, noise=noise))


def of_all_streams(given: Given) -> Given:
    """The estimate of the streams of all devices that share them, from that of one device's own streams."""
    if not shared_by_devices():
        return given
    active = given.active.astype(given.value.dtype)
    grads, value, active = mean_over_devices((given.grads, given.value, active))
    place = "objective" if isinstance(given, Estimate) else "value"
    return replace(given, grads=grads, active=active > 0, **{place: value})


def apply_estimate(
    learner,
    carry: Carry,
    estimate: Callable[[Carry], Given],
    weight: Array,
    observe: Observe | None = None,
    gradients_of: Callable[[Callable], PyTree] | None = None,
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
        # What an optimiser does not ask for, such as the gradient at other parameters, is not computed.
        updates, after = update_of(learner.optimizer)(
            grads, optimizer, learnable(arrays), value=value, grad_fn=grad_fn, weight=weight, gradients_of=gradients_of
        )
        updates = constants_at_zero(updates)
        # An optimiser with a memory changes the parameters even if the gradient is zero.
        moved = select(active, (eqx.apply_updates(arrays, updates), after), moving)
        if observe is None:
            return moved, None
        seen = observe(
            Update(
                thaw(eqx.combine(arrays, carry.skeleton)),
                value,
                grads,
                select(active, updates, zeros_like(updates)),
                of_all_devices(learner.influence_norm(after_chunk)),
                active,
            )
        )
        check_arrays("observe must return a tree of arrays", seen)
        return moved, seen

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
    """A loss without its auxiliary values. Raises `ValueError` unless it returns a pair."""

    loss: Callable

    def __call__(self, prediction, y):
        outcome = self.loss(prediction, y)
        if not (isinstance(outcome, tuple) and len(outcome) == 2):
            got = f"{len(outcome)} values" if isinstance(outcome, tuple) else described(outcome)
            raise OutcomeError(
                "loss must return a pair, a scalar and auxiliary values, because the learner has has_aux=True; got "
                f"{got}."
            )
        value, auxiliary = outcome
        check_arrays("loss must return auxiliary values that are arrays", auxiliary)
        return value
