"""The gated recurrent unit, reset-after form."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import floating
from .affine import AbstractAffineGatedCell, RowGroup, draw_weights


class GRUCell(AbstractAffineGatedCell):
    """Gated recurrent unit (Cho et al. 2014). The reset gate is applied after the product, as in cuDNN.

    With `(r, z) = W_g [h, x, 1]`, `n_x = W_x [x, 1]` and `n_h = W_h [h, 1]`:

        h' = (1 − sigmoid(z)) ⊙ tanh(n_x + sigmoid(r) ⊙ n_h) + sigmoid(z) ⊙ h.

    This keeps every row affine in the features. There are three groups of rows.

    **Arguments:** `input_size`, `hidden_size`, `scale`, `dtype` and `key` as for `onward.VanillaCell`.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.GRUCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    groups: ClassVar = (RowGroup(rows=2), RowGroup(rows=1, sees_hidden=False), RowGroup(rows=1, sees_input=False))

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray, scale: float = 1.0, dtype=None):
        self.weights = draw_weights(self.groups, input_size, hidden_size, scale=scale, dtype=floating(dtype), key=key)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def recurrent(self, hidden):
        return hidden

    def gate(self, hidden, preactivations):
        (r, z), (n_x,), (n_h,) = preactivations
        keep = jax.nn.sigmoid(z)
        return (1 - keep) * jnp.tanh(n_x + jax.nn.sigmoid(r) * n_h) + keep * hidden

    def output(self, hidden):
        return hidden
