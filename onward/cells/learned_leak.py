"""The leaky recurrent cell with a leak that learns."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._activated import AbstractActivatedCell
from ._arguments import elementwise, floating
from .affine import RowGroup, draw_weights
from .unit_wise import OWN_NUMBERS, own_numbers

LEAST = 1e-6  # of a leak and of 1 less the leak, at the start: a logit is finite


class LearnedLeakCell(AbstractActivatedCell):
    """Leaky cell whose leak learns, `h' = α ⊙ h + W [σ(h), x, 1]` with `α = 1 / (1 + exp(−a))`; its output is `σ(h)`.

    This is equation (37) of Ollivier, Tallec & Charpiat, *Training recurrent networks online without backtracking*.
    Their footnote 16 says that α can be learned, but is numerically unstable without a change of variables: so the
    trained number of a unit is a, the logit of its leak. `onward.LeakyCell` is the same cell with a fixed leak, and
    starts alike from the same key. With `preactivation_state=False` the cell is the usual leaky integrator of
    activations, `h' = α ⊙ h + (1 − α) ⊙ σ(W [h, x, 1])`, and its output is `h`.

    **Arguments:** as `onward.VanillaCell`.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.LearnedLeakCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape, cell.leak.shape
        ((2,), (2,))
    """

    activation: Callable = eqx.field(static=True)
    preactivation_state: bool = eqx.field(static=True)
    groups: ClassVar = (RowGroup(rows=1), RowGroup(rows=1, **OWN_NUMBERS))

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
        weights_key, leak_key = jr.split(key)
        dtype = floating(dtype)
        weights = draw_weights(self.groups[:1], input_size, hidden_size, scale=scale, dtype=dtype, key=weights_key)
        leak = jnp.clip(jr.uniform(leak_key, (hidden_size,), dtype), LEAST, 1 - LEAST)
        self.weights = *weights, own_numbers(jnp.log(leak) - jnp.log1p(-leak))
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.activation, self.preactivation_state = elementwise(activation), preactivation_state

    @property
    def leak(self) -> Float[Array, " units"]:
        """α, the part of a unit's state that it keeps at each step."""
        return jax.nn.sigmoid(self.weights[1][0, :, 0])

    def gate(self, hidden, preactivations):
        (u,), (a,) = preactivations
        leak = jax.nn.sigmoid(a)
        if self.preactivation_state:
            return leak * hidden + u
        return leak * hidden + (1 - leak) * self.activation(u)
