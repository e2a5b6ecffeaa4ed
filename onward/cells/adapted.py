"""Any Equinox cell, or any callable of one's own, as a cell of this library."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .base import AbstractCell

# An argument with one of these words in its name is the state: `hidden`, `prev_state`, `h_t`.
STATE_WORDS = {"h", "hx", "hidden", "hiddens", "state", "states", "carry"}


class AdaptedCell(AbstractCell):
    """Wraps a cell written elsewhere: `eqx.nn.GRUCell`, `eqx.nn.LSTMCell`, a module in their manner, or a function.

    Equinox calls a cell as `step(x, hidden)`, JAX's scan and this library as `step(hidden, x)`. Both are taken. Which
    one it is, the names of the two arguments say, if exactly one of them is called `h`, `hx`, `hidden`, `state` or
    `carry`, or has that as a word of its name. Otherwise you say it, by `input_first`.

    **Arguments:**

    - `step`: an Equinox recurrent cell, or any callable of a state and an input, best an `eqx.Module`. It returns the
      next state. Its inexact arrays are what is learned.
    - `hidden`: an example of the state (a pytree of arrays), which gives structure, shapes and dtypes; sequences start
      from zeros of that kind. May be left out for Equinox's cells, whose state has the dtype of their weights.
    - `output`: what the readout sees of the state. By default the whole state, or for `eqx.nn.LSTMCell` its first part.
    - `input_first`: true for `step(x, hidden)`, false for `step(hidden, x)`; `None` to go by the names.

    Raises `ValueError` if the names do not tell the state from the input and `input_first` is not given, if `step`
    cannot be called with two arguments, or if `hidden` is missing for a cell that is not Equinox's.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.AdaptedCell(eqx.nn.GRUCell(3, 2, key=jr.key(0)))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
        >>> own = onward.AdaptedCell(lambda h, x: jnp.tanh(h + x), hidden=jnp.zeros(2))
        >>> own(own.init_hidden(), jnp.zeros(2))
        Array([0., 0.], dtype=float32)
    """

    step: Callable
    template: PyTree[jax.ShapeDtypeStruct] | None = eqx.field(static=True)
    read: Callable = eqx.field(static=True)
    input_first: bool = eqx.field(static=True)

    def __init__(
        self,
        step: Callable,
        *,
        hidden: PyTree | None = None,
        output: Callable[[PyTree], PyTree] | None = None,
        input_first: bool | None = None,
    ):
        if hidden is None and not isinstance(step, eqx.nn.GRUCell | eqx.nn.LSTMCell):
            raise ValueError(f"hidden must be given for a cell of your own ({step!r}): an example of its state.")
        self.step = step
        self.input_first = _input_first(step) if input_first is None else bool(input_first)
        self.template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), hidden)
        self.read = output or (_first if isinstance(step, eqx.nn.LSTMCell) else _whole)

    def __call__(self, hidden, x):
        return self.step(x, hidden) if self.input_first else self.step(hidden, x)

    def init_hidden(self):
        if self.template is None:  # of Equinox's cells: the weights may have been cast since the cell was built
            step: Any = self.step
            zeros = jnp.zeros(step.hidden_size, step.weight_hh.dtype)
            return (zeros, zeros) if isinstance(step, eqx.nn.LSTMCell) else zeros
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.template)

    def output(self, hidden):
        return self.read(hidden)


def _input_first(step: Callable) -> bool:
    """Whether the input is the first of the step's two arguments, by their names."""
    say = "say input_first=True for step(x, hidden), input_first=False for step(hidden, x)."
    try:
        signature = inspect.signature(step)
    except (TypeError, ValueError):
        raise ValueError(f"the arguments of step ({step!r}) have no names that tell its state: {say}") from None
    try:
        names = list(signature.bind(None, None).arguments)
    except TypeError as error:
        raise ValueError(f"step must take two arguments, its state and an input, got {signature}: {error}.") from None
    is_state = [bool(STATE_WORDS & set(name.lower().split("_"))) for name in names]
    if is_state not in ([True, False], [False, True]):
        raise ValueError(f"the arguments of step, {signature}, do not say which one is its state: {say}")
    return is_state[1]


def _first(hidden):
    return hidden[0]


def _whole(hidden):
    return hidden
