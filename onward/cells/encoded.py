"""A cell that reads its inputs through a learned map."""

from collections.abc import Callable

from .base import AbstractCell
from .composite import AbstractCompositeCell


class EncodedCell(AbstractCompositeCell):
    """A cell behind a map: `hidden' = cell(hidden, encode(x))`. The map's arrays are trained together with the cell.

    Use it to bring the inputs to the width of a stack of `Block`s. For symbols, `onward.EmbeddedCell` is faster.

    **Arguments:** `encode`, a callable from an input to what the cell reads, such as an `eqx.nn.Linear`; `cell`, the
    cell. Raises `ValueError` if `encode` is not callable or `cell` is not a cell.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> lstm = onward.LSTMCell(4, 2, key=jr.key(0))
        >>> cell = onward.cells.EncodedCell(eqx.nn.Linear(3, 4, key=jr.key(1)), lstm)
        >>> cell.output(cell(cell.init_hidden(), jnp.ones(3))).shape
        (2,)
    """

    encode: Callable
    cell: AbstractCell

    def __init__(self, encode: Callable, cell: AbstractCell):
        if not callable(encode):
            raise ValueError(f"encode must be callable, from an input to what the cell reads, got {encode!r}.")
        if not isinstance(cell, AbstractCell):
            raise ValueError(f"cell must be an onward cell; wrap the {type(cell).__name__} in onward.AdaptedCell.")
        self.encode, self.cell = encode, cell

    def compose(self, hidden, x, run, each):
        return run(self.cell, hidden, each(self.encode)(x))

    def init_hidden(self):
        return self.cell.init_hidden()

    def output(self, hidden):
        return self.cell.output(hidden)
