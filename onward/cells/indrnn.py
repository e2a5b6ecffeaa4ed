"""The independently recurrent cell: one recurrent weight for each unit."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import elementwise, floating
from .unit_wise import AbstractUnitWiseCell, check_decays, check_sizes, groups_of, input_rows, own_numbers


class IndRNNCell(AbstractUnitWiseCell):
    """Independently recurrent network (Li et al. 2018, *Independently recurrent neural network: building a longer and
    deeper RNN*, equation (2)):

        h' = σ(W x + u ⊙ h + b).

    **Arguments:**

    - `input_size`, `hidden_size`, `key`, `dtype`: as for `LRUCell`.
    - `activation`: σ, one number to one number; the paper's is `jax.nn.relu`.
    - `decays`: the recurrent weights u start uniform between these two numbers, within [0, 1]. With `jax.nn.relu`, a
      memory of T steps needs u near 1, and |u| should stay below `2^(1/T)` (section 3.1).

    W starts normal with variance `1/inputs`. Raises `ValueError` for a size below 1 or decays out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.IndRNNCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    groups: ClassVar = groups_of(1, 1)
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = jax.nn.relu,
        decays: tuple[float, float] = (0.0, 1.0),
        dtype=None,
    ):
        self.input_size, self.hidden_size = check_sizes(input_size, hidden_size)
        dtype = floating(dtype)
        W_key, u_key = jr.split(key)
        deviation = 1 / math.sqrt(self.input_size)
        W = input_rows(1, self.input_size, self.hidden_size, deviation=deviation, dtype=dtype, key=W_key)
        least, largest = check_decays(decays)
        self.weights = W, own_numbers(jr.uniform(u_key, (self.hidden_size,), dtype, least, largest))
        self.activation = elementwise(activation)

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def gate(self, hidden, preactivations):
        (a,), (u,) = preactivations
        return self.activation(a + u * hidden)

    def output(self, hidden):
        return hidden
