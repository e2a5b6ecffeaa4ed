"""The recurrent trace unit: each unit rotates and decays."""

import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._arguments import elementwise, floating
from .lru import MAX_PHASE, ComplexState, phases, rotated
from .unit_wise import AbstractUnitWiseCell, check_sizes, groups_of, input_rows, own_numbers, ring


class RTUCell(AbstractUnitWiseCell):
    """Recurrent trace unit (Elelimy et al. 2024, *Real-time recurrent learning using trace units in reinforcement
    learning*, section 3). Every unit has two real components, turned by an angle ϑ and shrunk by a radius r:

        h' = r R(ϑ) h + sqrt(1 − r²) ⊙ (W x + b),    r = exp(−exp(ν)),    ϑ = exp(φ).

    The linear unit applies its activation σ to its output, `σ([h₁, h₂])`. The nonlinear unit applies it inside the
    recurrence, `h' = σ(r R(ϑ) h + ...)`, and its output is `[h₁, h₂]`. Each unit has its own trainable ν and φ. The
    paper has no bias b; ours starts at 0.

    **Arguments:** `input_size`, `hidden_size`, `decays`, `max_phase`, `key` and `dtype` as for `LRUCell`; `activation`:
    σ, one number to one number; `nonlinear`: whether σ is inside the recurrence. W starts normal with variance
    `1/(2 inputs)`. Raises `ValueError` as `LRUCell` does.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.RTUCell(3, 2, nonlinear=True, key=jr.key(0))
        >>> cell.output(cell(cell.init_hidden(), jnp.ones(3))).shape
        (4,)
    """

    groups: ClassVar = groups_of(2, 2)
    activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = eqx.field(static=True)
    nonlinear: bool = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        activation: Callable[[Float[Array, "..."]], Float[Array, "..."]] = jax.nn.relu,
        nonlinear: bool = False,
        decays: tuple[float, float] = (0.0, 1.0),
        max_phase: float = MAX_PHASE,
        dtype=None,
    ):
        self.input_size, self.hidden_size = check_sizes(input_size, hidden_size)
        dtype = floating(dtype)
        W_key, nu_key, phase_key = jr.split(key, 3)
        deviation = 1 / math.sqrt(2 * self.input_size)
        W = input_rows(2, self.input_size, self.hidden_size, deviation=deviation, dtype=dtype, key=W_key)
        nu = ring(decays, self.hidden_size, dtype=dtype, key=nu_key)
        self.weights = W, own_numbers(nu, phases(max_phase, self.hidden_size, dtype=dtype, key=phase_key))
        self.activation, self.nonlinear = elementwise(activation), bool(nonlinear)

    @property
    def complex_rows(self):
        return not self.nonlinear, False

    def init_hidden(self) -> ComplexState:
        zeros = jnp.zeros(self.hidden_size, self.weights[0].dtype)
        return ComplexState(zeros, zeros)

    def gate(self, hidden, preactivations):
        (first, second), (nu, phi) = preactivations
        decay = -jnp.exp(nu)
        kept = rotated(hidden, jnp.exp(decay), jnp.exp(phi))
        scale = jnp.sqrt(-jnp.expm1(2 * decay))
        after = kept[0] + scale * first, kept[1] + scale * second
        return ComplexState(*map(self.activation, after)) if self.nonlinear else ComplexState(*after)

    def output(self, hidden):
        joined = jnp.concatenate(hidden)
        return joined if self.nonlinear else self.activation(joined)
