"""Double precision inside a single-precision program: a number is carried as its bits.

Single precision has steps of 65,536 near 10¹², so smaller changes would be lost. Only three values need double
precision: the level of a target, the earlier targets from which changes are measured, and times.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32


def to_bits(numbers) -> np.ndarray:
    """The bits of numbers in double precision, `[..., 2]`.

    >>> from_bits(to_bits([1e12, 0.1])).tolist()
    [1000000000000.0, 0.1]
    """
    numbers = np.asarray(numbers, np.float64)
    return np.ascontiguousarray(numbers.reshape(-1)).view(np.uint32).reshape(*numbers.shape, 2)


def from_bits(bits) -> np.ndarray:
    """The float64 numbers with these bits."""
    bits = np.asarray(bits, np.uint32)
    return np.ascontiguousarray(bits.reshape(-1)).view(np.float64).reshape(bits.shape[:-1])


def difference(left: UInt32[Array, "2"], right: UInt32[Array, "2"]) -> Float[Array, ""]:
    """`left − right`, subtracted in double precision and returned in single precision.

    >>> difference(jnp.asarray(to_bits(1e12 + 0.5)), jnp.asarray(to_bits(1e12))).item()
    0.5
    """
    with jax.enable_x64(True):
        return jax.lax.convert_element_type(_double(left) - _double(right), jnp.float32)


def moved(start: UInt32[Array, "2"], change: Float[Array, ""]) -> UInt32[Array, "2"]:
    """The bits of `start + change`, added in double precision.

    >>> from_bits(moved(jnp.asarray(to_bits(1e12)), jnp.float32(0.5))).item() - 1e12
    0.5
    """
    with jax.enable_x64(True):
        total = _double(start) + jax.lax.convert_element_type(change, jnp.float64)
        return jax.lax.bitcast_convert_type(total, jnp.uint32)


def _double(bits):
    return jax.lax.bitcast_convert_type(bits, jnp.float64)
