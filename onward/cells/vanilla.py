"""The fully connected recurrent cell."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ._activated import AbstractActivatedCell
from ._arguments import elementwise, floating
from .affine import RowGroup, draw_weights


class VanillaCell(AbstractActivatedCell):
    """Fully connected cell, `h' = W [σ(h), x, 1]`. The state is the pre-activation, and the output is `a = σ(h)`.

    This is equation (31) of Ollivier, Tallec & Charpiat, *Training recurrent networks online without backtracking*.
    With `preactivation_state=False` the state is the activation itself, `h' = σ(W [h, x, 1])`. Both forms compute the
    same function of the inputs, up to the initial state.

    **Arguments:**

    - `input_size`, `hidden_size`: the sizes of `x` and of the state, at least 1.
    - `activation`: σ, acting element by element.
    - `preactivation_state`: whether the state is the value before the activation.
    - `scale`: weights and biases are drawn uniformly in ±scale/√hidden_size.
    - `dtype`: the dtype of the weights; JAX's default float if left out.
    - `key`: the random key of the weights.

    Raises `ValueError` for a size below 1 or a scale that is negative or not finite.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    activation: Callable = eqx.field(static=True)
    preactivation_state: bool = eqx.field(static=True)
    groups: ClassVar = (RowGroup(rows=1),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        activation: Callable = jax.nn.tanh,
        preactivation_state: bool = True,
        scale: float = 1.0,
        dtype=None,
    ):
        self.weights = draw_weights(self.groups, input_size, hidden_size, scale=scale, dtype=floating(dtype), key=key)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.activation, self.preactivation_state = elementwise(activation), preactivation_state

    def gate(self, hidden, preactivations):
        u = preactivations[0][0]
        return u if self.preactivation_state else self.activation(u)
