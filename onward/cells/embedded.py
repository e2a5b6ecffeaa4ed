"""A cell that reads symbols through a learned embedding."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

from ..support.arguments import at_least_zero, whole
from ..support.trees import widest
from .base import AbstractCell
from .composite import AbstractCompositeCell


class EmbeddedCell(AbstractCompositeCell):
    """A cell behind an embedding: `hidden' = cell(hidden, E[x])` for a symbol x, an integer from 0.

    The vectors are trained together with the cell, and have the dtype of its state. A symbol outside the range makes
    the state NaN.

    **Arguments:**

    - `symbols`: the number of different symbols, at least 1.
    - `cell`: the cell that reads the vectors; its input size must be `size`.
    - `size`: the size of a vector, at least 1.
    - `scale`: the vectors start uniform in ±scale; a finite number of at least 0.
    - `key`: the random key of the vectors.

    Raises `ValueError` if `cell` is not a cell of this library, or for numbers out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.EmbeddedCell(10, onward.LSTMCell(3, 2, key=jr.key(0)), size=3, key=jr.key(1))
        >>> cell(cell.init_hidden(), jnp.array(7)).hidden.shape
        (2,)
    """

    embedding: Float[Array, "symbols size"]
    cell: AbstractCell

    def __init__(self, symbols: int, cell: AbstractCell, *, size: int, key: PRNGKeyArray, scale: float = 0.1):
        if not isinstance(cell, AbstractCell):
            raise ValueError(f"cell must be an onward cell; wrap the {type(cell).__name__} in onward.AdaptedCell.")
        shape = whole("symbols", symbols), whole("size", size)
        scale = at_least_zero("scale", scale)
        state = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(cell.init_hidden))]
        dtype = widest(state) if state and jnp.issubdtype(widest(state), jnp.floating) else float
        self.embedding = jr.uniform(key, shape, dtype, minval=-scale, maxval=scale)
        self.cell = cell

    def knows(self, x: Integer[Array, "*steps"]) -> Bool[Array, "*steps"]:
        """Whether each symbol is in the range."""
        return (x >= 0) & (x < len(self.embedding))

    def embed(self, x: Integer[Array, "*steps"]) -> Float[Array, "*steps size"]:
        """The vector of each symbol; NaN if the symbol is out of range."""
        if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            raise ValueError(f"xs must be symbols, integers from 0, got {jnp.result_type(x)}.")
        return jnp.where(self.knows(x)[..., None], self.embedding[x], jnp.nan)

    def compose(self, hidden, x, run, each):
        return run(self.cell, hidden, self.embed(x))  # it embeds many symbols at once

    def init_hidden(self):
        return self.cell.init_hidden()

    def output(self, hidden):
        return self.cell.output(hidden)
