"""What an `observe=` function is shown of every update, and the norms that are worth watching."""

from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, PyTree

from .model import Model
from .support.trees import norm

# Above it the influence may soon overflow: the command line and `onward.fit` say so.
ALARMING_INFLUENCE = 1e6


class Update(NamedTuple):
    """One update of the parameters by a learner.

    * `model`: as it was before the update;
    * `value`: the number that `gradient` is the gradient of, over a batch the mean over the streams;
    * `gradient`, `update`: shaped like the model's inexact arrays, `None` elsewhere: the parameters become θ + update;
    * `influence`: the norm of the carried approximation of ∂hidden/∂θ after the chunk, `[*batch]`; 0 for an estimator
      without one;
    * `active`: whether any loss entered the gradient. If none did, the update is zero.
    """

    model: Model
    value: Float[Array, ""]
    gradient: Any
    update: Any
    influence: Float[Array, "*batch"]
    active: Bool[Array, ""]


def update_norms(update: Update) -> dict[str, PyTree]:
    """The Euclidean norms of the gradient, of the update, and of the influence (`[*batch]`), for `observe=`.

    >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
    >>> learner = onward.Learner(onward.SnAp(), optax.adam(1e-2), loss=onward.losses.squared_error)
    >>> model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 1, key=jr.key(1)))
    >>> carry = learner.init(model, key=jr.key(2))
    >>> watch = onward.observing.update_norms
    >>> carry, metrics = learner.run(carry, jnp.ones((5, 3)), jnp.ones((5, 1)), observe=watch)
    >>> {name: norms.shape for name, norms in metrics.observed.items()}
    {'gradient': (5,), 'influence': (5,), 'update': (5,)}
    """
    return {"gradient": norm(update.gradient), "update": norm(update.update), "influence": update.influence}
