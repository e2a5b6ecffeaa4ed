"""The linear recurrent unit: a complex decay for each unit."""

import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import number
from ._arguments import floating
from .cpu_tuning import cosine_and_sine
from .unit_wise import AbstractUnitWiseCell, check_sizes, groups_of, input_rows, own_numbers, ring

MAX_PHASE = 2 * math.pi


class ComplexState(NamedTuple):
    """A complex number for each unit, held as two real arrays."""

    real: Float[Array, " units"]
    imaginary: Float[Array, " units"]


def rotated(hidden: ComplexState, radius: Array, angle: Array) -> tuple[Array, Array]:
    """`radius e^{i angle} h`, as its real and its imaginary part."""
    cosine, sine = (radius * part for part in cosine_and_sine(angle))
    return cosine * hidden.real - sine * hidden.imaginary, sine * hidden.real + cosine * hidden.imaginary


def phases(largest: float, units: int, *, dtype, key: PRNGKeyArray) -> Float[Array, " units"]:
    """`log ϑ` for angles uniform between 0 and `largest`. Raises `ValueError` unless `largest` is in (0, 2π]."""
    largest = number("max_phase", largest, lambda phase: 0 < phase <= MAX_PHASE, "above 0 and at most 2π")
    return jnp.log(largest * jr.uniform(key, (units,), dtype, minval=1e-6))


class LRUCell(AbstractUnitWiseCell):
    """Linear recurrent unit (Orvieto et al. 2023, *Resurrecting recurrent neural networks for long sequences*,
    equations (1), (6) and (7)). Every unit is a complex number:

        h' = λ ⊙ h + exp(γ) ⊙ (B x + b),    λ = exp(−exp(ν) + i exp(φ)).

    The state is stored as two real arrays. `output` joins them, `[Re h, Im h]`, so that a linear readout is the paper's
    `Re(C h)`. Each unit has its own trainable ν, φ and γ. The paper has no bias b; it starts at 0.

    **Arguments:**

    - `input_size`, `hidden_size`: the numbers of inputs and of units, at least 1.
    - `decays`: the least and the largest `|λ|` at the start, within [0, 1]. The eigenvalues lie evenly on the ring
      between them (Lemma 3.2). A memory of T steps needs decays near `1 − 1/T`.
    - `max_phase`: the largest angle at the start, above 0 and at most 2π; small angles suit long memories.
    - `key`: the random key of the weights.
    - `dtype`: the dtype of the weights; float32 unless 64 bits are enabled.

    The real and the imaginary part of B start normal with variance `1/(2 inputs)`, and `exp(γ) = sqrt(1 − |λ|²)`.
    Raises `ValueError` for a size below 1, or decays or a phase out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.cells.LRUCell(3, 2, decays=(0.9, 0.999), key=jr.key(0))
        >>> cell.output(cell(cell.init_hidden(), jnp.ones(3))).shape
        (4,)
    """

    groups: ClassVar = groups_of(2, 3)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        decays: tuple[float, float] = (0.0, 1.0),
        max_phase: float = MAX_PHASE,
        dtype=None,
    ):
        self.input_size, self.hidden_size = check_sizes(input_size, hidden_size)
        dtype = floating(dtype)
        B_key, nu_key, phase_key = jr.split(key, 3)
        deviation = 1 / math.sqrt(2 * self.input_size)
        B = input_rows(2, self.input_size, self.hidden_size, deviation=deviation, dtype=dtype, key=B_key)
        nu = ring(decays, self.hidden_size, dtype=dtype, key=nu_key)
        phi = phases(max_phase, self.hidden_size, dtype=dtype, key=phase_key)
        gamma = 0.5 * jnp.log1p(-jnp.exp(-2 * jnp.exp(nu)))
        self.weights = B, own_numbers(nu, phi, gamma)

    @property
    def complex_rows(self):
        return True, False

    def init_hidden(self) -> ComplexState:
        zeros = jnp.zeros(self.hidden_size, self.weights[0].dtype)
        return ComplexState(zeros, zeros)

    def gate(self, hidden, preactivations):
        (real, imaginary), (nu, phi, gamma) = preactivations
        kept = rotated(hidden, jnp.exp(-jnp.exp(nu)), jnp.exp(phi))
        return ComplexState(kept[0] + jnp.exp(gamma) * real, kept[1] + jnp.exp(gamma) * imaginary)

    def output(self, hidden):
        return jnp.concatenate(hidden)
