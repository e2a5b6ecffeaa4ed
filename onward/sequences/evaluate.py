"""How good a model is on a data set of sequences, its parameters fixed."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..model import Model
from ..support.devices import on_all, shared_evenly
from ..support.trees import select, time_first
from .data import AbstractSequences, shared_minibatch
from .objectives import AbstractObjective, check_targets


def evaluate(
    model: Model,
    data: AbstractSequences,
    objective: AbstractObjective,
    measure: Callable[[PyTree, PyTree], Float[Array, ""]],
    *,
    key: PRNGKeyArray,
) -> float:
    """The mean of `measure(prediction, y)` over the steps of an epoch of `data` that count, the parameters fixed.

    These are all steps of the sequences, or their last ones, as the `objective` has it; `y` is as in the data.
    `measure` may be one of `onward.losses`, such as `misclassified`; one that is made anew at each call, a lambda or a
    closure, compiles anew each time. `key` decides what is drawn. Devices share the sequences as in `onward.fit`.

    Raises `ValueError` for labels as `onward.fit` does, `misclassified` being such a measure as well; for targets that
    the objective does not fit, a measure that is no single number, and data of which no step counts; and what `measure`
    and the cell raise.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> from experiments.data.adding import Adding
        >>> model = onward.Model(onward.LSTMCell(2, 4, key=jr.key(0)), eqx.nn.Linear(4, 1, key=jr.key(1)))
        >>> data = onward.sequences.Drawn(Adding(8), batch=50, minibatches=4)
        >>> score = onward.evaluate(model, data, onward.Terminal(8), onward.losses.squared_error, key=jr.key(2))
        >>> score > Adding(8).naive_error
        True
    """
    objective.check(data)
    check_targets(model, data, measure)
    shared = shared_evenly(data.batch, "sequences")
    model, data, order = on_all((model, data, data.order(key)), shared)
    total, count = _measure(model, data, objective, measure, order, shared)
    if not count:
        raise ValueError("data must hold a step that counts, they hold none.")
    return float(total) / float(count)


@eqx.filter_jit
def _measure(model, data, objective, measure, order, shared):
    fresh = jax.tree.map(lambda h: jnp.broadcast_to(h, (data.batch, *h.shape)), model.cell.init_hidden())

    def one(loop, entry):
        minibatch = shared_minibatch(data.minibatch(entry), shared)
        ys, counts = objective.score(minibatch.ys, minibatch.lengths, data.steps)

        def step(loop, inputs):
            hidden, total = loop
            x, y, counted = inputs
            hidden = jax.vmap(model.cell)(hidden, x)
            values = jax.vmap(lambda h, y: measure(model.predict(h), y))(hidden, y)
            if jnp.shape(values) != counted.shape:
                raise ValueError(f"measure must return one number, got the shape {jnp.shape(values)[1:]}.")
            return (hidden, total + jnp.sum(jnp.where(counted, values, 0)).astype(total.dtype)), None

        hidden, total, count = loop
        hidden = select(minibatch.fresh, fresh, hidden)
        (hidden, here), _ = jax.lax.scan(step, (hidden, jnp.zeros(())), (time_first(minibatch.xs), ys, counts))
        return (hidden, total + here, count + jnp.sum(counts, dtype=jnp.int32)), None

    return jax.lax.scan(one, (fresh, jnp.zeros(()), jnp.zeros((), jnp.int32)), order)[0][1:]
