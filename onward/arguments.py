"""Checks of single settings, shared by cells, estimators and the learner."""

import operator


def whole(name: str, value, least: int = 1) -> int:
    """`value` as an integer. Raises `ValueError`, naming it, unless it is one of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return number
