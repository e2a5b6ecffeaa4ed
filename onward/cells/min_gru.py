"""The minimal gated recurrent unit: its gates see only the input."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import elementwise, floating
from .unit_wise import AbstractUnitWiseCell, check_sizes, gate_biases, groups_of, input_rows


def identity(a: Array) -> Array:
    """The number itself."""
    return a


class MinGRUCell(AbstractUnitWiseCell):
    """Minimal gated recurrent unit (Feng et al. 2024, *Were RNNs all we needed?*, section 3.1):

        z = sigmoid(W_z x + b_z),    h' = (1 − z) ⊙ h + z ⊙ σ(W_h x + b_h).

    **Arguments:** `input_size`, `hidden_size`, `key` and `dtype` as for `LRUCell`; `activation`: σ, one number to one
    number, by default the identity, as in the paper's equations; `decays`: the range in which `1 − z` starts,
    uniformly, for a zero input. Without `decays` it starts at 1/2 for every unit. Weights start normal with variance
    `1/(3 inputs)`, the variance of a linear layer's usual uniform weights. Raises `ValueError` for a size below 1 or
    decays out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.MinGRUCell(3, 2, decays=(0.9, 0.999), key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    groups: ClassVar = groups_of(2)
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = identity,
        decays: tuple[float, float] | None = None,
        dtype=None,
    ):
        self.input_size, self.hidden_size = check_sizes(input_size, hidden_size)
        dtype, n = floating(dtype), self.hidden_size
        W_key, bias_key = jr.split(key)
        keep = jnp.zeros(n, dtype) if decays is None else gate_biases(decays, n, dtype=dtype, key=bias_key)
        deviation, bias = 1 / math.sqrt(3 * self.input_size), jnp.stack([-keep, jnp.zeros(n, dtype)])
        self.weights = (input_rows(2, self.input_size, n, deviation=deviation, dtype=dtype, key=W_key, bias=bias),)
        self.activation = elementwise(activation)

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def gate(self, hidden, preactivations):
        ((z, candidate),) = preactivations
        take = jax.nn.sigmoid(z)
        return (1 - take) * hidden + take * self.activation(candidate)

    def output(self, hidden):
        return hidden
