"""A cell that remembers its latest inputs, and learns nothing."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..support.arguments import whole
from ._arguments import floating
from .base import AbstractCell


class RecentInputs(AbstractCell):
    """The latest inputs, newest first: `hidden' = [x, hidden without its last row]`. It has no parameters.

    Below a unit-wise cell it shows the cell the latest inputs side by side, which the cell itself cannot combine. The
    output is `hidden` as one vector.

    **Arguments:** `length`, how many inputs, at least 1; `size`, the size of an input, at least 1; `dtype`. Raises
    `ValueError` for a number out of range, a dtype that is not floating-point, and an input of another shape.

        >>> import jax.numpy as jnp, onward
        >>> cell = onward.cells.RecentInputs(2, 3)
        >>> hidden = cell(cell(cell.init_hidden(), jnp.ones(3)), 2 * jnp.ones(3))
        >>> cell.output(hidden)
        Array([2., 2., 2., 1., 1., 1.], dtype=float32)
    """

    length: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    dtype: type = eqx.field(static=True)

    def __init__(self, length: int, size: int, *, dtype=None):
        self.length, self.size, self.dtype = whole("length", length), whole("size", size), floating(dtype)

    def __call__(self, hidden: Float[Array, "length size"], x: Float[Array, " numbers"]) -> Float[Array, "length size"]:
        if jnp.shape(x) != (self.size,):
            raise ValueError(f"x must be a vector of size {self.size}, got the shape {jnp.shape(x)}.")
        return jnp.concatenate([x[None], hidden[:-1]])

    def init_hidden(self) -> Float[Array, "length size"]:
        return jnp.zeros((self.length, self.size), self.dtype)

    def output(self, hidden: Float[Array, "length size"]) -> Float[Array, " numbers"]:
        return hidden.reshape(-1)
