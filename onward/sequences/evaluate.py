"""Evaluates a model on a data set of sequences with fixed parameters."""

import math
from collections.abc import Callable, Mapping
from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..model import Model
from ..support.devices import (
    held_along,
    held_here,
    held_whole,
    on_all,
    outside_explicit_axes,
    shared_by_processes,
)
from ..support.processes import naming_the_dead
from ..support.trees import select, time_first
from ._data_check import check_finite
from ._fit_checks import check_evaluate_arguments
from .data import AbstractData, shared_minibatch
from .objectives import AbstractObjective, check_targets, target_range

Measure = Callable[[PyTree, PyTree], Float[Array, ""]]


@overload
def evaluate(
    model: Model, data: AbstractData, objective: AbstractObjective, measure: Measure, *, key: PRNGKeyArray
) -> float: ...
@overload
def evaluate(
    model: Model, data: AbstractData, objective: AbstractObjective, measure: Mapping[str, Measure], *, key: PRNGKeyArray
) -> dict[str, float]: ...
@outside_explicit_axes()
def evaluate(model, data, objective, measure, *, key):
    """The mean of `measure(prediction, y)` over the steps that count in an epoch of `data`, with fixed parameters.

    **Arguments:**

    - `data`: such as `onward.Sequences`.
    - `objective`: decides which steps count: all steps of a sequence, or the last.
    - `measure`: one of `onward.losses`, such as `misclassified`, or your own function from a prediction and a target to
      one number; `y` is as in the data. A dictionary of measures gives a dictionary of means, in one pass. A lambda or
      closure that is made anew at each call compiles anew each time.
    - `key`: the random key of whatever the data draw.

    Devices share the sequences as in `onward.fit`.

    Raises `ValueError`

    * for an argument of the wrong kind, such as an objective's class instead of an object;
    * for targets out of range, as `onward.fit` does, and for targets that do not fit the objective;
    * for a measure that does not return a single number;
    * for data in which no step counts;
    * for an input or a target that is not finite, saying where it is.

    Exceptions of `measure` and the cell pass through.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> from onward.losses import misclassified, softmax_cross_entropy
        >>> model = onward.Model(onward.LSTMCell(2, 4, key=jr.key(0)), eqx.nn.Linear(4, 3, key=jr.key(1)))
        >>> data = onward.Sequences(jr.normal(jr.key(2), (10, 7, 2)), jnp.arange(10) % 3, batch=5)
        >>> objective, measures = onward.Terminal(7), {"loss": softmax_cross_entropy, "error": misclassified}
        >>> found = onward.evaluate(model, data, objective, measures, key=jr.key(3))
        >>> 0.9 < found["loss"] < 1.3, 0 <= found["error"] <= 1
        (True, True)
    """
    measures = measure if isinstance(measure, Mapping) else {"": measure}
    if not measures:
        raise ValueError("measure must be a function or a dictionary of some, got an empty dictionary.")
    check_evaluate_arguments(model, data, objective, measures.values(), key)
    shared = shared_by_processes(data.batch, "sequences")
    model, data, key = held_here((model, data, key), shared)
    objective.check(data)
    for each in measures.values():
        check_targets(model, data, each)
    hidden = jax.tree.map(lambda h: jnp.broadcast_to(h, (data.batch, *h.shape)), model.cell.init_hidden())
    loop = on_all((hidden, {name: jnp.zeros(()) for name in measures}, jnp.zeros((), jnp.int32)), shared)
    everywhere, at_objective = on_all((model, objective), shared)
    with naming_the_dead(None):
        for block in data.blocks(key, 0, 0):
            at_data, order = block.data.placed(shared), on_all(block.order, shared)
            numbers = on_all((jnp.asarray(block.begin, jnp.int32), jnp.asarray(block.size, jnp.int32)), shared)
            loop = _measure(everywhere, at_data, at_objective, dict(measures), loop, order, *numbers, shared)
        totals, count = jax.tree.map(np.asarray, loop[1:])
    if not count:
        raise ValueError("data must hold at least one step that counts, got none.")
    means = {name: float(total) / float(count) for name, total in totals.items()}
    for name, each in measures.items():
        if not math.isfinite(means[name]):
            check_finite(data.blocks(key, 0, 0), objective, target_range(model, each))
    return means if isinstance(measure, Mapping) else means[""]


@eqx.filter_jit
def _measure(model, data, objective, measures, loop, order, begin, count, shared):
    """Goes through `count` minibatches of `order`, from `begin` on. Returns the updated loop state.

    The loop state is the hidden state, the sum of each measure, and the number of steps.
    """
    fresh = jax.tree.map(lambda h: jnp.broadcast_to(h, (data.batch, *h.shape)), model.cell.init_hidden())

    def one(i, loop):
        entry = jax.tree.map(lambda leaf: leaf[begin + i], order)
        minibatch = shared_minibatch(data.minibatch(entry), shared)
        ys, counts = objective.score(minibatch.ys, minibatch.lengths, data.steps)

        def step(loop, inputs):
            hidden, totals = loop
            x, y, counted = inputs
            hidden = jax.vmap(model.cell)(hidden, x)

            def counting(measure):
                values = jax.vmap(lambda h, y: measure(model.predict(h), y))(hidden, y)
                if not isinstance(values, jax.Array):
                    raise ValueError(
                        f"measure must return one number, got a {type(values).__name__}; of a loss with auxiliary "
                        "values take the first of the pair."
                    )
                if values.shape != counted.shape:
                    raise ValueError(f"measure must return one number, got the shape {values.shape[1:]}.")
                return jnp.where(counted, values, 0)

            return (hidden, {k: v + counting(measures[k]).astype(v.dtype) for k, v in totals.items()}), None

        hidden, totals, steps = loop
        hidden = select(minibatch.fresh, fresh, hidden)
        # Of each sequence, so that the devices need not add up anything within the loop over time.
        zeros = held_along(jax.tree.map(lambda total: jnp.zeros(data.batch, total.dtype), totals), shared)
        (hidden, here), _ = jax.lax.scan(step, (hidden, zeros), (time_first(minibatch.xs), ys, counts))
        here, seen = held_whole((here, jnp.sum(counts, dtype=jnp.int32)), shared)
        return hidden, jax.tree.map(lambda total, each: total + jnp.sum(each), totals, here), steps + seen

    hidden, *found = jax.lax.fori_loop(0, count, one, loop)
    return held_along(hidden, shared), *held_whole(tuple(found), shared)
