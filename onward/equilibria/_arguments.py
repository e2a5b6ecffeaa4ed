"""Checks of arguments that the modules of this package share."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .jacobian import describe


def check_state(state: PyTree) -> None:
    """Raises `ValueError` unless `state` is a tree of floating-point arrays, with at least one number."""
    leaves = jax.tree.leaves(state)
    if not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise ValueError(f"state must be floating-point arrays, got {describe(state)}.")
    if not sum(jnp.size(leaf) for leaf in leaves):
        raise ValueError(f"state must hold at least one number, got {describe(state)}.")


def check_finite(name: str, tree: PyTree) -> None:
    """Raises `ValueError` with the argument's name if a floating-point number in a tree is known not to be finite."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, Tracer) and not np.all(np.isfinite(leaf)):
            bad = np.asarray(leaf)[~np.isfinite(leaf)]
            raise ValueError(f"{name} must be finite, got {bad[0]} for {bad.size} of {leaf.size} numbers.")
