"""The long short-term memory cell."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import floating
from .affine import AbstractAffineGatedCell, RowGroup, draw_weights


class LSTMState(NamedTuple):
    """The state of an `LSTMCell`: its output `hidden` and its memory `cell`."""

    hidden: Float[Array, " units"]
    cell: Float[Array, " units"]


class LSTMCell(AbstractAffineGatedCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    With `(i, f, g, o) = W [h, x, 1]`:

        c' = sigmoid(f) ⊙ c + sigmoid(i) ⊙ tanh(g),    h' = sigmoid(o) ⊙ tanh(c').

    The rows of W are those of i, f, g and o, in this order, for every unit. The influence of a weight has the same two
    parts as the state, on h and on c. `onward/estimators/rtrl.py` carries the whole of it, and
    `onward/estimators/_own_unit_influence.py` a unit's own part, for `onward.SnAp`.

    **Arguments:** `input_size`, `hidden_size`, `scale`, `dtype` and `key` as for `onward.VanillaCell`; `forget_bias` is
    added to the forget gate's bias at the start, so that the memory is kept before training.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.LSTMCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).cell.shape
        (2,)
    """

    groups: ClassVar = (RowGroup(rows=4),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        forget_bias: float = 1.0,
        scale: float = 1.0,
        dtype=None,
    ):
        (weights,) = draw_weights(self.groups, input_size, hidden_size, scale=scale, dtype=floating(dtype), key=key)
        self.weights = (weights.at[1, :, -1].add(forget_bias),)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)

    def init_hidden(self) -> LSTMState:
        zeros = jnp.zeros(self.hidden_size, self.weights[0].dtype)
        return LSTMState(zeros, zeros)

    def recurrent(self, hidden):
        return hidden.hidden

    def gate(self, hidden, preactivations):
        i, f, g, o = preactivations[0]
        c = jax.nn.sigmoid(f) * hidden.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)

    def output(self, hidden):
        return hidden.hidden
