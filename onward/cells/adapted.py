"""Any Equinox cell, or any callable of one's own, as a cell of this library."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .base import AbstractCell


class AdaptedCell(AbstractCell):
    """Wraps a cell written elsewhere: `eqx.nn.GRUCell`, `eqx.nn.LSTMCell`, or your own `step(hidden, x) -> hidden`.

    **Arguments:**

    - `step`: an Equinox recurrent cell (called as `step(x, hidden)`, Equinox's order), or any callable, best an
      `eqx.Module`, called as `step(hidden, x)`. Its inexact arrays are what is learned.
    - `hidden`: for a callable of your own, a state (a pytree of arrays) that gives structure, shapes and dtypes;
      sequences start from zeros of that kind. Not needed for Equinox's cells.
    - `output`: what the readout sees of the state. By default the whole state, or for `eqx.nn.LSTMCell` its first part.

    Raises `ValueError` if `step` is a callable of your own and `hidden` is missing.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.AdaptedCell(eqx.nn.GRUCell(3, 2, key=jr.key(0)))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
        >>> own = onward.AdaptedCell(lambda h, x: jnp.tanh(h + x), hidden=jnp.zeros(2))
        >>> own(own.init_hidden(), jnp.zeros(2))
        Array([0., 0.], dtype=float32)
    """

    step: Callable
    template: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    read: Callable = eqx.field(static=True)
    input_first: bool = eqx.field(static=True)

    def __init__(
        self, step: Callable, *, hidden: PyTree | None = None, output: Callable[[PyTree], PyTree] | None = None
    ):
        self.input_first = isinstance(step, eqx.nn.GRUCell | eqx.nn.LSTMCell)
        if isinstance(step, eqx.nn.GRUCell | eqx.nn.LSTMCell) and hidden is None:
            state = jax.ShapeDtypeStruct((step.hidden_size,), step.weight_hh.dtype)
            hidden = (state, state) if isinstance(step, eqx.nn.LSTMCell) else state
        if hidden is None:
            raise ValueError(f"hidden must be given for a cell of your own ({step!r}): an example of its state.")
        self.step = step
        self.template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), hidden)
        self.read = output or (_first if isinstance(step, eqx.nn.LSTMCell) else _whole)

    def __call__(self, hidden, x):
        return self.step(x, hidden) if self.input_first else self.step(hidden, x)

    def init_hidden(self):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.template)

    def output(self, hidden):
        return self.read(hidden)


def _first(hidden):
    return hidden[0]


def _whole(hidden):
    return hidden
