"""The elementwise long short-term memory cell."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import floating
from .unit_wise import AbstractUnitWiseCell, check_sizes, gate_biases, groups_of, input_rows, own_numbers


class ELSTMCell(AbstractUnitWiseCell):
    """Elementwise LSTM (Irie, Gopalakrishnan & Schmidhuber 2024, *Exploring the promise and limits of real-time
    recurrent learning*, section 3.1), without its output gate:

        f = sigmoid(F x + w_f ⊙ c + b_f),    z = tanh(Z x + w_z ⊙ c + b_z),    c' = f ⊙ c + (1 − f) ⊙ z.

    The paper's output gate, `sigmoid(O x + W_o c')`, mixes the units but does not feed back. As in the authors' code,
    it is a map on top of the cell: make it part of the model's readout.

    **Arguments:** `input_size`, `hidden_size`, `key` and `dtype` as for `LRUCell`; `decays`: the range in which the
    forget gates start, uniformly, for a zero input and memory. Without `decays` they all start at 1/2. The weights
    start normal with standard deviation 0.1, as the authors' do. Raises `ValueError` for a size below 1 or decays out
    of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.ELSTMCell(3, 2, decays=(0.9, 0.999), key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    groups: ClassVar = groups_of(2, 2)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        decays: tuple[float, float] | None = None,
        dtype=None,
    ):
        self.input_size, self.hidden_size = check_sizes(input_size, hidden_size)
        dtype, n = floating(dtype), self.hidden_size
        W_key, f_key, z_key, bias_key = jr.split(key, 4)
        forget = 0.0 if decays is None else gate_biases(decays, n, dtype=dtype, key=bias_key)
        bias = jnp.stack([jnp.broadcast_to(jnp.asarray(forget, dtype), n), jnp.zeros(n, dtype)])
        W = input_rows(2, self.input_size, n, deviation=0.1, dtype=dtype, key=W_key, bias=bias)
        self.weights = W, own_numbers(*(0.1 * jr.normal(k, (n,), dtype) for k in (f_key, z_key)))

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def gate(self, hidden, preactivations):
        (f, z), (w_f, w_z) = preactivations
        keep = jax.nn.sigmoid(f + w_f * hidden)
        return keep * hidden + (1 - keep) * jnp.tanh(z + w_z * hidden)

    def output(self, hidden):
        return hidden
