"""The example that a learner needs of a data set, for estimators that store steps."""

import jax
import jax.random as jr
from jaxtyping import PyTree

from .data import AbstractData
from .objectives import AbstractObjective


def first_step(data: AbstractData, objective: AbstractObjective) -> tuple[PyTree, PyTree]:
    """One input of the data with its target as the objective poses it: the `example` of `onward.Learner.init`.

    Estimators that store steps, such as `onward.FPP`, need its shape. An objective may make another target than the
    data hold: `Terminal` adds the trust of each step.

        >>> import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> data = onward.Sequences(jnp.ones((4, 6, 2)), jnp.ones((4, 1)), batch=2)
        >>> objective, loss = onward.Terminal(3), onward.losses.terminal_squared_error
        >>> model = onward.Model(onward.GRUCell(2, 3, key=jr.key(0)), eqx.nn.Linear(3, 1, key=jr.key(1)))
        >>> learner = onward.Learner(onward.FPP(2, buffer=20), optax.adam(1e-2), loss=loss, batch=2)
        >>> example = onward.sequences.first_step(data, objective)
        >>> carry = learner.init(model, key=jr.key(2), example=example)
        >>> carry = onward.fit(learner, carry, data, objective, epochs=1, key=jr.key(3)).carry
    """
    block = next(iter(data.blocks(jr.key(0), 0, 0, 1)))
    minibatch = block.data.minibatch(jax.tree.map(lambda leaf: leaf[block.begin], block.order))
    ys, _ = objective.assign(objective.init(data.steps), minibatch.ys, minibatch.lengths, data.steps)
    return jax.tree.map(lambda leaf: leaf[0, 0], (minibatch.xs, ys))
