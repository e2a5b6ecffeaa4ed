"""Unit-wise cells: every unit feeds back only on itself, so exact forward gradients are cheap."""

import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import whole
from .affine import AbstractAffineGatedCell, RowGroup

# Rows that see the input, and rows that see only the bias: one number per unit, such as its decay.
INPUT_ROWS = {"sees_hidden": False, "sees_input": True}
OWN_NUMBERS = {"sees_hidden": False, "sees_input": False}


class AbstractUnitWiseCell(AbstractAffineGatedCell):
    """An affine-gated cell in which no group of rows sees the hidden state: the gate alone feeds back.

    The next state of a unit depends only on the unit's own state and on the input. `∂hidden/∂θ` therefore holds one
    number per weight and state component of the weight's unit, and `onward.RTRL()` is exact with memory and time
    proportional to the number of weights.
    """

    def recurrent(self, hidden: PyTree[Float[Array, " units"]]) -> Float[Array, " units"]:
        """Zeros: no group of rows sees the state."""
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)


def input_rows(
    rows: int,
    input_size: int,
    hidden_size: int,
    *,
    deviation: float,
    dtype,
    key: PRNGKeyArray,
    bias: Array | float = 0.0,
) -> Float[Array, "_rows units _features"]:
    """Weights `[rows, units, inputs + 1]`: normal with this standard deviation, and the biases in the last column."""
    W = deviation * jr.normal(key, (rows, hidden_size, input_size), dtype)
    return jnp.concatenate([W, jnp.broadcast_to(jnp.asarray(bias, dtype), (rows, hidden_size))[..., None]], axis=-1)


def own_numbers(*rows: Float[Array, " units"]) -> Float[Array, "_rows units 1"]:
    """Weights `[rows, units, 1]` of rows that see only the bias."""
    return jnp.stack(rows)[..., None]


def check_sizes(input_size: int, hidden_size: int) -> tuple[int, int]:
    """Both sizes. Raises `ValueError` unless each is a whole number of at least 1."""
    return whole("input_size", input_size), whole("hidden_size", hidden_size)


def check_decays(decays: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest decay. Raises `ValueError` unless `0 <= least < largest <= 1`."""
    try:
        ends = np.asarray(decays)
    except ValueError:  # of ragged tuples
        ends = np.empty(0)
    if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not 0 <= ends[0] < ends[1] <= 1:
        raise ValueError(f"decays must be two numbers with 0 <= least < largest <= 1, got {decays!r}.")
    return float(ends[0]), float(ends[1])


def ring(decays: tuple[float, float], units: int, *, dtype, key: PRNGKeyArray) -> Float[Array, " units"]:
    """`ν = log(−log r)` for radii r that spread the eigenvalues evenly over the ring between the two decays."""
    least, largest = check_decays(decays)
    u = jr.uniform(key, (units,), dtype, minval=math.ulp(1.0))
    # Without the bounds, rounding could make r 0 or 1, and ν infinite.
    square = jnp.clip(u * (largest**2 - least**2) + least**2, 1e-6, 1 - 1e-6)
    return jnp.log(-0.5 * jnp.log(square))


def gate_biases(decays: tuple[float, float], units: int, *, dtype, key: PRNGKeyArray) -> Float[Array, " units"]:
    """Biases b such that `sigmoid(b)` is uniform between the two decays."""
    least, largest = check_decays(decays)
    decay = jnp.clip(jr.uniform(key, (units,), dtype, least, largest), 1e-6, 1 - 1e-6)
    return jnp.log(decay) - jnp.log1p(-decay)


def groups_of(inputs: int, own: int = 0) -> tuple[RowGroup, ...]:
    """The groups of a cell with `inputs` rows that see the input and `own` rows that see only the bias."""
    return (RowGroup(rows=inputs, **INPUT_ROWS), *([RowGroup(rows=own, **OWN_NUMBERS)] if own else []))
