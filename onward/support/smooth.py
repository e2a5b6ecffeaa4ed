"""Functions with the right derivatives of every order at every point, also where JAX's own have a custom rule.

Inside a `lax.scan`, JAX uses a custom rule (`custom_jvp`) for the first derivative only. Higher derivatives are those
of the function's body. A body with `max`, `abs` or a square root of 0 then has wrong ones at single points: the second
derivative of `jax.nn.softplus` at 0 is 0 in a scan instead of 1/4. The functions here have no custom rule. At each
point they compute one formula that is smooth there.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def log_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(1 / (1 + exp(−x)))`, which neither overflows nor loses small numbers."""
    above = x >= 0
    # Each formula gets the numbers that it can take, so that no NaN of the other enters a derivative.
    of_above, of_below = jnp.where(above, x, 0), jnp.where(above, 0, x)
    return jnp.where(above, -jnp.log1p(jnp.exp(-of_above)), of_below - jnp.log1p(jnp.exp(of_below)))


def softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`log(1 + exp(x))`."""
    return -log_sigmoid(-x)


def root(squares: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root of a sum of squares. Its derivatives at 0 are 0; those of `jnp.sqrt` are infinite."""
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))
