"""The leaky recurrent cell: each unit feeds back directly on itself, which makes its memory longer."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import number
from ._activated import AbstractActivatedCell
from ._arguments import elementwise, floating
from .affine import RowGroup, draw_weights


class LeakyCell(AbstractActivatedCell):
    """Leaky cell, `h' = α ⊙ h + W [σ(h), x, 1]`, with a fixed `α` in [0, 1] for each unit; its output is `σ(h)`.

    This is equation (37) of Ollivier, Tallec & Charpiat, *Training recurrent networks online without backtracking*. The
    leak α is drawn once, uniformly in [0, 1], and is not trained; `onward.cells.LearnedLeakCell` trains it. With
    `preactivation_state=False` the cell is the usual leaky integrator of activations,
    `h' = α ⊙ h + (1 − α) ⊙ σ(W [h, x, 1])`, and its output is `h`.

    The cell is a step of length 1 of a continuous system, equation (47). With a `time_step` δt below 1 it is a step of
    length δt:

        h' = h + δt F(h, x),    F(h, x) = (α − 1) ⊙ h + W [σ(h), x, 1]    (or (1 − α) ⊙ (σ(W [h, x, 1]) − h)).

    **Arguments:** as `onward.VanillaCell`, and

    - `time_step`: δt, above 0 and at most 1.

    Raises `ValueError` for a time step out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.LeakyCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    leak: Float[Array, " units"]
    activation: Callable = eqx.field(static=True)
    preactivation_state: bool = eqx.field(static=True)
    time_step: float = eqx.field(static=True)
    groups: ClassVar = (RowGroup(rows=1),)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        activation: Callable = jax.nn.tanh,
        preactivation_state: bool = True,
        time_step: float = 1.0,
        scale: float = 1.0,
        dtype=None,
    ):
        self.time_step = number("time_step", time_step, lambda dt: 0 < dt <= 1, "above 0 and at most 1")
        dtype, (weights_key, leak_key) = floating(dtype), jr.split(key)
        self.weights = draw_weights(self.groups, input_size, hidden_size, scale=scale, dtype=dtype, key=weights_key)
        self.leak = jr.uniform(leak_key, (hidden_size,), dtype)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.activation, self.preactivation_state = elementwise(activation), preactivation_state

    def gate(self, hidden, preactivations):
        u = preactivations[0][0]
        leak, dt = jax.lax.stop_gradient(self.leak), self.time_step
        kept = leak + (1 - dt) * (1 - leak)
        if self.preactivation_state:
            return kept * hidden + dt * u
        return kept * hidden + dt * (1 - leak) * self.activation(u)
