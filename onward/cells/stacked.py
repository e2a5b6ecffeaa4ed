"""A stack of cells: at each time step, each cell reads the output of the cell below."""

from collections.abc import Sequence

from .base import AbstractCell
from .composite import AbstractCompositeCell


class StackedCell(AbstractCompositeCell):
    """Layers of cells: `h^l' = f^l(h^l, output^(l−1)(h^(l−1)'))`. The first layer reads the input.

    These are equations (39)–(42) of Ollivier, Tallec & Charpiat. The hidden state is the tuple of the layers' states;
    the output is the top layer's.

    **Arguments:** `layers`, one or more cells from bottom to top. Raises `ValueError` if there is none, or one that is
    not an onward cell.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> bottom = onward.LSTMCell(3, 4, key=jr.key(0))
        >>> top = onward.GRUCell(4, 2, key=jr.key(1))
        >>> cell = onward.StackedCell([bottom, top])
        >>> cell.output(cell(cell.init_hidden(), jnp.ones(3))).shape
        (2,)
    """

    layers: tuple[AbstractCell, ...]

    def __init__(self, layers: Sequence[AbstractCell]):
        if isinstance(layers, AbstractCell) or not layers:
            raise ValueError("layers must be a sequence of at least one cell, such as [bottom, top].")
        for layer in layers:
            if not isinstance(layer, AbstractCell):
                raise ValueError(f"layers must be onward cells; wrap the {type(layer).__name__} in onward.AdaptedCell.")
        self.layers = tuple(layers)

    def compose(self, hidden, x, run, each):
        states = []
        for layer, state in zip(self.layers, hidden, strict=True):
            states.append(run(layer, state, x))
            x = each(layer.output)(states[-1])
        return tuple(states)

    def init_hidden(self):
        return tuple(layer.init_hidden() for layer in self.layers)

    def output(self, hidden):
        return self.layers[-1].output(hidden[-1])
