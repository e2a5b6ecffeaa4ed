"""Checks of single settings, shared by cells, estimators, the learner and the command line."""

import difflib
import operator
from collections.abc import Sequence


def whole(name: str, value, least: int = 1) -> int:
    """`value` as an integer. Raises `ValueError`, naming it, unless it is one of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    return number


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not known: the nearest of those that are."""
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? Known are" if near else "known are"
    return f"there is no {kind} {name!r}; {guess} {', '.join(known)}."
