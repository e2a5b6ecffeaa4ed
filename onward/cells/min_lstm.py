"""The minimal long short-term memory cell: its gates see only the input."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.smooth import log_sigmoid
from ._arguments import elementwise, floating
from .min_gru import identity
from .unit_wise import AbstractUnitWiseCell, check_sizes, gate_biases, groups_of, input_rows


class MinLSTMCell(AbstractUnitWiseCell):
    """Minimal long short-term memory (Feng et al. 2024, *Were RNNs all we needed?*, section 3.2), with its gates
    divided by their sum:

        f = sigmoid(W_f x + b_f),    i = sigmoid(W_i x + b_i),    h' = (f ⊙ h + i ⊙ σ(W_h x + b_h)) / (f + i).

    **Arguments:** as for `MinGRUCell`; `decays`: the range in which `f/(f + i)` starts, uniformly, for a zero input.
    Without `decays` it starts at 1/2 for every unit. Raises `ValueError` for a size below 1 or decays out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.MinLSTMCell(3, 2, decays=(0.9, 0.999), key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    groups: ClassVar = groups_of(3)
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
        # With f = r and i = 1 − r the gates sum to 1, and the unit keeps the fraction r.
        keep = jnp.zeros(n, dtype) if decays is None else gate_biases(decays, n, dtype=dtype, key=bias_key)
        deviation, bias = 1 / math.sqrt(3 * self.input_size), jnp.stack([keep, -keep, jnp.zeros(n, dtype)])
        self.weights = (input_rows(3, self.input_size, n, deviation=deviation, dtype=dtype, key=W_key, bias=bias),)
        self.activation = elementwise(activation)

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def gate(self, hidden, preactivations):
        ((f, i, candidate),) = preactivations
        # f/(f + i) as the sigmoid of a difference of logarithms, which neither overflows nor divides by zero.
        keep = jax.nn.sigmoid(log_sigmoid(f) - log_sigmoid(i))
        return keep * hidden + (1 - keep) * self.activation(candidate)

    def output(self, hidden):
        return hidden
