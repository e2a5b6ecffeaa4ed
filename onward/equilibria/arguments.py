"""Checks of what is given that the equilibrium files share."""

import math

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree


def at_least_zero(name: str, value) -> float:
    """`value` as a float. Raises `ValueError`, naming it, unless it is a finite number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")
    return number


def check_finite(name: str, tree: PyTree) -> None:
    """Raises `ValueError`, naming it, if a number in a tree of floating-point arrays is known not to be finite."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, Tracer) and not np.all(np.isfinite(leaf)):
            bad = np.asarray(leaf)[~np.isfinite(leaf)]
            raise ValueError(f"{name} must be finite, got {bad[0]} for {bad.size} of {leaf.size} numbers.")
