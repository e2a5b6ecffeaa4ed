"""Optimiser steps that shrink after a failed update and grow back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ..transforms.informed import Informed, metric_of

CUT = 0.5
REGROWTH = 1 + 1e-4  # growth per update: a halving is made up for in seven thousand updates
LEAST = 2.0**-20  # repeated halvings must not end learning for good


class CautionState(NamedTuple):
    """The optimiser's state, and the `factor` in (0, 1] that multiplies its steps."""

    inner: Any
    factor: Float[Array, ""]


def cautious(optimizer: optax.GradientTransformation) -> Informed:
    """`optimizer` with its steps multiplied by a factor. `more_cautious` and `less_cautious` change the factor.

    >>> import jax.numpy as jnp, optax
    >>> optimizer = cautious(optax.sgd(1.0))
    >>> state = more_cautious(optimizer.init(jnp.zeros(1)))
    >>> optimizer.update(jnp.ones(1), state)[0]
    Array([-0.5], dtype=float32)
    """
    given, optimizer = optimizer, optax.with_extra_args_support(optimizer)

    def init(params):
        return CautionState(optimizer.init(params), jnp.ones((), jnp.float32))

    def update(updates, state, params=None, **extra_args):
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        updates = jax.tree.map(lambda leaf: state.factor.astype(leaf.dtype) * leaf, updates)
        return updates, CautionState(inner, state.factor)

    cautious = optax.GradientTransformationExtraArgs(init, update)
    return Informed(cautious, lambda state: metric_of(given, state.inner))


def more_cautious(state: CautionState) -> CautionState:
    """The state after a refused update."""
    return state._replace(factor=jnp.maximum(CUT * state.factor, LEAST))


def less_cautious(state: CautionState, learned: Bool[Array, ""]) -> CautionState:
    """The state after a sound update. The factor grows only if something was `learned`."""
    return state._replace(factor=jnp.where(learned, jnp.minimum(REGROWTH * state.factor, 1), state.factor))
