"""An Equinox cell, or a callable of your own, used as a cell of this library."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .base import AbstractCell

# An argument is the state if its name contains one of these words, such as `hidden`, `prev_state` or `h_t`.
STATE_WORDS = {"h", "hx", "hidden", "hiddens", "state", "states", "carry"}


class AdaptedCell(AbstractCell):
    """Wraps a cell written elsewhere: `eqx.nn.GRUCell`, `eqx.nn.LSTMCell`, a similar module, or a function.

    Equinox calls a cell as `step(x, hidden)`; JAX's scan and this library call it as `step(hidden, x)`. Both orders
    work. The order is read from the names of the two arguments: the state is the one called `h`, `hx`, `hidden`,
    `state` or `carry`, or whose name contains such a word. If both names or neither look like a state, pass
    `input_first`.

    **Arguments:**

    - `step`: an Equinox recurrent cell, or any callable that takes a state and an input and returns the next state.
      Prefer an `eqx.Module`: its inexact arrays are the parameters that are trained.
    - `hidden`: an example of the state (a pytree of arrays). It fixes the structure, shapes and dtypes of the state;
      every sequence starts from zeros of that form. You may leave it out for Equinox's cells, whose state has the dtype
      of their weights.
    - `output`: a function from the state to what the readout sees. By default the readout sees the whole state, or the
      first part of it for `eqx.nn.LSTMCell`.
    - `input_first`: true for `step(x, hidden)`, false for `step(hidden, x)`, and `None` to read the order from the
      names.

    Raises `ValueError` if the arguments' names do not show which one is the state and `input_first` is not given; if
    `step` does not take two arguments; or if `hidden` is missing for a cell that is not Equinox's.

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
        if self.template is None:  # the weights of an Equinox cell may have been cast after it was built
            step: Any = self.step
            zeros = jnp.zeros(step.hidden_size, step.weight_hh.dtype)
            return (zeros, zeros) if isinstance(step, eqx.nn.LSTMCell) else zeros
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.template)

    def output(self, hidden):
        return self.read(hidden)


def _input_first(step: Callable) -> bool:
    """Whether the input is the first of the step's two arguments, according to their names."""
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
