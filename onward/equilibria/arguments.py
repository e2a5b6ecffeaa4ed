"""A check of settings that the equilibrium files share."""

import math


def at_least_zero(name: str, value) -> float:
    """`value` as a float. Raises `ValueError`, naming it, unless it is a finite number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")
    return number
