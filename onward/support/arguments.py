"""Checks of single arguments, shared by cells, estimators, the learner and the command line."""

import difflib
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def whole(name: str, value, least: int = 1) -> int:
    """`value` as an integer. Raises `ValueError`, naming the argument, unless it is an integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return number


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """The error for an unknown name; it suggests the most similar of the known ones."""
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? Choose from" if near else "choose from"
    return f"unknown {kind} {name!r}; {guess} {', '.join(known)}."


def number(name: str, value, holds: Callable[[float], bool], wanted: str) -> float:
    """`value` as a float. Raises `ValueError`, naming the argument, unless it is one number for which `holds` is true.
    `wanted` describes that condition.
    """
    try:
        good = not isinstance(value, (bool, str, bytes)) and np.ndim(value) == 0 and holds(float(value))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
    return float(value)


def unless_traced(check: Callable[[str, Any], Any], name: str, value) -> None:
    """`check(name, value)`, but a traced value, such as a setting in a sweep, passes unchecked."""
    from jax.core import Tracer  # imported only here, because the command line's help must not wait for JAX

    if not isinstance(value, Tracer):
        check(name, value)


def at_least_zero(name: str, value) -> float:
    """`value` as a float. Raises `ValueError`, naming the argument, unless it is a finite number of at least 0."""
    return number(name, value, lambda v: 0 <= v < math.inf, "a finite number of at least 0")


def above_zero(name: str, value) -> float:
    """`value` as a float. Raises `ValueError`, naming the argument, unless it is a finite number above 0."""
    return number(name, value, lambda v: 0 < v < math.inf, "a finite number above 0")
