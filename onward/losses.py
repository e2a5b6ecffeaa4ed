"""Losses of one step, `loss(prediction, y) -> scalar`, in nats where they are log-likelihoods."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


def softmax_cross_entropy(prediction: Float[Array, " classes"], y: Integer[Array, ""]) -> Float[Array, ""]:
    """`−log softmax(prediction)[y]`, in nats: `prediction` are logits, `y` the class, an integer from 0.

    A class that there is not gives NaN. Raises `ValueError` if `y` is no integer scalar.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.softmax_cross_entropy(jnp.zeros(2), jnp.array(1)).round(4)
    Array(0.6931, dtype=float32)
    """
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer) or jnp.shape(y) != ():
        raise ValueError(f"ys must be classes, integers from 0, got {jnp.result_type(y)} {jnp.shape(y)} a step.")
    shifted = prediction - jax.lax.stop_gradient(prediction.max())
    # A comparison, not an index: its gradient is dense arithmetic instead of a scatter.
    chosen = jnp.arange(prediction.shape[-1]) == y.astype(int)
    target = jnp.where((y >= 0) & (y < prediction.shape[-1]), jnp.sum(jnp.where(chosen, shifted, 0)), jnp.nan)
    return jnp.log(jnp.sum(jnp.exp(shifted))) - target


def sigmoid_cross_entropy(prediction: Float[Array, "*shape"], y: Array) -> Float[Array, ""]:
    """Sum of `−y log σ(p) − (1 − y) log(1 − σ(p))` over the outputs, in nats: logits against targets in [0, 1].

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.sigmoid_cross_entropy(jnp.zeros(2), jnp.ones(2)).round(4)
    Array(1.3863, dtype=float32)
    """
    y = y.astype(prediction.dtype)
    return jnp.sum(jax.nn.softplus(prediction) - y * prediction)


def squared_error(prediction: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, ""]:
    """`Σ (prediction − y)²` over the outputs.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.squared_error(jnp.zeros(2), jnp.ones(2))
    Array(2., dtype=float32)
    """
    return jnp.sum((prediction - y) ** 2)
