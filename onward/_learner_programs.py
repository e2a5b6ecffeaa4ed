"""The programs behind the methods of an `onward.Learner`: functions of the learner and of arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._carry import Carry, Metrics, Observe
from ._checks import check_stream
from ._chunks import over_chunks
from ._learner_checks import (
    check_carry,
    check_estimator_state,
    check_gradient,
    check_input,
    check_outcome,
)
from ._updates import (
    apply_estimate,
    auxiliary_values,
    draw,
    gradients_of_prediction,
    of_all_streams,
    scalar_loss,
    step,
    total_weight,
)
from .estimators.base import Chunk, Estimate, Said, weighted_loss
from .support.devices import explicit_mesh, resharded, with_auto_axes
from .support.freezing import learnable
from .support.streams_axis import of_each_device
from .support.trees import leading, mean_of_leading, select, zeros_like
from .transforms.informed import metric_of


class How(NamedTuple):
    """What is fixed when a program is compiled: whether it returns predictions, what it observes, the stage of the
    estimator, and the devices that share the streams.
    """

    predictions: bool = False
    observe: Observe | None = None
    stage: int | None = None
    shared: NamedSharding | None = None


def _on_any_mesh(batch_axis: int) -> Callable:
    """Extends a function to streams spread over devices, and to meshes with Explicit axes. It takes a learner, `How`, a
    carry and arrays with the batch at this axis, and returns a carry and results with the batch at the same axis.
    """

    def extended(function: Callable) -> Callable:
        def placed(learner, how: How, carry: Carry, xs, *rest):
            mesh, shared = explicit_mesh((carry, xs)), how.shared
            if shared is None and mesh is None:
                return function(learner, how, carry, xs, *rest)
            mine = learner
            if shared is not None:
                devices = shared.mesh.shape[shared.spec[0]]
                if learner.batch is None or learner.batch % devices:
                    raise ValueError(
                        f"the {devices} devices that the streams are spread over must share the learner's batch "
                        f"evenly, got batch={learner.batch}."
                    )
                mine = dataclasses.replace(learner, batch=learner.batch // devices)

            def parts(*arguments):
                carry, results = function(mine, how, *arguments)
                observed = getattr(results, "observed", None)
                if observed is not None:
                    results = results._replace(observed=None)
                return (carry.arrays, carry.optimizer, observed), (carry.hidden, carry.estimator, carry.fresh), results

            # Results are sharded like the streams; parameters are replicated.
            first = next(iter(jax.tree.leaves(xs)), None)
            alone = learner.batch is None or first is None
            spec = () if alone else jax.typeof(first).sharding.spec[batch_axis : batch_axis + 1]
            spec = spec if shared is None else shared.spec
            whole, streams, stream = PartitionSpec(), PartitionSpec(*spec), PartitionSpec(*(None,) * batch_axis, *spec)
            places = whole, streams, stream
            if shared is None:
                assert mesh is not None
                there = with_auto_axes(parts, mesh, places)(carry, xs, *rest)
            else:
                of_streams: Any = streams
                of_carry = Carry(whole, carry.skeleton, streams, streams, whole, of_streams)
                # The last argument of `run` is the number of chunks.
                given = [whole if eqx.is_array(each) and each.ndim == 0 else stream for each in rest]
                each = of_each_device(parts, shared, (of_carry, stream, *given), places)
                there = each(*resharded((carry, xs, *rest), (of_carry, stream, *given), mesh))
            (arrays, optimizer, observed), (hidden, estimator, fresh), results = there
            if observed is not None:
                results = results._replace(observed=observed)
            return Carry(arrays, carry.skeleton, hidden, estimator, optimizer, fresh), results

        placed.__name__ = function.__name__
        return placed

    return extended


@_on_any_mesh(1)
def update(learner, how: How, carry, xs, ys, reset, weight):
    steps = _check(learner, carry, xs, ys, reset, weight)
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, draw(learner, carry, steps))
    return step(learner, carry, stream, how.predictions, how.observe)


def _resets(carry: Carry, reset, steps: int):
    """`reset`, set to true at the first step of a stream whose initial state is trained, because its gradient enters
    there.
    """
    if carry.fresh is None:
        return reset
    reset = jnp.zeros((steps, *carry.fresh.shape), bool) if reset is None else jnp.asarray(reset)
    return reset.at[0].set(reset[0] | carry.fresh)


@_on_any_mesh(1)
def run(learner, how: How, carry, xs, ys, reset, weight, count):
    if how.stage is not None:
        learner = dataclasses.replace(learner, estimator=learner.estimator.in_stage(how.stage))
    steps = _check(learner, carry, xs, ys, reset, weight)
    whole = steps - steps % learner.chunk
    stream = Chunk(xs, ys, _resets(carry, reset, steps), weight, draw(learner, carry, steps))
    parts = []
    if whole:
        carry, chunks = over_chunks(
            lambda carry, chunk: step(learner, carry, chunk, how.predictions, how.observe),
            carry,
            stream,
            learner.chunk,
            count,
        )
        given = whole // learner.chunk
        parts.append(jax.tree.map(lambda leaf: leaf[:given].reshape(-1, *leaf.shape[2:]), chunks))
    if whole < steps:
        carry, rest = step(
            learner, carry, jax.tree.map(lambda leaf: leaf[whole:], stream), how.predictions, how.observe
        )
        parts.append(rest)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@_on_any_mesh(0)
def predict(learner, how: How, carry, x, reset):
    model, estimator = carry.learning, learner.estimator.informed(metric_of(learner.optimizer, carry.optimizer))
    check_carry(carry, learner.optimizer, learner.batch)
    check_input(carry.model, carry.hidden, learner.batch, x, reset)
    reset, noise = jax.tree.map(lambda leaf: leaf[0], (_resets(carry, leading(reset), 1), draw(learner, carry, 1)))

    def one(hidden, state, x, reset, noise) -> tuple[PyTree, PyTree, Said]:
        return estimator.say(model, hidden, state, x, reset, noise)

    each = one if learner.batch is None else jax.vmap(one, axis_size=learner.batch)
    hidden, state, said = each(carry.hidden, carry.estimator, x, reset, noise)
    fresh = None if carry.fresh is None else jnp.zeros_like(carry.fresh)
    return Carry(carry.arrays, carry.skeleton, hidden, state, carry.optimizer, fresh), said


@_on_any_mesh(0)
def learn(learner, how: How, carry, said, y, weight):
    check_carry(carry, learner.optimizer, learner.batch)
    check_outcome(scalar_loss(learner), learner.batch, said.prediction, y, weight)

    def one(said, y, weight):
        loss = jax.value_and_grad(lambda prediction: weighted_loss(scalar_loss(learner), prediction, y, weight))
        value, derivative = loss(said.prediction)
        grads = said.pullback(derivative)
        return value, grads if weight is None else select(weight != 0, grads, zeros_like(grads))

    if learner.batch is None:
        losses, grads = one(said, y, weight)
    else:
        losses, grads = jax.vmap(one)(said, y, weight)
        grads = mean_of_leading(grads)
    check_gradient(grads, learnable(carry.arrays))
    active = jnp.array(True) if weight is None else jnp.any(weight != 0)
    estimate = Estimate(losses[None], grads, carry.hidden, carry.estimator, said.prediction, active)
    estimate = of_all_streams(estimate)

    def here(there):
        if there is not carry:
            raise ValueError(
                "optimizer needs the gradient at other parameters, as fptt_exact does, which predict does not keep; "
                "use update instead of predict and learn."
            )
        return estimate

    def gradients_of(factors):
        if learner.batch is not None:
            raise ValueError(
                "optimizer needs gradients of single predictions, as extended_kalman does: the learner must have no "
                f"batch, got batch={learner.batch}."
            )
        return gradients_of_prediction(said, factors, weight)

    weights = None if weight is None else jnp.asarray(weight)[None]
    carry, _, _ = apply_estimate(learner, carry, here, total_weight(weights, 1), gradients_of=gradients_of)
    auxiliary = None
    if learner.has_aux:
        auxiliary = auxiliary_values(learner, leading(said.prediction), leading(y))
        auxiliary = jax.tree.map(lambda leaf: leaf[0], auxiliary)
    return carry, Metrics(losses, auxiliary=auxiliary)


def _check(learner, carry, xs, ys, reset, weight) -> int:
    """The number of steps. Raises `ValueError` unless carry and stream fit this learner."""
    check_carry(carry, learner.optimizer, learner.batch)
    check_stream(carry.model, carry.hidden, scalar_loss(learner), learner.batch, xs, ys, reset, weight)
    check_estimator_state(carry, learner.estimator, learner.batch, xs, ys)
    return jax.tree.leaves(xs)[0].shape[0]
