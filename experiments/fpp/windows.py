"""Truncated backpropagation over windows that each begin at the start state, as a recurrent cell."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from onward.cells import AbstractCell
from onward.cells.rollout import rollout


class WindowState(NamedTuple):
    """The latest inputs, oldest first, and the inner cell's state after them."""

    inputs: Float[Array, "horizon inputs"]
    inner: PyTree


class FreshWindowCell(AbstractCell):
    """A cell that reads its latest `horizon` inputs again at every step, from the start state of `inner`.

    Nothing that is further back reaches its state. Backpropagation through one step of it goes back over the window.
    Before the first step all inputs were 0.
    """

    inner: AbstractCell
    horizon: int = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    def __call__(self, hidden, x):
        inputs = jnp.concatenate([hidden.inputs[1:], x[None]])
        states = rollout(self.inner, self.inner.init_hidden(), inputs)
        return WindowState(inputs, jax.tree.map(lambda leaf: leaf[-1], states))

    def init_hidden(self):
        return WindowState(jnp.zeros((self.horizon, self.inputs)), self.inner.init_hidden())

    def output(self, hidden):
        return self.inner.output(hidden.inner)
