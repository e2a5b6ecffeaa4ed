"""Checks of arguments that several cells take."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp


def floating(dtype: Any) -> Any:
    """The dtype of a cell's weights; JAX's default float if `dtype` is `None`. Raises `ValueError` for a dtype that is
    not floating-point.
    """
    if dtype is None:
        return float
    try:
        good = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"dtype must be a real floating-point dtype, such as jax.numpy.float32, got {dtype!r}.")
    return dtype


def elementwise(activation: Any) -> Callable:
    """The activation. Raises `ValueError` unless it can be called."""
    if not callable(activation):
        raise ValueError(f"activation must be a function of one number, such as jax.numpy.tanh, got {activation!r}.")
    return activation
